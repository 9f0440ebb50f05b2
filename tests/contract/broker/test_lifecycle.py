"""Opening and closing."""

import asyncio

from service.broker.port import Broker, Publication
from tests.brokers import Inbox, eventually
from tests.contract.broker.conftest import TYPES, Adapter


async def test_what_waits_outlives_the_process_where_the_broker_is_another(adapter: Adapter) -> None:
    first = await adapter.open()
    await first.publish([Publication("report", b"kept")])
    await first.close()

    second = await adapter.open()

    assert await second.depth("report") == (1 if adapter.durable else 0)


async def test_what_was_in_hand_at_the_close_waits_again(adapter: Adapter) -> None:
    first = await adapter.open()
    await first.publish([Publication("report", b"held")])
    inbox = Inbox()
    consumer = await first.consume("report", 1, inbox)
    held = await inbox.take(1)
    await first.close()

    await consumer.ack(held)  # too late; no error
    await consumer.cancel()

    second = await adapter.open()
    await eventually(lambda: second.depth("report"), 1 if adapter.durable else 0)


async def test_processes_share_the_work_where_there_are_several(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    inbox = Inbox()
    await other.consume("report", 1, inbox)

    await one.publish([Publication("report", b"{}")])

    if adapter.shared:
        await inbox.one()
    else:
        assert (await one.depth("report"), await other.depth("report")) == (1, 0)


async def test_an_open_broker_may_open_again_after_its_close(adapter: Adapter) -> None:
    broker = await adapter.open()
    await broker.close()
    await broker.open(TYPES)
    inbox = Inbox()
    await broker.consume("report", 1, inbox)

    await broker.publish([Publication("report", b"{}")])

    await inbox.one()


async def test_closing_twice_is_closing_once(broker: Broker) -> None:
    await broker.close()
    await broker.close()


async def test_a_closed_broker_leaves_nothing_running(adapter: Adapter) -> None:
    before = asyncio.all_tasks()
    broker = await adapter.open()
    inbox = Inbox()
    consumer = await broker.consume("report", 1, inbox)
    await broker.publish([Publication("report", b"{}")])
    await consumer.ack(await inbox.take(1))
    await (await broker.consume("mail.send", 1, inbox)).cancel()
    await broker.depth("report")

    await broker.close()

    for _ in range(10):  # turns of the loop, for callbacks that are due already
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
