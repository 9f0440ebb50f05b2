"""Prune: finished tasks that nobody needs any more, in bounded batches (P14)."""

from datetime import timedelta

import structlog

from actors.scheduler.duty import Duty
from service.settings import Settings
from service.store.port import Retention, Store

log = structlog.get_logger()

EVERY = timedelta(minutes=5)
BATCH = 1000
MOST_SECONDS = 5.0


class Prune(Duty):
    """Looks every five minutes, and at once again while batches are full."""

    name = "prune"

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._retention = Retention(
            window=settings.idempotency_window,
            completed=settings.retention,
            dead=settings.dead_letter_retention,
            keep_completed=settings.keep_completed,
        )
        self._next = store.clock.monotonic()

    async def tick(self) -> timedelta:
        begun = self._store.clock.monotonic()
        if begun < self._next:
            return timedelta(seconds=self._next - begun)
        total: dict[str, int] = {}
        while pruned := await self._store.upkeep.prune(self._retention, self._store.clock.now(), BATCH):
            for status, count in pruned.items():
                total[status] = total.get(status, 0) + count
            if self._store.clock.monotonic() - begun > MOST_SECONDS:
                break
        if total:
            log.info("tasks.pruned", **total)
        if not pruned:
            self._next = self._store.clock.monotonic() + EVERY.total_seconds()
        return timedelta(seconds=1) if pruned else EVERY
