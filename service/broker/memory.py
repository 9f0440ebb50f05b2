"""A broker inside the process, for embedded mode: queues and timers of the event loop. It forgets everything on close.

What it forgets, relay brings back from the store, as it does for every broker. All methods belong to one event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import structlog
from structlog.typing import FilteringBoundLogger

from schemas.event import ControlMessage, Event
from schemas.queue import Queue, Queues
from service.broker.port import DEAD, INTAKE, Broker, Consumer, Delivery, Listening, Publication
from service.clock import Clock
from service.errors import BrokerUnavailable, ConfigError
from service.log_events import LogEvent

DEAD_LETTERS_MOST = 10_000


@dataclass(frozen=True, slots=True)
class _Message:
    publication: Publication
    message_id: str


@dataclass(eq=False, slots=True)
class _Queue:
    """Messages that wait, and those who take them in turn."""

    name: str
    waiting: deque[_Message] = field(default_factory=deque)
    consumers: deque["MemoryConsumer"] = field(default_factory=deque)
    dispatching: bool = False


class MemoryConsumer(Consumer):
    """One subscription to one queue."""

    def __init__(
        self, broker: "MemoryBroker", queue: _Queue, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._held: dict[int, _Message] = {}
        self._tags = count(1)
        queue.consumers.append(self)

    @property
    def alive(self) -> bool:
        return self in self._queue.consumers

    @property
    def has_room(self) -> bool:
        """Whether it may be given another message."""
        return len(self._held) < self._prefetch

    def deliver(self, message: _Message, received_at: float) -> None:
        """Hand over one message, which counts as in hand until it is acked or requeued."""
        tag = next(self._tags)
        self._held[tag] = message
        publication = message.publication
        delivery = Delivery(
            body=publication.body,
            headers=dict(publication.headers),
            routing_key=publication.task_type,
            message_id=message.message_id,
            content_type="application/json",
            queue=self._queue.name,
            received_at=received_at,
            tag=(self, tag),
        )
        try:
            self._on_delivery(delivery)
        except Exception:
            self._broker.log.exception(LogEvent.CONSUMER_CALLBACK_FAILED, queue=self._queue.name)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._take_back(deliveries)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        self._queue.waiting.extendleft(reversed(self._take_back(deliveries)))

    async def cancel(self) -> None:
        if self.alive:
            self._queue.consumers.remove(self)

    def _take_back(self, deliveries: Sequence[Delivery]) -> list[_Message]:
        """In the order of delivery, whatever order they come back in. What is not held is none of ours any more."""
        tags = sorted(delivery.tag[1] for delivery in deliveries if delivery.tag[0] is self)
        messages = [self._held.pop(tag) for tag in tags if tag in self._held]
        self._broker.dispatch(self._queue)
        return messages


class MemoryBroker(Broker):
    """See the port for the contract. What it cannot do: outlive the process, or be spoken to from outside."""

    def __init__(self, clock: Clock, log: FilteringBoundLogger | None = None) -> None:
        self._clock = clock
        self.log: FilteringBoundLogger = log or structlog.get_logger()
        self._opened = False
        self._queues: dict[str, _Queue] = {}
        self._routes: dict[str, list[_Queue]] = {}
        self._dead: deque[_Message] = deque(maxlen=DEAD_LETTERS_MOST)
        self._timers: dict[asyncio.TimerHandle, _Message] = {}
        self._message_ids = count(1)
        self._event_callbacks: list[Callable[[Event], None]] = []
        self._control_callbacks: list[Callable[[ControlMessage], None]] = []

    async def open(self, types: Mapping[str, Sequence[str]]) -> None:
        self._opened = True
        self._queues.setdefault(INTAKE, _Queue(INTAKE))
        for task_type, aliases in types.items():
            queue = self._queues.setdefault(task_type, _Queue(task_type))
            for key in (task_type, *aliases):
                bound = self._routes.setdefault(key, [])
                if queue not in bound:
                    bound.append(queue)

    async def close(self) -> None:
        self._opened = False
        for timer in self._timers:
            timer.cancel()
        for queue in self._queues.values():
            queue.waiting.clear()
            queue.consumers.clear()
        self._timers.clear()
        self._queues.clear()
        self._routes.clear()
        self._dead.clear()

    async def publish(self, publications: Sequence[Publication]) -> list[bool]:
        if not self._opened:
            return [False] * len(publications)
        for publication in publications:
            message = _Message(publication, f"memory-{next(self._message_ids)}")
            if publication.dead:
                self._dead.append(message)
            elif publication.delay is not None:
                self._route_later(message, publication.delay.total_seconds())
            else:
                self._route(message)
        return [True] * len(publications)

    async def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Consumer:
        self._require_open()
        if queue not in self._queues:
            raise ConfigError(f"there is no queue for the task type {queue!r}: it was not given to open()")
        consumer = MemoryConsumer(self, self._queues[queue], prefetch, on_delivery)
        self.dispatch(self._queues[queue])
        return consumer

    async def depth(self, queue: str) -> int:
        self._require_open()
        if queue == DEAD:
            return len(self._dead)
        return len(self._queues[queue].waiting) if queue in self._queues else 0

    async def look(self) -> Queues:
        self._require_open()
        types = sorted(name for name in self._queues if name != INTAKE)
        return Queues(
            queues=[
                Queue(
                    task_type=name,
                    name=name,
                    ready=len(self._queues[name].waiting),
                    consumers=len(self._queues[name].consumers),
                )
                for name in types
            ],
            delayed=len(self._timers),
            intake=len(self._queues[INTAKE].waiting),
            dead_letters=len(self._dead),
        )

    def emit(self, make: Callable[[], Event]) -> None:
        if self._event_callbacks:
            self._call_soon(self._event_callbacks, make())

    @property
    def events_dropped(self) -> int:
        """Always 0: what is handed over in the process needs no buffer."""
        return 0

    async def listen(self, on_event: Callable[[Event], None], on_gap: Callable[[], None]) -> Listening:
        self._require_open()
        self._event_callbacks.append(on_event)

        async def close() -> None:
            if on_event in self._event_callbacks:
                self._event_callbacks.remove(on_event)

        return Listening(close)

    async def send_control(self, message: ControlMessage) -> None:
        self._call_soon(self._control_callbacks, message)

    def on_control(self, callback: Callable[[ControlMessage], None]) -> None:
        self._control_callbacks.append(callback)

    async def ping(self) -> None:
        self._require_open()

    def dispatch(self, queue: _Queue) -> None:
        """Soon, hand what waits to consumers that have room. Not now: ``publish`` must not run a consumer's code."""
        if not queue.dispatching:
            queue.dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch, queue)

    def _dispatch(self, queue: _Queue) -> None:
        queue.dispatching = False
        now = self._clock.monotonic()
        while queue.waiting and (consumer := self._next_consumer(queue)) is not None:
            consumer.deliver(queue.waiting.popleft(), now)

    def _next_consumer(self, queue: _Queue) -> MemoryConsumer | None:
        """Round robin among those that have room."""
        for _ in range(len(queue.consumers)):
            consumer = queue.consumers[0]
            queue.consumers.rotate(-1)
            if consumer.has_room:
                return consumer
        return None

    def _route(self, message: _Message) -> None:
        for queue in self._routes.get(message.publication.task_type) or (self._queues[INTAKE],):
            queue.waiting.append(message)
            self.dispatch(queue)

    def _route_later(self, message: _Message, seconds: float) -> None:
        def due() -> None:
            del self._timers[timer]
            self._route(message)

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._timers[timer] = message

    def release_delayed(self) -> None:
        """Deliver now what waits for its time; a worker sends back what is early. For tests that move the clock."""
        delayed, self._timers = self._timers, {}
        for timer, message in delayed.items():
            timer.cancel()
            self._route(message)

    def _call_soon(self, callbacks: Sequence[Callable[..., None]], message: Event | ControlMessage) -> None:
        if self._opened:
            for callback in callbacks:
                asyncio.get_running_loop().call_soon(callback, message)

    def _require_open(self) -> None:
        if not self._opened:
            raise BrokerUnavailable("the in-process broker is not open")
