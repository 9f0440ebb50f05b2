"""The last events, for those who listen: a short ring to resume from, and a bounded queue for each listener."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from secrets import token_hex

from schemas.event import Event, Gap

RING_MOST = 5_000
RING_SECONDS = 60.0
"""How many events a ring holds, and how old they get: a listener that is back by then has missed nothing."""
LONGEST_NUMBER = 20
"""Digits of the number of an event."""
QUEUE_MOST = RING_MOST
"""How many a listener may be behind, so that who comes back can have the whole ring; what is more is dropped, and
told."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, or a gap that everybody has, and its place."""

    id: str
    what: Event | Gap
    at: float
    """Monotonic seconds."""


class EventRing:
    """Ids are ``<source>-<number>``: those of another process, or of this one before it was started again, are known as
    such."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._source, self._number = token_hex(4), 0
        self._entries: deque[Entry] = deque()
        self._listeners: set[EventListener] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def put(self, what: Event | Gap) -> None:
        """The newest; for the ring, and for whoever listens."""
        self._number += 1
        entry = Entry(f"{self._source}-{self._number}", what, self._monotonic())
        self._entries.append(entry)
        self._forget()
        for listener in self._listeners:
            listener.offer(entry)

    def join(self, types: Collection[str] = (), last_id: str | None = None) -> "EventListener":
        """Listen from now on; with ``last_id`` from after that entry, or from a gap if it is not known any more."""
        listener = EventListener(types)
        if last_id is not None:
            self._resume(listener, last_id)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: "EventListener") -> None:
        self._listeners.discard(listener)

    def _resume(self, listener: "EventListener", last_id: str) -> None:
        self._forget()
        source, _, text = last_id.rpartition("-")
        # Python does not read a number of any length.
        if source != self._source or not text.isdecimal() or len(text) > LONGEST_NUMBER or int(text) > self._number:
            listener.tell(
                Gap(reason="the last event id is not of this process: it was started after that, or is another")
            )
            return
        oldest = self._number - len(self._entries)
        missed = oldest - int(text)
        if missed > 0:
            listener.tell(Gap(reason=f"only the events of the last {RING_SECONDS:g} s are kept", missed=missed))
        for entry in self._entries:
            if int(entry.id.rpartition("-")[2]) > int(text):
                listener.offer(entry)

    def _forget(self) -> None:
        oldest = self._monotonic() - RING_SECONDS
        while self._entries and (len(self._entries) > RING_MOST or self._entries[0].at < oldest):
            self._entries.popleft()


class EventListener:
    """One who listens, and how far he is behind."""

    def __init__(self, types: Collection[str]) -> None:
        self._types = frozenset(types)
        self._queue: deque[Entry | Gap] = deque()
        self._missed = 0
        self._rung = asyncio.Event()

    def offer(self, entry: Entry) -> None:
        """Never waits: who is too far behind misses it."""
        if self._types and isinstance(entry.what, Event) and entry.what.event not in self._types:
            return
        if len(self._queue) >= QUEUE_MOST:
            self._missed += 1
            return
        self._tell_missed()
        self._queue.append(entry)
        self._rung.set()

    def tell(self, gap: Gap) -> None:
        """Of him alone."""
        self._queue.append(gap)
        self._rung.set()

    def ring(self) -> None:
        """End his waiting."""
        self._rung.set()

    async def take(self, most: int, seconds: float) -> list[Entry | Gap]:
        """What there is, as soon as there is something; nothing, when the time is up or somebody rang."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return []
        taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        if not self._queue:
            self._tell_missed()
        if not self._queue:
            self._rung.clear()
        return taken

    def _tell_missed(self) -> None:
        """Behind what came before it, and ahead of what comes after."""
        if self._missed:
            self._queue.append(Gap(reason="you read more slowly than events come", missed=self._missed))
            self._missed = 0
