"""The broker port on RabbitMQ: one connection publishes, another does the rest.

They are separate because a broker that runs out of memory or disk stops reading from connections that publish; on the
other one, consuming, acknowledging and asking go on.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import structlog
from aiormq import Channel
from aiormq.abc import AbstractConnection
from structlog.typing import FilteringBoundLogger

from schemas.event import ControlMessage, Event
from schemas.queue import Queue, Queues
from service.broker.names import Names
from service.broker.port import DEAD, DELAY_LADDER, INTAKE, Broker, Consumer, Delivery, Listening, Publication
from service.broker.rabbitmq.address import parse_address
from service.broker.rabbitmq.admin import Admin
from service.broker.rabbitmq.consumer import RabbitConsumer
from service.broker.rabbitmq.control import read_control
from service.broker.rabbitmq.driver import RPC_SECONDS, bounded, whenever_done
from service.broker.rabbitmq.events import EventSender, read_event
from service.broker.rabbitmq.link import Link
from service.broker.rabbitmq.listener import Listener
from service.broker.rabbitmq.publisher import Publisher
from service.broker.rabbitmq.topology import control_queue, declare, event_queue, topology
from service.broker.rabbitmq.wire import Outgoing
from service.clock import Clock
from service.errors import BrokerUnavailable, ConfigError
from service.log_events import LogEvent

FLUSH_SECONDS = 0.5
"""How long ``close`` waits for the last events."""


class RabbitBroker(Broker):
    """RabbitMQ 3.10 or later. See the port for the contract."""

    def __init__(self, url: str, names: Names, clock: Clock, log: FilteringBoundLogger | None = None) -> None:
        """``url``: ``amqp://`` or ``amqps://``; ``?heartbeat=`` seconds (10). Raises ConfigError if it is none."""
        self._address = parse_address(url)
        self._names = names
        self._clock = clock
        self._log: FilteringBoundLogger = log or structlog.get_logger()
        self._types: dict[str, tuple[str, ...]] = {}
        self._consumers: set[RabbitConsumer] = set()
        self._control_callbacks: list[Callable[[ControlMessage], None]] = []
        self._repairing: asyncio.Task[None] | None = None
        self._publisher = Publisher(self._repair, self._log)
        self._events = EventSender(names.events)
        self._publishing = Link(self._address, "publishing", self._ready_to_publish, self._not_publishing, self._log)
        self._consuming = Link(self._address, "consuming", self._declare, lambda: None, self._log)
        self._admin = Admin(self._consuming, self._address, self._declare)
        self._control = Listener(
            self._consuming,
            self._address,
            names.control,
            "",
            names.control_queue,
            control_queue(),
            read_control(self._receive_control, self._log),
            lambda: None,
            self._redeclare,
            self._log,
        )
        self._event_listeners: set[Listener] = set()

    async def open(self, types: Mapping[str, Sequence[str]]) -> None:
        self._types = {task_type: tuple(aliases) for task_type, aliases in types.items()}
        try:
            await self._consuming.open()
            await self._publishing.open()
            await self._control.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._events.flush(FLUSH_SECONDS)
        if self._repairing is not None:
            self._repairing.cancel()
        consumers, self._consumers = self._consumers, set()
        listeners, self._event_listeners = self._event_listeners, set()
        forsaken = [*(consumer.forsake() for consumer in consumers), *(each.forsake() for each in listeners)]
        await asyncio.gather(self._control.forsake(), *forsaken)
        await asyncio.gather(self._publishing.close(), self._consuming.close())

    async def publish(self, publications: Sequence[Publication]) -> list[bool]:
        return await self._publisher.send([self._addressed(publication) for publication in publications])

    async def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Consumer:
        if queue != INTAKE and queue not in self._types:
            raise ConfigError(f"there is no queue for the task type {queue!r}: it was not given to open()")
        consumer = RabbitConsumer(
            self._consuming,
            self._address,
            (queue, self._queue_name(queue)),
            prefetch,
            on_delivery,
            self._redeclare,
            self._clock,
            self._log,
        )
        await consumer.open()
        self._consumers = {each for each in self._consumers if not each.finished} | {consumer}
        return consumer

    async def depth(self, queue: str) -> int:
        return (await self._look_at(self._queue_name(queue), queue in self._types or queue in {INTAKE, DEAD}))[0]

    async def look(self) -> Queues:
        queues = []
        for task_type in sorted(self._types):
            name = self._names.queue(task_type)
            ready, consumers = await self._look_at(name)
            queues.append(Queue(task_type=task_type, name=name, ready=ready, consumers=consumers))
        delays = [(await self._look_at(self._names.delay(step)))[0] for step in DELAY_LADDER]
        return Queues(
            queues=queues,
            delayed=sum(delays),
            intake=await self.depth(INTAKE),
            dead_letters=await self.depth(DEAD),
        )

    async def _look_at(self, name: str, ours: bool = True) -> tuple[int, int]:
        """Messages and consumers. One of ours that is gone is declared afresh."""
        try:
            found = await self._admin.look(name)
            if found is None and ours:
                await self._redeclare()
        except ConfigError as exc:
            # It was right when we opened: someone is changing it, and may be about to change it back.
            raise BrokerUnavailable(str(exc)) from exc
        return found or (0, 0)

    def emit(self, make: Callable[[], Event]) -> None:
        self._events.emit(make)

    @property
    def events_dropped(self) -> int:
        return self._events.dropped

    async def listen(self, on_event: Callable[[Event], None], on_gap: Callable[[], None]) -> Listening:
        listener = Listener(
            self._consuming,
            self._address,
            self._names.events,
            "#",
            self._names.events_queue,
            event_queue(),
            read_event(on_event, self._log),
            on_gap,
            self._redeclare,
            self._log,
        )
        self._event_listeners.add(listener)
        try:
            await listener.open()
        except BaseException:
            self._event_listeners.discard(listener)
            raise

        async def close() -> None:
            if listener in self._event_listeners:
                self._event_listeners.discard(listener)
                await listener.close()

        return Listening(close)

    async def send_control(self, message: ControlMessage) -> None:
        body = message.model_dump_json(by_alias=True).encode()
        await self._publisher.send([Outgoing(self._names.control, "", body, {}, mandatory=False)])

    def on_control(self, callback: Callable[[ControlMessage], None]) -> None:
        self._control_callbacks.append(callback)

    @property
    def errors(self) -> int:
        return self._publishing.errors + self._consuming.errors + self._publisher.refused

    @property
    def reconnects(self) -> int:
        return self._publishing.reconnects + self._consuming.reconnects

    @property
    def server(self) -> str:
        driver = self._consuming.driver
        said = (driver.server_properties if driver is not None else None) or {}
        return " ".join(str(said[name]) for name in ("product", "version") if name in said)

    async def ping(self) -> None:
        self._publishing.require()
        await self._admin.ping()
        # Its queues may be down while the node answers all else: after a full disk, for one.
        if self._publisher.stalled:
            raise BrokerUnavailable(f"{self._address.shown} does not answer what is published")

    def _queue_name(self, queue: str) -> str:
        if queue == INTAKE:
            return self._names.intake
        if queue == DEAD:
            return self._names.dead_letters
        return self._names.queue(queue)

    def _addressed(self, publication: Publication) -> Outgoing:
        if publication.dead:
            exchange = self._names.dead
        elif publication.delay is not None:
            exchange = self._names.delay(publication.delay)
        else:
            exchange = self._names.tasks
        return Outgoing(exchange, publication.task_type, publication.body, publication.headers)

    async def _declare(self, connection: AbstractConnection) -> None:
        await declare(connection, topology(self._names, self._types), self._address)
        await asyncio.gather(*(listener.rebind() for listener in (self._control, *self._event_listeners)))

    async def _redeclare(self) -> None:
        await self._admin.redeclare()

    def _repair(self) -> None:
        """Declare everything anew, in the background: a message reached no queue."""
        if self._repairing is None or self._repairing.done():
            self._repairing = asyncio.create_task(self._repair_quietly(), name="broker repair")

    async def _repair_quietly(self) -> None:
        try:
            await self._redeclare()
        except (BrokerUnavailable, ConfigError) as exc:
            self._log.warning(LogEvent.BROKER_REDECLARE_FAILED, reason=str(exc))

    async def _ready_to_publish(self, connection: AbstractConnection) -> None:
        # Before the first message: after an outage, the broker may have come back empty.
        await self._declare(connection)
        confirmed = await self._open_channel(connection, publisher_confirms=True)
        unconfirmed = await self._open_channel(connection, publisher_confirms=False)
        broken = partial(self._publishing.reset, connection)
        for channel in (confirmed, unconfirmed):
            # A message to a missing exchange costs the channel. A new connection declares it.
            whenever_done(channel.closing, partial(broken, "a channel for publishing was closed"))
        self._publisher.attach(confirmed, broken)
        self._events.attach(unconfirmed, broken)

    def _not_publishing(self) -> None:
        self._publisher.detach()
        self._events.detach()

    async def _open_channel(self, connection: AbstractConnection, publisher_confirms: bool) -> Channel:
        opening = connection.channel(publisher_confirms=publisher_confirms, on_return_raises=publisher_confirms)
        return cast("Channel", await bounded(opening, RPC_SECONDS, self._address, "opening a channel"))

    def _receive_control(self, message: ControlMessage) -> None:
        for callback in self._control_callbacks:
            try:
                callback(message)
            except Exception:
                self._log.exception(LogEvent.CONTROL_CALLBACK_FAILED, command=message.command)
