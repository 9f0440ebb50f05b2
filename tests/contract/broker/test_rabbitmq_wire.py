"""What a program that is not ours sees of Verger on RabbitMQ, and how it reaches Verger."""

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from schemas.event import ControlCommand, ControlMessage, Event, EventName
from service.broker.names import Names
from service.broker.port import DELAY_LADDER, INTAKE, Publication
from service.broker.rabbitmq import RabbitBroker, events
from service.broker.rabbitmq.topology import task_queue
from service.clock import SystemClock
from tests.brokers import Inbox, LogBook, eventually, foreign, foreign_channel, task_properties
from tests.contract.broker.conftest import TYPES
from tests.servers import RabbitServer


@pytest.fixture
def names(prefix: str) -> Names:
    return Names(prefix)


@pytest.fixture
async def broker(amqp_url: str, names: Names, log_book: LogBook) -> AsyncIterator[RabbitBroker]:
    broker = RabbitBroker(amqp_url, names, SystemClock(), log_book.logger)
    await broker.open(TYPES)
    yield broker
    await broker.close()


@pytest.fixture
def log_book() -> LogBook:
    return LogBook()


def get(channel: Any, queue: str) -> tuple[Any, Any, bytes]:
    """One message, acknowledged; waits for it."""
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=10):
        channel.cancel()
        assert method is not None, f"nothing in {queue}"
        return method, properties, body
    raise AssertionError(f"the consumer of {queue} was cancelled")


async def test_a_stranger_reaches_a_type_by_the_task_exchange(
    broker: RabbitBroker, amqp_url: str, names: Names
) -> None:
    inbox = Inbox()
    await broker.consume("mail.send", 1, inbox)
    properties = task_properties({"traceparent": "00-ab"}, message_id="order-7", expiration="60000", priority=3)

    await foreign(amqp_url, lambda channel: channel.basic_publish(names.tasks, "mail", b'{"taskBody":{}}', properties))

    delivery = await inbox.one()
    assert delivery.body == b'{"taskBody":{}}'
    assert delivery.headers == {"traceparent": "00-ab"}
    assert (delivery.message_id, delivery.content_type) == ("order-7", "application/json")
    assert (delivery.routing_key, delivery.queue) == ("mail", "mail.send")


async def test_a_message_without_any_property_arrives(broker: RabbitBroker, amqp_url: str, names: Names) -> None:
    inbox = Inbox()
    await broker.consume("report", 1, inbox)

    await foreign(amqp_url, lambda channel: channel.basic_publish(names.tasks, "report", b"\xff"))

    delivery = await inbox.one()
    assert (delivery.body, dict(delivery.headers)) == (b"\xff", {})
    assert (delivery.message_id, delivery.content_type) == (None, None)


async def test_headers_of_every_kind_arrive(broker: RabbitBroker, amqp_url: str, names: Names) -> None:
    inbox = Inbox()
    await broker.consume("report", 1, inbox)
    headers = {
        "int": 1 << 40,
        "decimal": Decimal("0.5"),
        "bool": True,
        "none": None,
        "bytes": b"\xff\x00",
        "time": datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
        "table": {"list": [1, "two", None]},
    }
    properties = task_properties(headers)

    await foreign(amqp_url, lambda channel: channel.basic_publish(names.tasks, "report", b"{}", properties))

    delivery = await inbox.one()
    assert set(delivery.headers) == set(headers)
    assert delivery.headers["table"] == {"list": [1, "two", None]}
    assert delivery.headers["int"] == 1 << 40


async def test_a_stranger_reads_tasks_dead_letters_and_delays_as_documented(
    broker: RabbitBroker, amqp_url: str, names: Names
) -> None:
    headers = {"verger-stored": "1"}
    await broker.publish([Publication("report", b"{}", headers), Publication("report", b"dead", headers, dead=True)])

    with foreign_channel(amqp_url) as channel:
        method, properties, body = get(channel, names.queue("report"))
        assert (method.exchange, method.routing_key, body) == (names.tasks, "report", b"{}")
        assert (properties.content_type, properties.delivery_mode, properties.headers) == (
            "application/json",
            2,
            headers,
        )
        assert properties.content_encoding is None
        assert properties.message_id
        method, properties, body = get(channel, names.dead_letters)
        assert (method.exchange, method.routing_key, body) == (names.dead, "report", b"dead")


async def test_events_are_transient_and_routed_by_their_name(broker: RabbitBroker, amqp_url: str, names: Names) -> None:
    with foreign_channel(amqp_url) as channel:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, names.events, "task.*")
        at = datetime(2026, 1, 1, tzinfo=UTC)

        broker.emit(lambda: Event(event=EventName.SCHEDULE_FIRED, at=at, schedule_id="s"))
        broker.emit(lambda: Event(event=EventName.TASK_STARTED, at=at, task_id="7", detail={"bad": object()}))
        broker.emit(lambda: Event(event=EventName.TASK_FAILED, at=at, task_id="7", detail={"attempt": 2}))
        await broker.send_control(ControlMessage(command=ControlCommand.RESUME))  # a round trip on the same connection

        method, properties, body = get(channel, queue)
    assert method.routing_key == "task.failed"
    assert (properties.delivery_mode, properties.content_type) == (1, "application/json")
    event = json.loads(body)
    assert (event["event"], event["taskId"], event["detail"]) == ("task.failed", "7", {"attempt": 2})
    assert broker.events_dropped == 1


async def test_events_over_the_budget_wait_and_over_the_buffer_are_counted(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BUFFER", 50)
    event = Event(event=EventName.TASK_STARTED, at=datetime(2026, 1, 1, tzinfo=UTC))
    started = time.monotonic()

    for _ in range(120):
        broker.emit(lambda: event)

    assert time.monotonic() - started < 10
    assert broker.events_dropped == 70


async def test_a_strange_event_and_a_listener_that_fails_stop_no_listening(
    broker: RabbitBroker, amqp_url: str, names: Names, log_book: LogBook
) -> None:
    heard: list[Event] = []

    def listen(event: Event) -> None:
        if event.task_id == "bad":
            raise RuntimeError("not this one")
        heard.append(event)

    await broker.listen(listen, lambda: None)

    def publish(channel: Any) -> None:
        for body in (
            b"\xff",
            b"{}",
            b'{"event": "e", "at": "2026-01-01T00:00:00Z", "detail": {"x": "' + b"x" * 70_000 + b'"}}',
            b'{"event": "e", "at": "2026-01-01T00:00:00Z", "taskId": "bad"}',
            b'{"event": "e", "at": "2026-01-01T00:00:00Z", "taskId": "good"}',
        ):
            channel.basic_publish(names.events, "e", body)

    await foreign(amqp_url, publish)

    async def told() -> list[str]:
        return [str(event.task_id) for event in heard]

    await eventually(told, ["good"])
    assert len(log_book.find("event.refused")) == 3
    assert len(log_book.find("event.callback_failed", name="e")) == 1


async def test_control_messages_are_json_and_nonsense_is_ignored(
    broker: RabbitBroker, amqp_url: str, names: Names, log_book: LogBook
) -> None:
    told: list[ControlMessage] = []
    broker.on_control(told.append)

    def publish(channel: Any) -> None:
        for body in (
            b"\xff",
            b"{}",
            b'{"command":"explode"}',
            b"[" * 70_000,
            b'{"command":"pause","taskType":"report"}',
        ):
            channel.basic_publish(names.control, "", body)

    await foreign(amqp_url, publish)

    async def heard() -> list[ControlMessage]:
        return told

    await eventually(heard, [ControlMessage(command=ControlCommand.PAUSE, task_type="report")])
    assert len(log_book.find("control.refused")) == 4


async def test_the_topology_is_the_documented_one(
    broker: RabbitBroker, rabbit_server: RabbitServer, names: Names
) -> None:
    columns = ("name", "type", "durable", "arguments", "exclusive", "auto_delete")
    said = json.loads(await rabbit_server.ctl("list_queues", *columns, "--formatter", "json"))
    queues = {row["name"]: row for row in said if row["name"].startswith(f"{names.prefix}.")}
    control = [name for name in queues if name.startswith(f"{names.control}.")]

    assert len(control) == 1
    mine = queues.pop(control[0])
    assert (mine["exclusive"], mine["auto_delete"], "classic" in mine["type"]) == (True, True, True)
    ladder = {names.delay(step) for step in DELAY_LADDER}
    assert set(queues) == {names.queue(each) for each in TYPES} | ladder | {names.intake, names.dead_letters}
    assert all(row["durable"] and "quorum" in row["type"] for row in queues.values())
    assert not any("x-expires" in str(row["arguments"]) for row in queues.values())


async def test_a_delay_reports_no_deaths_when_it_is_published_again(
    broker: RabbitBroker, names: Names, log_book: LogBook
) -> None:
    """The broker's own headers on a message that is sent on would make brokers before 4.0 take it for a circle."""
    inbox = Inbox()
    await broker.consume("report", 10, inbox)
    await broker.publish([Publication("report", b"{}", {"mine": 1}, delay=DELAY_LADDER[0])])
    first = await inbox.one()
    assert any(name.startswith("x-death") for name in first.headers)

    await broker.publish([Publication("report", b"{}", first.headers)])

    assert (await inbox.one()).headers == {"mine": 1}


async def test_what_the_protocol_cannot_carry_is_refused_alone(broker: RabbitBroker, log_book: LogBook) -> None:
    sent = [
        Publication("report", b"{}"),
        Publication("r" * 256, b"{}"),
        Publication("report", b"{}", {"error": "x" * 200_000}),
        Publication("report", b"{}", {"error": object()}),
        Publication("report", b"{}", {"error": 1 << 70}),
        Publication("report", b"x" * (16 * 1024 * 1024 + 1)),
        Publication("report", b"{}"),
    ]

    assert await broker.publish(sent) == [True, False, False, False, False, False, True]

    assert await broker.depth("report") == 2
    assert log_book.find("broker.lost") == []
    assert log_book.find("broker.publish_refused")


async def test_a_full_queue_refuses(
    broker: RabbitBroker, rabbit_server: RabbitServer, names: Names, log_book: LogBook
) -> None:
    await rabbit_server.ctl(
        "set_policy", "full", f"^{names.queue('report')}$", '{"max-length": 1}', "--apply-to", "queues"
    )
    try:
        await broker.publish([Publication("report", b"{}")] * 10)  # the queue says "full" a little late
        outcomes = await broker.publish([Publication("report", b"{}")] * 10)
    finally:
        await rabbit_server.ctl("clear_policy", "full")

    assert not any(outcomes)
    assert log_book.find("broker.publish_refused", reason="refused by the queue")
    assert await broker.publish([Publication("mail", b"{}")]) == [True]


async def test_intake_receives_what_exceeded_the_delivery_limit(
    broker: RabbitBroker, amqp_url: str, names: Names
) -> None:
    """With the limit lowered by declaring another queue of the same arguments: nothing that Verger takes is dropped."""
    inbox = Inbox()
    await broker.consume(INTAKE, 1, inbox)
    arguments = task_queue(names) | {"x-delivery-limit": 2}
    queue = f"{names.prefix}.limited"

    def requeue_often(channel: Any) -> None:
        channel.queue_declare(queue, durable=True, arguments=arguments)
        channel.basic_publish("", queue, b"worn out", task_properties())
        while (found := channel.basic_get(queue))[0] is not None or not inbox.waiting:
            if found[0] is not None:
                channel.basic_nack(found[0].delivery_tag, requeue=True)
            else:
                time.sleep(0.02)

    await foreign(amqp_url, requeue_often)

    delivery = await inbox.one()
    assert (delivery.body, delivery.routing_key) == (b"worn out", queue)
