"""What befalls a replica set of three, under a load of real processes: nothing is lost, no end counts twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from service.errors import StoreUnavailable
from tests.conftest import DatabaseClient
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.load import PATIENCE
from tests.faults.kit.mongo_set import MongoNode, MongoSet, ask
from tests.faults.kit.record import Recorder
from tests.faults.kit.trial import Bite, suffer
from tests.servers import server_data

pytestmark = pytest.mark.long

FROZEN = 7.0
"""Longer than an operation may take, shorter than what a primary that hears of nobody waits before it steps down."""

APART = 20.0
"""Longer than a member that hears of no primary waits before it would be one."""

Fault = Callable[[Fleet, MongoSet], Awaitable[Bite]]


@pytest.fixture(scope="module")
def members() -> Iterator[MongoSet]:
    with server_data() as folder:
        made = MongoSet(Path(folder) / "set")
        yield made
        made.stop()


@pytest.fixture
async def mongo_server(members: MongoSet) -> AsyncIterator[MongoSet]:
    """Takes the place of the lone server."""
    await members.ready()
    yield members
    await members.heal()


@pytest.fixture
def database_client(mongo_server: MongoSet) -> Iterator[DatabaseClient]:
    with DatabaseClient(mongo_server.url) as client:
        yield client


async def primary_killed(fleet: Fleet, members: MongoSet) -> Bite:
    """primary of three killed with -9, later restarted"""
    primary = await members.primary()
    begun = fleet.now()
    primary.kill()
    successor = await members.primary()
    took = await resumed(fleet, begun)
    await primary.restart()
    await members.healthy()
    return Bite(f"port {primary.port} was primary, port {successor.port} became it before the restart", took)


async def stepped_down(fleet: Fleet, members: MongoSet) -> Bite:
    """step-down of the primary of three"""
    begun = fleet.now()
    deposed, successor = await members.step_down()
    return Bite(f"port {deposed.port} was primary, port {successor.port} became it", await resumed(fleet, begun))


async def primary_frozen(fleet: Fleet, members: MongoSet) -> Bite:
    """primary of three stopped with SIGSTOP until there is another, then continued"""
    primary = await members.primary()
    begun = fleet.now()
    primary.freeze()
    successor = await members.primary()
    took = await resumed(fleet, begun)
    primary.thaw()
    await members.healthy()
    return Bite(
        f"port {primary.port} was primary, port {successor.port} became it; the old one woke and gave way", took
    )


async def majority_frozen(fleet: Fleet, members: MongoSet) -> Bite:
    """both secondaries of three stopped with SIGSTOP for 7 s: no write reaches a majority"""
    _, others = await primary_and_others(members)
    for node in others:
        node.freeze()
    await asyncio.sleep(FROZEN)
    for node in others:
        node.thaw()
    await members.healthy()
    await resumed(fleet, fleet.now())
    begun = [line.at for line in fleet.ledger.lines("start")]
    idle = max(later - earlier for earlier, later in pairwise(begun))
    assert idle > FROZEN / 2, "runs began although no majority could have their claims"
    return Bite(f"no run began for {idle:.1f} s")


async def primary_cut_off(fleet: Fleet, members: MongoSet) -> Bite:
    """primary of three and the two others do not hear each other, while clients reach all"""
    primary, others = await primary_and_others(members)
    for other in others:
        members.links.cut(other, primary)
        members.links.cut(primary, other)
    return await usurped(fleet, members, primary, in_vain=True)


async def primary_mute(fleet: Fleet, members: MongoSet) -> Bite:
    """primary of three hears the two others, which do not hear it, while clients reach all"""
    primary, others = await primary_and_others(members)
    for other in others:
        members.links.cut(primary, other)
    return await usurped(fleet, members, primary, in_vain=True)


async def primary_deaf(fleet: Fleet, members: MongoSet) -> Bite:
    """primary of three does not hear the two others, which hear it, while clients reach all"""
    primary, others = await primary_and_others(members)
    for other in others:
        members.links.cut(other, primary)
    # They follow its writes, which it cannot know: it confirms none.
    return await usurped(fleet, members, primary, in_vain=False)


async def primary_and_others(members: MongoSet) -> tuple[MongoNode, list[MongoNode]]:
    primary = await members.primary()
    return primary, [node for node in members.nodes if node is not primary]


async def usurped(fleet: Fleet, members: MongoSet, primary: MongoNode, *, in_vain: bool) -> Bite:
    """The old primary goes on to take writes until it notices: in vain, if they reached nobody."""
    begun, before = fleet.now(), primary.undone()
    async with asyncio.timeout(PATIENCE):
        while (successor := await members.primary()) is primary:
            await asyncio.sleep(0.1)
    assert primary.alive
    took = await resumed(fleet, begun)
    members.links.mend()
    await members.healthy()
    bite = f"port {primary.port} was primary, port {successor.port} became it while both lived"
    if in_vain:
        async with asyncio.timeout(PATIENCE):
            while primary.undone() == before:
                await asyncio.sleep(0.1)
        bite += f"; {primary.undone() - before} documents of the old one were undone"
    return Bite(bite, took)


async def two_of_three_apart(fleet: Fleet, members: MongoSet) -> Bite:
    """primary and one of the others do not hear each other for 20 s, the third hears both"""
    primary, (apart, _) = await primary_and_others(members)
    members.links.cut(primary, apart)
    members.links.cut(apart, primary)
    await asyncio.sleep(APART)
    status = await ask(apart, "replSetGetStatus") or {}
    [seen] = [member["health"] for member in status["members"] if member["name"] == members.address(primary)]
    assert seen == 0, "it still hears the primary"
    members.links.mend()
    await members.healthy()
    await resumed(fleet, fleet.now())
    return Bite(f"neither heard the other; the set was in term {status['term']} by then")


@pytest.mark.parametrize(
    "fault",
    [
        primary_killed,
        stepped_down,
        primary_frozen,
        majority_frozen,
        primary_cut_off,
        primary_mute,
        primary_deaf,
        two_of_three_apart,
    ],
)
async def test_a_fault_of_a_replica_set_loses_nothing_and_accepts_no_end_twice(
    fleet: Fleet, record: Recorder, mongo_server: MongoSet, fault: Fault
) -> None:
    async def suffered(fleet: Fleet) -> Bite:
        return await fault(fleet, mongo_server)

    await suffer(fleet, record, "Database", fault.__doc__ or "", suffered)


async def resumed(fleet: Fleet, begun: float) -> float:
    """Until a task that is enqueued from now on has run; seconds since the fault."""
    while True:
        try:
            ids = await fleet.enqueue(1)
        except StoreUnavailable:
            continue
        await fleet.ended(ids, PATIENCE)
        return fleet.now() - begun
