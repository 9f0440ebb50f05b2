"""How much waits for workers, and for how long: what to scale them on."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.worker import TaskTypeState
from service.broker.port import DEAD, INTAKE, Broker
from service.envelope import marker
from service.errors import Unavailable
from service.states import RELAY_SLACK
from service.store.port import Store

LOOK_SECONDS = 10.0
"""However many ask, the servers are looked at no more often."""
PATIENCE_SECONDS = 3.0
AGAIN = timedelta(minutes=10)
"""A marker that nobody met for so long may have been lost with the worker that met it: there is another."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one type."""

    messages: int
    """In its queue, not counting those in a worker's hands."""
    seconds: float
    """For how long the one has waited that has been due for longest; to about ten seconds."""


class Backlog:
    """A task that is stored says when it fell due. Of a message from outside only the broker knows, and does not tell:
    there a marker of relay's measures, which is sent behind what waits and reported once a worker has met it (P12)."""

    def __init__(self, store: Store, broker: Broker, types: Collection[str]) -> None:
        self._store, self._broker, self._types = store, broker, types
        self._behind: dict[str, datetime] = {}
        """Task type → when the oldest marker was sent that nobody has met."""
        self._sent: dict[str, datetime] = {}
        self._seen: Mapping[str, Waiting] = {}
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[Mapping[str, Waiting]] | None = None

    async def look(self) -> Mapping[str, Waiting]:
        """Task type (``INTAKE`` and ``DEAD`` too) → what waits for it; at most ten seconds old.

        Empty while the servers do not answer.
        """
        clock = asyncio.get_running_loop()
        if self._looking is None and clock.time() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = clock.time()
            self._looking = asyncio.create_task(self._look(), name="backlog")
        if (looking := self._looking) is not None:
            await asyncio.wait((looking,), timeout=PATIENCE_SECONDS)
            if not looking.done():
                return {}
            self._looking = None
            try:
                self._seen = looking.result()
            except Unavailable:
                self._seen = {}
        return self._seen

    async def close(self) -> None:
        """End a look under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))

    async def _look(self) -> Mapping[str, Waiting]:
        heads = await self._store.upkeep.relay_heads()
        states = await self._store.upkeep.type_states()
        found = {}
        for task_type in self._types:
            messages = await self._broker.depth(task_type)
            now = self._store.clock.now()
            stored = await self._stored(task_type, heads.get(task_type), now)
            queued = await self._queued(task_type, states.get(task_type), now) if messages else None
            if not messages:
                self._behind.pop(task_type, None)
            since = min((at for at in (stored, queued) if at is not None), default=now)
            found[task_type] = Waiting(messages, max(0.0, (now - since).total_seconds()))
        for queue in (INTAKE, DEAD):
            found[queue] = Waiting(await self._broker.depth(queue), 0.0)
        return found

    async def _stored(self, task_type: str, head: datetime | None, now: datetime) -> datetime | None:
        """Since when the stored task is due that relay would look at first; None: none is."""
        if head is None or head > now + RELAY_SLACK:
            return None
        first = await self._store.upkeep.relay_due(task_type, now + RELAY_SLACK, 1)
        return first[0].retry_at if first and first[0].retry_at <= now else None

    async def _queued(self, task_type: str, state: TaskTypeState | None, now: datetime) -> datetime | None:
        """Since when something is known to wait in its queue; None: what did has gone, or was just found."""
        sent = state.marker_sent_at if state is not None else None
        seen = state.marker_seen_at if state is not None else None
        behind = self._behind.get(task_type)
        if behind is None or (seen is not None and seen >= behind):
            behind = sent if sent is not None and (seen is None or sent > seen) else None
        wanted = behind is None or now - self._sent.get(task_type, behind) > AGAIN
        if wanted and await self._store.upkeep.take_marker(task_type, now):
            await self._broker.publish([marker(task_type, now)])
            self._sent[task_type] = now
            behind = behind or now
        if behind is None:
            self._behind.pop(task_type, None)
        else:
            self._behind[task_type] = behind
        return behind
