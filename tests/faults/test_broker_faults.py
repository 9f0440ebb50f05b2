"""What befalls a broker, under a load of real processes: nothing is lost, nothing runs twice, and all goes on."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.brokers import foreign
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.record import Recorder
from tests.faults.kit.trial import Bite, ran_once, suffer
from tests.promises.installation import PATIENT
from tests.servers import RabbitServer

OUTAGE = 3.0
FROZEN = 12.0
"""Longer than a publisher waits for a confirm."""
BURST = 300
"""More than the workers take in at once."""


async def killed(fleet: Fleet, rabbit: RabbitServer) -> str:
    """kill -9 and a restart"""
    rabbit.kill()
    bite = await connections_lost(fleet)
    await asyncio.sleep(OUTAGE)
    await rabbit.restart()
    return bite


async def stopped(fleet: Fleet, rabbit: RabbitServer) -> str:
    """`stop_app` and `start_app`"""
    await rabbit.ctl("stop_app")
    bite = await connections_lost(fleet)
    await rabbit.ctl("start_app")
    return bite


async def connections_closed(fleet: Fleet, rabbit: RabbitServer) -> str:
    """all connections closed by the server"""
    await rabbit.ctl("close_all_connections", "maintenance")
    return await connections_lost(fleet)


async def frozen(fleet: Fleet, rabbit: RabbitServer) -> str:
    """SIGSTOP for 12 s"""
    rabbit.freeze()
    await asyncio.sleep(FROZEN)
    rabbit.thaw()

    def waited() -> int:
        return sum(len(process.events("fire.too_late")) for process in fleet.processes) + refused(fleet)

    await fleet.until(lambda: waited() > 0, "a publish without an answer")
    return f"{waited()} publishes of the scheduler got no answer"


async def out_of_memory(fleet: Fleet, rabbit: RabbitServer) -> str:
    """memory alarm"""
    await rabbit.ctl("set_vm_memory_high_watermark", "0")
    try:
        return await publishers_blocked(fleet)
    finally:
        await rabbit.ctl("set_vm_memory_high_watermark", "0.4")


async def out_of_disk(fleet: Fleet, rabbit: RabbitServer) -> str:
    """disk alarm"""
    await rabbit.ctl("set_disk_free_limit", "1000000GB")
    try:
        return await publishers_blocked(fleet)
    finally:
        await rabbit.ctl("set_disk_free_limit", "50MB")


async def full(fleet: Fleet, rabbit: RabbitServer) -> str:
    """full queue: publishes are nacked"""
    queue = fleet.names.queue("fault.work").replace(".", "[.]")
    await fleet.enqueue(2 * BURST, 1)
    await rabbit.ctl("set_policy", "full", f"^{queue}$", json.dumps({"max-length": 1}), "--apply-to", "queues")
    try:
        await fleet.until(lambda: refused(fleet, "refused by the queue") > 0, "a fire to be refused")
    finally:
        await rabbit.ctl("clear_policy", "full")
    return f"the queue refused {refused(fleet, 'refused by the queue')} messages of the scheduler"


async def queue_deleted(fleet: Fleet, rabbit: RabbitServer) -> str:
    """queue deleted under its consumers"""
    consumers = attached(fleet)
    queue = fleet.names.queue("fault.work")
    await fleet.enqueue(BURST, 1)
    deleted = await foreign(fleet.amqp_url, lambda channel: channel.queue_delete(queue).method.message_count)
    assert deleted > 0
    await fleet.until(lambda: attached(fleet) >= consumers + 2, "both consumers to come back")
    return f"{deleted} messages went with the queue, and both consumers attached again"


async def wiped(fleet: Fleet, rabbit: RabbitServer) -> str:
    """all queues and exchanges deleted"""
    consumers = attached(fleet)
    await fleet.enqueue(BURST, 1)
    await rabbit.delete(fleet.names.prefix)
    await fleet.until(lambda: attached(fleet) > consumers, "consumers to come back")
    return f"{attached(fleet) - consumers} consumers attached again"


LOSES_NOTHING = [killed, stopped, connections_closed, frozen, out_of_memory, out_of_disk, full]
LOSES_FOREIGN_MESSAGES = [queue_deleted, wiped]
QUICK = {connections_closed}

Fault = Callable[[Fleet, RabbitServer], Awaitable[str]]


def told(fault: Fault) -> str:
    return (fault.__doc__ or "").strip()


def marked(faults: Sequence[Fault]) -> list[object]:
    return [
        pytest.param(fault, id=fault.__name__, marks=[] if fault in QUICK else [pytest.mark.long]) for fault in faults
    ]


@pytest.mark.parametrize("fault", marked(LOSES_NOTHING))
async def test_a_fault_of_the_broker_loses_nothing_and_costs_no_run(
    fleet: Fleet, record: Recorder, rabbit_server: RabbitServer, fault: Fault
) -> None:
    load = await suffer(fleet, record, "Broker", told(fault), bitten(fault, rabbit_server), environment=PATIENT)

    ran_once(fleet, load)


@pytest.mark.parametrize("fault", marked(LOSES_FOREIGN_MESSAGES))
async def test_what_a_damaged_topology_held_is_published_again_from_the_store(
    fleet: Fleet, record: Recorder, rabbit_server: RabbitServer, fault: Fault
) -> None:
    load = await suffer(
        fleet,
        record,
        "Broker",
        told(fault),
        bitten(fault, rabbit_server),
        environment=PATIENT,
        foreign=False,
    )

    ran_once(fleet, load)


# ---- what the processes noticed ------------------------------------------------------------------


def lost(fleet: Fleet) -> int:
    """Connections."""
    return sum(len(process.events("broker.lost")) for process in fleet.processes)


def refused(fleet: Fleet, reason: str | None = None) -> int:
    """Messages that the broker did not take from them, for this reason."""
    lines = [line for process in fleet.processes for line in process.events("broker.publish_refused")]
    return sum(line["messages"] for line in lines if reason in (None, line["reason"]))


def attached(fleet: Fleet) -> int:
    """How often a consumer began."""
    return sum(len(process.events("consumer.attached")) for process in fleet.processes)


async def connections_lost(fleet: Fleet) -> str:
    """Until each process has lost both of its own."""
    await fleet.until(
        lambda: all(len(process.events("broker.lost")) >= 2 for process in fleet.processes),
        "all connections to be lost",
    )
    return f"{len(fleet.processes)} processes lost {lost(fleet)} connections"


async def publishers_blocked(fleet: Fleet) -> str:
    """Until relay or a fire was told to wait."""
    await fleet.until(lambda: refused(fleet, "blocked") > 0, "a publish to be blocked")
    return f"{refused(fleet, 'blocked')} publishes were refused as blocked"


def bitten(fault: Fault, rabbit: RabbitServer) -> Callable[[Fleet], Awaitable[Bite]]:
    async def suffered(fleet: Fleet) -> Bite:
        return Bite(await fault(fleet, rabbit))

    return suffered
