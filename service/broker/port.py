"""What the engine asks of a broker. The broker is the doorbell: it may lose or repeat a message; the store is the
truth."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from schemas.event import ControlMessage, Event
from schemas.queue import Queues

STORED = "verger-stored"
"""Header ``1``: the task has a record already, so no record may be made from the message (P2)."""
RETRY_AT = "verger-retry-at"
"""Header: epoch milliseconds before which the task is not eligible; spares a store read (P3)."""
MARKER = "verger-marker"
"""Header: epoch milliseconds of the relay that sent it; the message is no task (P12)."""

DELAY_LADDER = tuple(timedelta(seconds=s) for s in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600))


def rung(wait: timedelta) -> timedelta:
    """The longest delay of the ladder that fits into ``wait``; the shortest when none fits."""
    return max((step for step in DELAY_LADDER if step <= wait), default=DELAY_LADDER[0])


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to send. Persistent; confirmed."""

    task_type: str
    """Routing key."""
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    delay: timedelta | None = None
    """A rung of the ladder: it reaches the type's queue after this long."""
    dead: bool = False
    """To the dead-letter exchange instead of the task exchange."""

    def __post_init__(self) -> None:
        if self.delay is not None and self.delay not in DELAY_LADDER:
            raise ValueError(f"a delay of {self.delay} is no rung of the ladder; ask rung() for one")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message in hand; ``Consumer.ack`` or ``Consumer.requeue`` ends that."""

    body: bytes
    headers: Mapping[str, Any]
    routing_key: str
    message_id: str | None
    content_type: str | None
    queue: str
    """The task type whose queue it came from, or ``INTAKE``."""
    received_at: float
    """``clock.monotonic()`` when it arrived: a delivery held too long is requeued, not claimed (P10)."""
    tag: Any
    """The adapter's own."""


INTAKE = "@intake"
DEAD = "@dead"
"""Queues that belong to no task type: no type is called so."""


class Consumer(Protocol):
    """One subscription to one queue."""

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these. Batched; on a lost connection it does nothing: the broker will deliver again. Never raises
        Unavailable."""

    @abstractmethod
    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Back to the queue, for anyone. On a lost connection that happens by itself. Never raises Unavailable."""

    @abstractmethod
    async def cancel(self) -> None:
        """Take no more. What is in hand stays in hand, and can still be acked or requeued. Bounded in time; never
        raises Unavailable."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the broker still feeds this subscription, as far as this side can know."""


@dataclass(frozen=True, slots=True)
class Listening:
    """One listener for events, until it is closed; never raises Unavailable."""

    close: Callable[[], Awaitable[None]]


class Broker(Protocol):
    """Publish, consume, look.

    All names come from ``service/broker/names.py``. Every call is bounded in time. After ``open`` the adapter
    reconnects by
    itself, redeclares the topology and resumes its consumers; a consumer that died although the connection lives is
    rebuilt.
    """

    @abstractmethod
    async def open(self, types: Mapping[str, Sequence[str]]) -> None:
        """Connect and declare everything: the queues of ``types`` (task type → aliases), delays, intake, dead letters,
        events, control.

        Repeats quietly what exists. Raises BrokerUnavailable when the server cannot be reached within a few seconds,
        and
        ConfigError when what exists has other arguments or permissions are missing.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; bounded in time; never raises Unavailable."""

    @abstractmethod
    async def publish(self, publications: Sequence[Publication]) -> list[bool]:
        """Send all, pipelined; True for each that the broker confirmed and could route.

        False: not confirmed (refused, returned, link lost, or no answer in time); it may still arrive. Never raises
        Unavailable:
        the caller's record in the store brings back what is lost. The reason is logged.
        """

    @abstractmethod
    async def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Consumer:
        """Subscribe to the queue of a task type, or to ``INTAKE``. At most ``prefetch`` are in hand at once.

        ``on_delivery`` is called in the event loop's thread, must not block and must not raise. Raises
        BrokerUnavailable.
        """

    @abstractmethod
    async def depth(self, queue: str) -> int:
        """How many messages wait, not counting those in a consumer's hands; of a task type, ``INTAKE`` or ``DEAD``.

        A queue that is gone is declared afresh (0 waits). Raises BrokerUnavailable.
        """

    @abstractmethod
    async def look(self) -> Queues:
        """Every queue, for people. A question to the server for each: nothing to ask all the time.

        Raises BrokerUnavailable.
        """

    @abstractmethod
    def emit(self, make: Callable[[], Event]) -> None:
        """Send an event: unconfirmed, best effort, never waits. A full buffer drops it before it is made, and counts
        (``events_dropped``)."""

    @property
    @abstractmethod
    def events_dropped(self) -> int: ...

    @abstractmethod
    async def listen(self, on_event: Callable[[Event], None], on_gap: Callable[[], None]) -> "Listening":
        """Call back for each event that any process emits from now on, as far as this broker reaches.

        Best effort: events that were dropped are not known here, and a listener that is too slow loses the oldest.
        ``on_gap`` follows each interruption, during which events may have been missed; the adapter listens again by
        itself. Both are called in the event loop's thread, and must not block. Raises BrokerUnavailable.
        """

    @abstractmethod
    async def send_control(self, message: ControlMessage) -> None:
        """Tell every process, this one included. Best effort; never raises Unavailable."""

    @abstractmethod
    def on_control(self, callback: Callable[[ControlMessage], None]) -> None:
        """Call back for each control message; several callbacks may be given. Before or after ``open``."""

    @property
    def errors(self) -> int:
        """How many connections were lost or could not be made, and how many publishes were not confirmed."""
        return 0

    @property
    def reconnects(self) -> int:
        """How many connections were made again."""
        return 0

    @property
    def server(self) -> str:
        """Product and version of the server, for people; empty: there is none, or it is not connected."""
        return ""

    @abstractmethod
    async def ping(self) -> None:
        """A round trip to the server. Raises BrokerUnavailable."""
