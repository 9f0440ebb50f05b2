"""Events: from a bounded buffer to the broker, unconfirmed, at no more than a fixed rate; and back from it."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from aiormq import Channel
from aiormq.abc import ChannelFrame
from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from schemas.event import Event
from service.broker.rabbitmq.wire import TRANSIENT, Outgoing, encode
from service.log_events import LogEvent

EVENTS_PER_SECOND = 200
"""The budget: what telling takes from doing. At full throughput, most events are dropped and counted."""
BUFFER = 1_000
"""Some seconds of it: a burst fits, and what is told is not old."""
CHUNK = 25
EVERY_SECONDS = 0.1
"""How long an event may wait for others, so that they share a write; the first after a rest goes at once."""
LARGEST_BYTES = 64 * 1024


class EventSender:
    """Sends on whatever channel there is; keeps what fits while there is none."""

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self._buffer: deque[Event] = deque()
        self._work = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def emit(self, make: Callable[[], Event]) -> None:
        """Never waits; a full buffer drops the event before it is made."""
        if len(self._buffer) >= BUFFER:
            self.dropped += 1
            return
        self._buffer.append(make())
        self._empty.clear()
        self._work.set()

    def attach(self, channel: Channel, on_broken: Callable[[str], None]) -> None:
        """Send on this channel, which has no confirms and is used by nobody else."""

        def done(task: "asyncio.Task[None]") -> None:
            if not task.cancelled():
                on_broken(f"the event sender failed: {task.exception()!r}")

        self.detach()
        self._task = asyncio.create_task(self._send(channel), name="broker events")
        self._task.add_done_callback(done)

    def detach(self) -> None:
        """The channel is lost, and with it at most one chunk."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def flush(self, seconds: float) -> None:
        """Wait until the buffer is empty, but not longer than this and not without a connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds if self._task is not None else 0):
                await self._empty.wait()

    async def _send(self, channel: Channel) -> None:
        while True:
            await self._work.wait()
            await channel.connection.ready()  # returns when no resource alarm blocks us
            chunk = [self._buffer.popleft() for _ in range(min(CHUNK, len(self._buffer)))]
            payload = b"".join(self._encoded(channel, event) for event in chunk)
            await channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
            if not self._buffer:
                self._work.clear()
                self._empty.set()
            await asyncio.sleep(max(len(chunk) / EVENTS_PER_SECOND, EVERY_SECONDS))

    def _encoded(self, channel: Channel, event: Event) -> bytes:
        try:
            body = event.model_dump_json(by_alias=True).encode()
            message = Outgoing(self._exchange, event.event, body, {}, mandatory=False, delivery_mode=TRANSIENT)
            return encode(channel, message, message_id=None)
        except ValueError:  # a detail that JSON, or a header that AMQP cannot carry
            self.dropped += 1
            return b""


def read_event(on_event: Callable[[Event], None], log: FilteringBoundLogger) -> Callable[[bytes], None]:
    """What takes the bytes of a message, and hands on the event; a stranger's nonsense is a line in the log."""

    def read(body: bytes) -> None:
        try:
            event = Event.model_validate_json(body[:LARGEST_BYTES])
        except ValidationError as exc:
            problems = exc.errors(include_input=False, include_url=False)
            log.warning(LogEvent.EVENT_REFUSED, reason=str(problems)[:500], size=len(body))
            return
        try:
            on_event(event)
        except Exception:
            log.exception(LogEvent.EVENT_CALLBACK_FAILED, name=event.event)

    return read
