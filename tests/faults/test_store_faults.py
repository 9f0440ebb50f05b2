"""What befalls a database, under a load of real processes: nothing is lost, no end counts twice, and all goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.brokers import eventually
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.mongo_set import failing
from tests.faults.kit.record import Recorder
from tests.faults.kit.trial import Bite, suffer
from tests.servers import MongoServer

pytestmark = pytest.mark.long

OUTAGE = 3.0
FROZEN = 8.0
"""Longer than an operation may take."""
WRITES = ("insert", "update", "findAndModify", "delete")
TIMES = 60

Fault = Callable[[Fleet, MongoServer], Awaitable[str]]


async def killed(fleet: Fleet, mongo: MongoServer) -> str:
    """kill -9 and a restart"""
    mongo.kill()
    await fleet.until(lambda: troubled(fleet) == len(fleet.processes), "all processes to miss it")
    await asyncio.sleep(OUTAGE)
    await mongo.restart()
    return f"all {len(fleet.processes)} processes missed it"


async def frozen(fleet: Fleet, mongo: MongoServer) -> str:
    """SIGSTOP for 8 s"""
    mongo.freeze()
    begun = fleet.now()
    await asyncio.sleep(FROZEN)
    ended = fleet.now()
    mongo.thaw()
    # What was claimed before may begin at first.
    assert not [line for line in fleet.ledger.lines("start") if begun + FROZEN / 4 < line.at < ended]
    return f"no run began for {0.75 * FROZEN:g} s"


def replies(name: str, **how: Any) -> Fault:
    async def fault(fleet: Fleet, mongo: MongoServer) -> str:
        async with failing(mongo, WRITES, TIMES, **how) as failed:

            async def enough() -> bool:
                return await failed() >= TIMES  # those that come at once may be one more

            await eventually(enough, True)
            return f"the server says that {await failed()} writes were answered so"

    fault.__name__, fault.__doc__ = name.replace(" ", "_"), name
    return fault


FAULTS = [
    killed,
    frozen,
    replies("write concern timeout, the write done", writeConcernError={"code": 64, "errmsg": "timed out"}),
    replies("interrupted by a step-down", errorCode=11602),
    replies("connection closed instead of an answer", closeConnection=True),
    replies("each write a second late", blockConnection=True, blockTimeMS=1000),
]


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.__name__) for fault in FAULTS])
async def test_a_fault_of_the_database_loses_nothing_and_accepts_no_end_twice(
    fleet: Fleet, record: Recorder, mongo_server: MongoServer, fault: Fault
) -> None:
    await suffer(fleet, record, "Database", fault.__doc__ or "", bitten(fault, mongo_server))


def troubled(fleet: Fleet) -> int:
    """How many processes have noticed that the database does not answer."""
    names = ("store.unavailable", "duty.postponed", "heartbeat.failed")
    return sum(any(process.events(name) for name in names) for process in fleet.processes)


def bitten(fault: Fault, mongo: MongoServer) -> Callable[[Fleet], Awaitable[Bite]]:
    async def suffered(fleet: Fleet) -> Bite:
        return Bite(await fault(fleet, mongo))

    return suffered
