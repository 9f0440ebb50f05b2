"""Prune: finished tasks that nobody needs any more, in bounded batches (P14)."""

from datetime import timedelta

import structlog

from actors.scheduler.duty import Duty
from schemas.event import Event, EventName
from schemas.task import TaskStatus
from service.broker.port import Broker
from service.log_events import LogEvent
from service.settings import Settings
from service.store.port import Retention, Store

log = structlog.get_logger()

EVERY = timedelta(minutes=5)
BATCH = 1000
MOST_SECONDS = 5.0


class Prune(Duty):
    """Looks every five minutes, and at once again while batches are full."""

    name = "prune"

    def __init__(self, store: Store, broker: Broker, settings: Settings) -> None:
        self._store, self._broker = store, broker
        self._retention = Retention(
            window=settings.idempotency_window,
            completed=settings.retention,
            dead=settings.dead_letter_retention,
            keep_completed=settings.keep_completed,
        )
        self._audit_retention = settings.audit_retention
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
        await self._prune_audit(begun)
        if total:
            counts = {
                "completed": total.get(TaskStatus.COMPLETED, 0),
                "cancelled": total.get(TaskStatus.CANCELLED, 0),
                "failed": total.get(TaskStatus.FAILED, 0),
            }
            log.info(LogEvent.TASKS_PRUNED, **counts)
            now = self._store.clock.now()
            self._broker.emit(lambda: Event(event=EventName.GC_COMPLETED, at=now, detail=counts))
        if not pruned:
            self._next = self._store.clock.monotonic() + EVERY.total_seconds()
        return timedelta(seconds=1) if pruned else EVERY

    async def _prune_audit(self, begun: float) -> None:
        before = self._store.clock.now() - self._audit_retention
        while await self._store.audit.prune(before, BATCH) == BATCH:
            if self._store.clock.monotonic() - begun > MOST_SECONDS:
                return
