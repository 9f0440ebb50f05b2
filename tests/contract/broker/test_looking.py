"""Depth and ping."""

from datetime import timedelta

import pytest

from service.broker.port import DEAD, INTAKE, Broker, Publication
from service.errors import BrokerUnavailable
from tests.brokers import Inbox
from tests.contract.broker.conftest import Adapter


async def test_depth_counts_what_waits(broker: Broker) -> None:
    await broker.publish([Publication("report", b"{}")] * 3 + [Publication("nobody.knows.it", b"{}")] * 2)

    assert await broker.depth("report") == 3
    assert await broker.depth(INTAKE) == 2
    assert await broker.depth("mail.send") == await broker.depth(DEAD) == 0


async def test_depth_does_not_count_what_is_in_hand(broker: Broker) -> None:
    await broker.publish([Publication("report", b"{}")] * 3)
    inbox = Inbox()
    consumer = await broker.consume("report", 2, inbox)
    await inbox.take(2)

    assert await broker.depth("report") == 1
    await consumer.cancel()


async def test_a_look_shows_every_queue(broker: Broker) -> None:
    await broker.publish([Publication("report", b"{}")] * 3 + [Publication("nobody.knows.it", b"{}")] * 2)
    await broker.publish([Publication("report", b"{}", delay=timedelta(hours=1)), Publication("x", b"{}", dead=True)])
    consumer = await broker.consume("mail.send", 1, Inbox())

    found = await broker.look()

    assert [(queue.task_type, queue.ready, queue.consumers) for queue in found.queues] == [
        ("mail.send", 0, 1),
        ("report", 3, 0),
    ]
    assert all(queue.name.endswith(queue.task_type) for queue in found.queues)
    assert (found.delayed, found.intake, found.dead_letters) == (1, 2, 1)
    await consumer.cancel()


async def test_where_there_is_no_queue_nothing_waits(broker: Broker) -> None:
    assert await broker.depth("nobody.knows.it") == 0
    assert await broker.depth("report") == 0


async def test_an_open_broker_answers_a_ping(broker: Broker) -> None:
    await broker.ping()


async def test_a_closed_broker_answers_nothing(adapter: Adapter) -> None:
    closed = await adapter.open()
    await closed.close()

    with pytest.raises(BrokerUnavailable):
        await closed.ping()
    with pytest.raises(BrokerUnavailable):
        await closed.depth("report")
    with pytest.raises(BrokerUnavailable):
        await closed.look()
    with pytest.raises(BrokerUnavailable):
        await closed.consume("report", 1, Inbox())
