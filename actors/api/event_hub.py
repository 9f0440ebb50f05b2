"""Events from the broker, for all who listen through this process."""

import asyncio
from collections.abc import AsyncIterator, Collection

import structlog

from schemas.event import Event, Gap
from service.broker.port import Broker, Listening
from service.clock import Clock
from service.errors import Unavailable
from service.event_ring import RING_SECONDS, Entry, EventRing

log = structlog.get_logger()

MOST_LISTENERS = 100
BEAT_SECONDS = 15.0
"""A comment this often keeps the connection from looking dead."""
RETRY_MILLISECONDS = 2_000
"""When a client that lost its connection should be back."""
CHUNK = 100


class EventHub:
    """Listens to the broker from the first listener on, until the ring is of no use to the last one any more."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._ring = EventRing(clock.monotonic)
        self._listening: Listening | None = None
        self._lock = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises Unavailable: the broker does not answer, or too many listen already."""
        if self._ring.listeners >= MOST_LISTENERS:
            raise Unavailable(f"{MOST_LISTENERS} clients listen to the events of this process already; try another")
        self._keep()
        async with self._lock:
            if self._listening is None:
                self._listening = await self._broker.listen(self._ring.put, self._interrupted)

    async def stream(self, types: Collection[str], last_id: str | None, closing: asyncio.Event) -> AsyncIterator[str]:
        """Server-sent events, until ``closing`` is set or the reader goes."""
        listener = self._ring.join(types, last_id)
        closed = asyncio.create_task(closing.wait(), name="events closing")
        closed.add_done_callback(lambda _: listener.ring())
        try:
            yield f": verger\nretry: {RETRY_MILLISECONDS}\n\n"
            while not closing.is_set():
                taken = await listener.take(CHUNK, BEAT_SECONDS)
                yield "".join(map(_frame, taken)) or ": alive\n\n"
        finally:
            closed.cancel()
            self._ring.leave(listener)
            if not self._ring.listeners:
                self._keep()
                self._ending = asyncio.create_task(self._end_later(), name="events ending")

    def _interrupted(self) -> None:
        self._ring.put(Gap(reason="the connection to the broker was interrupted"))

    def _keep(self) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.cancel()

    async def _end_later(self) -> None:
        await asyncio.sleep(RING_SECONDS)
        async with self._lock:
            listening, self._listening = self._listening, None
            if listening is not None:
                await listening.close()
                # What comes after the pause does not follow on what was before it.
                self._ring.put(Gap(reason="nobody listened for a while"))


def _frame(told: Entry | Gap) -> str:
    if isinstance(told, Gap):
        # Without an id: whoever comes back with the last one he saw gets what he missed, if it is still there.
        return f"event: gap\ndata: {told.model_dump_json(by_alias=True)}\n\n"
    name = told.what.event if isinstance(told.what, Event) else "gap"
    return f"id: {told.id}\nevent: {name}\ndata: {told.what.model_dump_json(by_alias=True)}\n\n"
