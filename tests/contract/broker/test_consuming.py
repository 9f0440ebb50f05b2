"""What a consumer holds, and what becomes of it."""

import pytest

from service.broker.port import Broker, Delivery, Publication
from service.errors import ConfigError
from tests.brokers import Inbox, eventually


async def publish(broker: Broker, count: int) -> None:
    assert all(await broker.publish([Publication("report", str(n).encode()) for n in range(count)]))


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.body) for delivery in deliveries]


async def test_no_more_than_the_prefetch_is_in_hand(broker: Broker) -> None:
    await publish(broker, 10)
    inbox = Inbox()
    consumer = await broker.consume("report", 3, inbox)

    first = await inbox.take(3)

    assert await broker.depth("report") == 7
    assert inbox.waiting == []
    await consumer.ack(first[:2])
    await inbox.take(2)
    await eventually(lambda: broker.depth("report"), 5)
    assert inbox.waiting == []


async def test_what_is_acked_does_not_come_again(broker: Broker) -> None:
    await publish(broker, 5)
    inbox = Inbox()
    consumer = await broker.consume("report", 10, inbox)
    await consumer.ack(await inbox.take(5))

    await consumer.cancel()

    assert await broker.depth("report") == 0
    await publish(broker, 1)
    other = Inbox()
    await broker.consume("report", 10, other)
    assert numbers(await other.take(1)) == [0]
    assert other.waiting == []


async def test_acks_in_any_order_hit_what_they_name(broker: Broker) -> None:
    await publish(broker, 10)
    inbox = Inbox()
    consumer = await broker.consume("report", 10, inbox)
    held = await inbox.take(10)

    await consumer.ack([held[4], held[2]])
    await consumer.ack([held[1], held[0], held[7]])
    await consumer.requeue([held[3], held[6]])
    await consumer.ack([held[5]])
    again = await inbox.take(2)
    await consumer.ack(again)
    await consumer.requeue([held[9], held[8]])

    assert sorted(numbers(again)) == [3, 6]
    assert sorted(numbers(await inbox.take(2))) == [8, 9]
    assert await broker.depth("report") == 0
    assert consumer.alive


async def test_what_is_requeued_goes_to_anyone_before_what_came_later(broker: Broker) -> None:
    await publish(broker, 6)
    inbox = Inbox()
    consumer = await broker.consume("report", 4, inbox)
    held = await inbox.take(4)
    await consumer.cancel()

    await consumer.requeue(held)

    other = Inbox()
    await broker.consume("report", 10, other)
    assert numbers(await other.take(6)) == [0, 1, 2, 3, 4, 5]


async def test_what_was_in_hand_at_the_cancel_can_still_be_settled(broker: Broker) -> None:
    await publish(broker, 6)
    inbox = Inbox()
    consumer = await broker.consume("report", 4, inbox)
    held = await inbox.take(4)

    await consumer.cancel()

    assert not consumer.alive
    assert await broker.depth("report") == 2
    await consumer.ack(held[:3])
    await consumer.requeue(held[3:])
    await eventually(lambda: broker.depth("report"), 3)
    assert inbox.waiting == []
    other = Inbox()
    await broker.consume("report", 10, other)
    assert sorted(numbers(await other.take(3))) == [3, 4, 5]


async def test_a_consumer_may_be_cancelled_twice(broker: Broker) -> None:
    consumer = await broker.consume("report", 1, Inbox())

    await consumer.cancel()
    await consumer.cancel()

    assert not consumer.alive


async def test_settling_twice_or_what_another_holds_changes_nothing(broker: Broker) -> None:
    await publish(broker, 2)
    inbox = Inbox()
    consumer = await broker.consume("report", 1, inbox)
    held = await inbox.take(1)
    other = await broker.consume("report", 1, inbox)
    others = await inbox.take(1)

    await consumer.ack(others)
    await consumer.ack(held)
    await consumer.ack(held)
    await consumer.requeue(held)
    await consumer.ack([])

    assert consumer.alive
    assert other.alive
    await other.requeue(others)
    assert numbers(await inbox.take(1)) == numbers(others)


async def test_consumers_of_one_queue_share_it(broker: Broker) -> None:
    one, other = Inbox(), Inbox()
    await broker.consume("report", 5, one)
    await broker.consume("report", 5, other)

    await publish(broker, 10)

    assert sorted(numbers(await one.take(5) + await other.take(5))) == list(range(10))


async def test_a_callback_that_fails_costs_no_other_delivery(broker: Broker) -> None:
    inbox = Inbox()

    def fail_once(delivery: Delivery) -> None:
        if delivery.body == b"0":
            raise ZeroDivisionError
        inbox(delivery)

    consumer = await broker.consume("report", 10, fail_once)

    await publish(broker, 3)

    assert numbers(await inbox.take(2)) == [1, 2]
    assert consumer.alive


async def test_a_type_without_a_queue_cannot_be_consumed(broker: Broker) -> None:
    with pytest.raises(ConfigError, match=r"nobody\.knows\.it"):
        await broker.consume("nobody.knows.it", 1, Inbox())


async def test_a_callback_may_publish_and_settle_by_tasks_of_its_own(broker: Broker) -> None:
    """Settled before the subscription is even confirmed, a message is settled all the same."""
    await publish(broker, 100)
    inbox = Inbox()
    consumer = await broker.consume("report", 10, inbox)

    for _ in range(100):
        await consumer.ack([await inbox.one()])

    await consumer.cancel()
    assert await broker.depth("report") == 0
