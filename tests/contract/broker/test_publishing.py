"""Where a published message goes, and what is said about it."""

import time
from datetime import timedelta

import pytest

from service.broker.port import DEAD, DELAY_LADDER, INTAKE, RETRY_AT, STORED, Broker, Publication
from service.clock import uptime
from tests.brokers import Inbox, eventually
from tests.contract.broker.conftest import Adapter


async def test_a_message_reaches_the_queue_of_its_type_as_it_was_sent(broker: Broker) -> None:
    inbox = Inbox()
    await broker.consume("report", 10, inbox)
    headers = {STORED: "1", RETRY_AT: 1_793_000_000_123, "note": "ä€𝄞"}

    assert await broker.publish([Publication("report", b'{"taskBody":{}}', headers)]) == [True]

    delivery = await inbox.one()
    assert delivery.body == b'{"taskBody":{}}'
    assert delivery.headers == headers
    assert delivery.routing_key == delivery.queue == "report"
    assert delivery.content_type == "application/json"
    assert 0 <= uptime() - delivery.received_at < 10


async def test_every_publication_has_a_message_id_of_its_own(broker: Broker) -> None:
    inbox = Inbox()
    await broker.consume("report", 10, inbox)

    await broker.publish([Publication("report", b"{}")] * 3)

    ids = {delivery.message_id for delivery in await inbox.take(3)}
    assert len(ids) == 3
    assert None not in ids


@pytest.mark.parametrize("key", ["mail.send", "mail", "send-mail"])
async def test_a_type_is_reached_by_its_name_and_its_aliases(broker: Broker, key: str) -> None:
    inbox = Inbox()
    await broker.consume("mail.send", 10, inbox)

    assert await broker.publish([Publication(key, b"{}")]) == [True]

    delivery = await inbox.one()
    assert (delivery.routing_key, delivery.queue) == (key, "mail.send")


async def test_what_no_queue_wants_goes_to_intake(broker: Broker) -> None:
    inbox = Inbox()
    await broker.consume(INTAKE, 10, inbox)

    assert await broker.publish([Publication("nobody.knows.it", b"{}", {"a": "b"})]) == [True]

    delivery = await inbox.one()
    assert (delivery.routing_key, delivery.queue) == ("nobody.knows.it", INTAKE)
    assert delivery.headers == {"a": "b"}


async def test_a_delayed_message_arrives_after_its_delay_and_not_before(broker: Broker) -> None:
    inbox, intake = Inbox(), Inbox()
    await broker.consume("mail.send", 10, inbox)
    await broker.consume(INTAKE, 10, intake)
    delay = DELAY_LADDER[0]
    sent_at = time.monotonic()

    sent = [Publication(key, key.encode(), {RETRY_AT: 1}, delay=delay) for key in ("mail", "nobody.knows.it")]
    assert await broker.publish(sent) == [True, True]

    assert await broker.depth("mail.send") == 0
    delivery = await inbox.one()
    assert delay - timedelta(milliseconds=50) <= timedelta(seconds=time.monotonic() - sent_at) < delay * 30
    assert (delivery.routing_key, delivery.body) == ("mail", b"mail")
    assert delivery.headers[RETRY_AT] == 1
    assert (await intake.one()).routing_key == "nobody.knows.it"


def test_a_delay_that_is_no_rung_is_refused() -> None:
    with pytest.raises(ValueError, match="rung"):
        Publication("report", b"{}", delay=timedelta(seconds=3))


async def test_a_dead_letter_goes_to_the_dead_letters_alone(broker: Broker) -> None:
    assert await broker.publish([Publication("report", b"{}", {"reason": "exhausted"}, dead=True)]) == [True]

    await eventually(lambda: broker.depth(DEAD), 1)
    assert await broker.depth("report") == await broker.depth(INTAKE) == 0


async def test_a_dead_letter_of_an_unknown_type_is_kept_too(broker: Broker) -> None:
    assert await broker.publish([Publication("nobody.knows.it", b"{}", dead=True)]) == [True]

    await eventually(lambda: broker.depth(DEAD), 1)


async def test_a_burst_is_confirmed_one_by_one(broker: Broker) -> None:
    inbox = Inbox()
    consumer = await broker.consume("report", 100, inbox)
    count = 1_000

    assert await broker.publish([Publication("report", str(n).encode()) for n in range(count)]) == [True] * count

    bodies = set()
    for _ in range(count // 50):
        deliveries = await inbox.take(50)
        bodies |= {int(delivery.body) for delivery in deliveries}
        await consumer.ack(deliveries)
    assert bodies == set(range(count))


@pytest.mark.parametrize("size", [0, 1, 200_000, 1_000_000])
async def test_bodies_of_any_size_arrive_whole(broker: Broker, size: int) -> None:
    inbox = Inbox()
    await broker.consume("report", 10, inbox)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)

    assert await broker.publish([Publication("report", body)]) == [True]

    assert (await inbox.one()).body == body


async def test_nothing_to_publish_is_nothing_to_say(broker: Broker) -> None:
    assert await broker.publish([]) == []


async def test_on_a_broker_that_is_not_open_nothing_is_confirmed(adapter: Adapter) -> None:
    closed = await adapter.open()
    await closed.close()

    assert await closed.publish([Publication("report", b"{}")] * 2) == [False, False]
    assert await adapter.make().publish([Publication("report", b"{}")]) == [False]
