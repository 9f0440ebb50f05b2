"""What RabbitMQ does to its clients, done to ours: each fault is a real one, on a real server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.event import ControlCommand, ControlMessage, Event, EventName
from service.broker.names import Names
from service.broker.port import DEAD, DELAY_LADDER, INTAKE, Broker, Consumer, Publication
from service.broker.rabbitmq import RabbitBroker, events, feed, publisher
from service.clock import SystemClock
from service.errors import BrokerUnavailable, ConfigError
from tests.brokers import Inbox, LogBook, eventually, foreign, foreign_channel
from tests.servers import RabbitServer

TYPES = {"report": ("reports",), "mail.send": ()}
ONE = [Publication("report", b"{}")]

Make = Callable[..., Awaitable[RabbitBroker]]


@pytest.fixture
def log_book() -> LogBook:
    return LogBook()


@pytest.fixture
async def make(amqp_url: str, prefix: str, log_book: LogBook, rabbit_server: RabbitServer) -> AsyncIterator[Make]:
    made: list[RabbitBroker] = []

    async def make(url: str = amqp_url) -> RabbitBroker:
        broker = RabbitBroker(url, Names(prefix), SystemClock(), log_book.logger)
        made.append(broker)
        await broker.open(TYPES)
        return broker

    yield make
    for broker in made:
        await broker.close()
    await rabbit_server.heal()


@pytest.fixture
async def broker(make: Make) -> RabbitBroker:
    return await make()


async def recovered(broker: Broker, consumer: Consumer, inbox: Inbox, seconds: float = 20) -> None:
    """What is published arrives again at the consumer that is there."""
    async with asyncio.timeout(seconds):
        while True:
            await broker.publish([Publication("report", b"after")])
            with suppress(TimeoutError):
                while (delivery := await inbox.one(seconds=0.2)).body != b"after":
                    await consumer.ack([delivery])
                return


def is_alive(consumer: Consumer) -> bool:
    """A property that changes between two looks, which the type checker would not believe."""
    return consumer.alive


async def attached(consumer: Consumer) -> None:
    """A delivery may come before the server's word that it consumes."""

    async def alive() -> bool:
        return consumer.alive

    await eventually(alive, True)


# The broker goes away


async def test_after_kill_9_and_a_restart_all_goes_on_and_nothing_confirmed_is_lost(
    broker: RabbitBroker, rabbit_server: RabbitServer, log_book: LogBook
) -> None:
    inbox = Inbox()
    consumer = await broker.consume("report", 2, inbox)
    confirmed = [Publication("report", str(n).encode()) for n in range(20)]
    assert all(await broker.publish(confirmed))
    held = await inbox.take(2)

    rabbit_server.kill()

    await log_book.wait("broker.lost", purpose="publishing")
    await log_book.wait("broker.lost", purpose="consuming")
    asked = time.monotonic()
    assert await broker.publish(ONE * 1000) == [False] * 1000
    await consumer.ack(held)  # of a dead channel: ignored
    await consumer.requeue(held)
    with pytest.raises(BrokerUnavailable):
        await broker.depth("report")
    with pytest.raises(BrokerUnavailable):
        await broker.ping()
    assert time.monotonic() - asked < 5
    assert not is_alive(consumer)

    await rabbit_server.restart()

    bodies: set[int] = set()
    while len(bodies) < len(confirmed):
        deliveries = await inbox.take(1)
        bodies |= {int(each.body) for each in deliveries}
        await consumer.ack(deliveries)
    await recovered(broker, consumer, inbox)
    await attached(consumer)
    await broker.ping()


async def test_where_no_broker_listens_opening_fails_at_once(make: Make) -> None:
    asked = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="localhost:1/") as refused:
        await make("amqp://me:geheim@localhost:1/")

    assert time.monotonic() - asked < 10
    assert "geheim" not in str(refused.value)


# Connections, channels, consumers are closed by the server


async def test_a_publish_in_flight_when_the_connection_is_lost_ends_and_tells_no_lies(
    broker: RabbitBroker, rabbit_server: RabbitServer, log_book: LogBook
) -> None:
    sending = asyncio.create_task(broker.publish([Publication("report", b"x")] * 100_000))
    await asyncio.sleep(0)

    await rabbit_server.ctl("close_all_connections", "maintenance")

    async with asyncio.timeout(30):
        outcomes = await sending
    assert True in outcomes
    assert False in outcomes
    await log_book.wait("broker.connected", count=4)  # both connections, twice
    await eventually(lambda: broker.publish(ONE), [True])
    assert await broker.depth("report") > sum(outcomes)


async def test_connections_closed_by_the_server_come_back(
    broker: RabbitBroker, rabbit_server: RabbitServer, log_book: LogBook
) -> None:
    inbox = Inbox()
    consumer = await broker.consume("report", 2, inbox)
    told: asyncio.Queue[ControlMessage] = asyncio.Queue()
    broker.on_control(told.put_nowait)

    await rabbit_server.ctl("close_all_connections", "maintenance")

    await log_book.wait("broker.connected", count=4)
    await log_book.wait("consumer.attached", count=2)
    await recovered(broker, consumer, inbox)
    await attached(consumer)
    await broker.send_control(ControlMessage(command=ControlCommand.RESUME))
    await asyncio.wait_for(told.get(), 10)


async def test_what_was_in_hand_on_a_lost_connection_comes_again(
    broker: RabbitBroker, rabbit_server: RabbitServer, log_book: LogBook
) -> None:
    inbox = Inbox()
    consumer = await broker.consume("report", 1, inbox)
    await broker.publish(ONE)
    held = await inbox.take(1)

    await rabbit_server.ctl("close_all_connections", "maintenance")

    again = await inbox.take(1)
    await consumer.ack(held)  # an old tag, whose number the new channel knows as well
    await consumer.requeue(again)
    await consumer.ack(await inbox.take(1))
    await consumer.cancel()
    assert await broker.depth("report") == 0


async def test_a_channel_closed_by_the_server_costs_its_own_consumer_alone(
    broker: RabbitBroker, log_book: LogBook
) -> None:
    inbox, other_inbox = Inbox(), Inbox()
    consumer: Any = await broker.consume("report", 2, inbox)
    other: Any = await broker.consume("mail.send", 2, other_inbox)
    untouched = other._feed.channel

    await consumer._feed.channel.basic_ack(4711)  # an unknown tag: 406, and the channel is gone

    await log_book.wait("consumer.attached")
    await recovered(broker, consumer, inbox)
    assert other._feed.channel is untouched
    assert other.alive
    assert log_book.find("broker.lost") == []


async def test_a_queue_deleted_under_its_consumer_is_declared_and_consumed_again(
    broker: RabbitBroker, amqp_url: str, prefix: str
) -> None:
    inbox = Inbox()
    consumer = await broker.consume("report", 2, inbox)
    await broker.publish(ONE)
    held = await inbox.take(1)

    await foreign(amqp_url, lambda channel: channel.queue_delete(f"{prefix}.tasks.report"))

    await recovered(broker, consumer, inbox)
    await consumer.ack(held)
    await attached(consumer)


async def test_a_consumer_that_died_in_silence_is_found_and_rebuilt(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch, log_book: LogBook
) -> None:
    monkeypatch.setattr(feed, "WATCH_SECONDS", 0.2)
    inbox = Inbox()
    consumer: Any = await broker.consume("report", 2, inbox)
    channel = consumer._feed.channel

    channel.consumers.clear()  # as if nobody had noticed

    assert not is_alive(consumer)
    await log_book.wait("consumer.attached")
    assert consumer._feed.channel is not channel
    await recovered(broker, consumer, inbox)


# The topology is damaged


async def test_everything_wiped_while_we_are_connected_is_made_again(
    broker: RabbitBroker, rabbit_server: RabbitServer, prefix: str
) -> None:
    inbox, intake = Inbox(), Inbox()
    consumer = await broker.consume("report", 2, inbox)
    await broker.consume(INTAKE, 2, intake)
    told: asyncio.Queue[ControlMessage] = asyncio.Queue()
    broker.on_control(told.put_nowait)

    await rabbit_server.delete(prefix)

    await recovered(broker, consumer, inbox)
    await eventually(lambda: broker.publish([Publication("nobody.knows.it", b"{}")]), [True])
    await intake.one()
    await eventually(lambda: broker.publish([Publication("report", b"{}", dead=True)]), [True])
    assert await broker.depth(DEAD) >= 1

    async def told_once() -> bool:
        await broker.send_control(ControlMessage(command=ControlCommand.RESUME))
        return not told.empty()

    await eventually(told_once, True)


async def test_what_reaches_no_queue_is_refused_and_the_queue_is_made_again(
    broker: RabbitBroker, amqp_url: str, prefix: str, log_book: LogBook
) -> None:
    delayed = [Publication("report", b"{}", delay=DELAY_LADDER[3])]
    await foreign(amqp_url, lambda channel: channel.queue_delete(f"{prefix}.delay.10s"))

    assert await broker.publish([*delayed, *ONE]) == [False, True]

    assert log_book.find("broker.publish_refused", reason="returned: no queue is bound")
    await eventually(lambda: broker.publish(delayed), [True])
    assert log_book.find("broker.lost") == []


async def test_a_queue_that_was_full_takes_messages_again_when_a_policy_lifts_its_limit(
    broker: RabbitBroker, rabbit_server: RabbitServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on refusing whatever comes by the channel that it once told of the limit (3.10)."""
    monkeypatch.setattr(publisher, "REFUSED_SECONDS", 1.0)
    await broker.publish(ONE * 10)
    limit = '{"max-length": 1}'
    await rabbit_server.ctl("set_policy", prefix, f"^{prefix}", limit, "--apply-to", "queues")
    try:
        await eventually(lambda: broker.publish(ONE), [False])
    finally:
        await rabbit_server.ctl("clear_policy", prefix)

    await eventually(lambda: broker.publish(ONE), [True])


async def test_a_deleted_exchange_costs_the_channel_and_is_made_again(
    broker: RabbitBroker, amqp_url: str, prefix: str, log_book: LogBook
) -> None:
    delayed = [Publication("report", b"{}", delay=DELAY_LADDER[3])]
    await foreign(amqp_url, lambda channel: channel.exchange_delete(f"{prefix}.delay.10s"))

    assert await broker.publish(delayed) == [False]

    await log_book.wait("broker.connected", count=2, purpose="publishing")
    assert await broker.publish(delayed) == [True]
    assert len(log_book.find("broker.lost")) == 1


async def test_a_deleted_control_exchange_is_made_and_bound_again(
    broker: RabbitBroker, amqp_url: str, prefix: str
) -> None:
    told: asyncio.Queue[ControlMessage] = asyncio.Queue()
    broker.on_control(told.put_nowait)
    await foreign(amqp_url, lambda channel: channel.exchange_delete(f"{prefix}.control"))

    async def told_once() -> bool:
        await broker.send_control(ControlMessage(command=ControlCommand.RESUME))
        return not told.empty()

    await eventually(told_once, True)


async def test_the_depth_of_a_deleted_queue_is_zero_and_makes_it_again(
    broker: RabbitBroker, amqp_url: str, prefix: str, rabbit_server: RabbitServer
) -> None:
    await broker.publish(ONE * 3)
    await foreign(amqp_url, lambda channel: channel.queue_delete(f"{prefix}.tasks.report"))

    assert await broker.depth("report") == 0

    assert f"{prefix}.tasks.report" in await rabbit_server.names(prefix)
    assert await broker.publish(ONE) == [True]
    assert await broker.depth("report") == 1


# Opening


async def test_many_processes_may_open_at_once_on_an_empty_broker(make: Make) -> None:
    brokers = await asyncio.gather(*(make() for _ in range(6)))

    for broker in brokers:
        await broker.ping()


async def test_a_queue_with_other_arguments_is_named_with_the_fix(make: Make, amqp_url: str, prefix: str) -> None:
    queue = f"{prefix}.tasks.report"
    await foreign(amqp_url, lambda channel: channel.queue_declare(queue, durable=True))

    with pytest.raises(ConfigError, match=f"{queue}.*delete it.*VERGER_PREFIX"):
        await make()


async def test_an_exchange_of_another_kind_is_named_with_the_fix(make: Make, amqp_url: str, prefix: str) -> None:
    await foreign(amqp_url, lambda channel: channel.exchange_declare(f"{prefix}.tasks", "topic", durable=True))

    with pytest.raises(ConfigError, match=f"{prefix}.tasks.*delete it"):
        await make()


async def test_a_user_without_permissions_is_told_what_to_grant(
    make: Make, rabbit_server: RabbitServer, amqp_url: str
) -> None:
    await rabbit_server.ctl("add_user", "reader", "geheim")
    await rabbit_server.ctl("set_permissions", "reader", "^nothing$", ".*", ".*")
    try:
        with pytest.raises(ConfigError, match=r"'reader' configure, write and read") as refused:
            await make(amqp_url.replace("guest:guest", "reader:geheim"))
    finally:
        await rabbit_server.ctl("delete_user", "reader")
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("replaced", "by", "told"),
    [
        ("guest:guest", "guest:geheim", "refuses the user 'guest'"),
        ("guest:guest", "nobody:geheim", "refuses the user 'nobody'"),
        (":guest@", ":guest@", "virtual host"),
    ],
)
async def test_wrong_credentials_are_a_matter_of_configuration(
    make: Make, amqp_url: str, replaced: str, by: str, told: str
) -> None:
    url = amqp_url.replace(replaced, by) + ("nowhere" if told == "virtual host" else "")

    with pytest.raises(ConfigError, match=told) as refused:
        await make(url)

    assert "geheim" not in str(refused.value)
    assert "VERGER_AMQP_URL" in str(refused.value)


# The broker lives and does not answer


async def test_a_frozen_broker_hangs_nobody_and_is_left_by_the_heartbeat(
    make: Make, amqp_url: str, rabbit_server: RabbitServer, log_book: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 1.0)
    broker = await make(amqp_url + "?heartbeat=1")
    leaving = await make(amqp_url)
    inbox = Inbox()
    consumer = await broker.consume("report", 2, inbox)
    await broker.publish(ONE * 2)
    held = await inbox.take(2)

    rabbit_server.freeze()
    frozen = time.monotonic()

    assert await broker.publish(ONE * 500) == [False] * 500
    assert time.monotonic() - frozen < 10
    probing = asyncio.create_task(broker.publish(ONE))
    await asyncio.sleep(0)
    assert await broker.publish(ONE * 500) == [False] * 500  # known to be stalled, and probed already
    assert not probing.done()
    assert await probing == [False]
    await consumer.ack(held)
    closing = time.monotonic()
    await leaving.close()
    assert time.monotonic() - closing < 10
    await log_book.wait("broker.lost", count=2)

    rabbit_server.thaw()
    await recovered(broker, consumer, inbox)


async def test_a_broker_that_confirms_nothing_is_not_taken_for_one_that_answers(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its disk was full a node lives on and answers, but its queues are down until it is restarted."""

    async def lost(*_: object) -> None:
        pass

    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 0.3)
    assert await broker.publish(ONE) == [True]
    await broker.ping()
    with monkeypatch.context() as patch:
        patch.setattr("aiormq.channel.Channel._on_confirm_frame", lost)
        assert await broker.publish(ONE) == [False]

        with pytest.raises(BrokerUnavailable, match="does not answer what is published"):
            await broker.ping()
        patch.setattr(publisher, "STALLED_SECONDS", 0.0)
        await broker.ping()

    await eventually(lambda: broker.publish(ONE), [True])
    await broker.ping()


async def test_an_answer_after_the_stall_ends_it(
    broker: RabbitBroker, rabbit_server: RabbitServer, log_book: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 0.3)
    rabbit_server.freeze()
    assert await broker.publish(ONE * 3) == [False] * 3

    rabbit_server.thaw()

    await eventually(lambda: broker.publish(ONE * 100), [True] * 100)
    assert log_book.find("broker.lost") == []
    assert await broker.depth("report") >= 103  # what was not confirmed came all the same


async def test_a_memory_alarm_blocks_publishing_alone_and_hangs_nobody(
    make: Make, rabbit_server: RabbitServer, log_book: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 1.0)
    broker, leaving = await make(), await make()
    inbox = Inbox()
    await broker.publish(ONE * 10)
    await rabbit_server.ctl("set_vm_memory_high_watermark", "0")
    try:
        asked = time.monotonic()
        await asyncio.gather(broker.publish(ONE * 100), leaving.publish(ONE * 100))
        assert time.monotonic() - asked < 15
        monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 60.0)
        asked = time.monotonic()
        assert await broker.publish(ONE * 100) == [False] * 100
        assert time.monotonic() - asked < 30  # known to be blocked: it waits for no confirm
        assert log_book.find("broker.publish_refused", reason="blocked")

        consumer = await broker.consume("report", 5, inbox)
        await consumer.ack(await inbox.take(5))
        await consumer.ack(await inbox.take(5))
        await broker.depth("report")
        await broker.ping()

        leaving.emit(lambda: Event(event=EventName.TASK_STARTED, at=datetime.now(UTC)))
        asked = time.monotonic()
        await leaving.close()
        assert time.monotonic() - asked < 20
    finally:
        await rabbit_server.ctl("set_vm_memory_high_watermark", "0.4")

    await recovered(broker, consumer, inbox)
    assert log_book.find("broker.lost") == []


# Small print


async def test_a_cancelled_publish_disturbs_no_other(broker: RabbitBroker) -> None:
    impatient = asyncio.create_task(broker.publish(ONE * 5_000))
    patient = asyncio.create_task(broker.publish(ONE * 1_000))
    await asyncio.sleep(0)

    impatient.cancel()

    assert await patient == [True] * 1_000
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert await broker.publish(ONE) == [True]
    assert await broker.depth("report") < 5_000


async def test_a_cancelled_question_leaves_the_next_one_its_answer(broker: RabbitBroker) -> None:
    for turns in range(8):
        asking = asyncio.create_task(broker.depth("report"))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

        assert await broker.depth("report") == 0


async def test_refusals_in_an_outage_do_not_flood_the_log(make: Make, log_book: LogBook) -> None:
    broker = await make()
    await broker.close()

    for _ in range(500):
        await broker.publish(ONE)

    assert len(log_book.find("broker.publish_refused", reason="disconnected")) == 1


async def test_events_wait_for_the_connection_and_are_dropped_beyond_the_buffer(
    make: Make, amqp_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BUFFER", 10)
    broker = await make()
    await broker.close()

    for _ in range(25):
        broker.emit(lambda: Event(event=EventName.TASK_STARTED, at=datetime.now(UTC)))

    assert broker.events_dropped == 15
    with foreign_channel(amqp_url) as channel:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, f"{prefix}.events", "#")
        await broker.open(TYPES)
        await eventually(lambda: _count(channel, queue), 10)


async def test_a_listener_is_told_of_an_interruption_and_hears_again_after_it(
    make: Make, rabbit_server: RabbitServer
) -> None:
    broker, sender = await make(), await make()
    heard, gaps = asyncio.Queue[Event](), asyncio.Queue[None]()
    await broker.listen(heard.put_nowait, lambda: gaps.put_nowait(None))

    async def again() -> None:
        """An event is heard that was sent just now."""
        async with asyncio.timeout(30):
            while heard.empty():
                sender.emit(lambda: Event(event=EventName.TASK_STARTED, at=datetime.now(UTC)))
                await asyncio.sleep(0.05)
        while not heard.empty():
            heard.get_nowait()

    await again()
    assert gaps.empty()
    rabbit_server.kill()
    await asyncio.wait_for(gaps.get(), 20)
    while not heard.empty():
        heard.get_nowait()
    await rabbit_server.restart()

    await again()


async def _count(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


async def test_no_line_of_the_log_holds_the_password(rabbit_server: RabbitServer, amqp_url: str, prefix: str) -> None:
    await rabbit_server.ctl("add_user", "someone", "geheim")
    try:
        await rabbit_server.ctl("set_permissions", "someone", ".*", ".*", ".*")
        mine = LogBook()
        url = amqp_url.replace("guest:guest", "someone:geheim")
        broker = RabbitBroker(url, Names(prefix), SystemClock(), mine.logger)
        await broker.open({})
    finally:
        await rabbit_server.ctl("delete_user", "someone")
    await rabbit_server.ctl("close_all_connections", "maintenance")
    await mine.wait("broker.connect_failed")
    await broker.close()

    assert mine.find("broker.lost")
    assert not any("geheim" in str(line) for line in mine.lines)
