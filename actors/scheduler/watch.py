"""Watch: tidies the workers' records, and says when a schedule is overdue: once per change, whichever scheduler."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from actors.scheduler.duty import Duty
from schemas.event import Event, EventName
from schemas.schedule import Schedule
from service.broker.port import Broker
from service.freshness import overdue_since
from service.log_events import LogEvent
from service.metrics import Metrics
from service.store.port import Store

log = structlog.get_logger()

EVERY = timedelta(seconds=60)
FORGET_AFTER = timedelta(hours=1)


class Watch(Duty):
    """Freshness: the last success is older than two cadences, or than what the schedule expects.

    Whoever sets ``overdueSince`` on the schedule tells of it; so it is told once, however many schedulers run and
    however often they start.
    """

    name = "watch"

    def __init__(self, store: Store, broker: Broker, metrics: Metrics) -> None:
        self._store, self._broker, self._metrics = store, broker, metrics
        self._next = store.clock.monotonic()

    async def tick(self) -> timedelta:
        begun = self._store.clock.monotonic()
        if begun < self._next:
            return timedelta(seconds=self._next - begun)
        await self._store.sync_clock()
        now = self._store.clock.now()
        await self._store.workers.prune(now - FORGET_AFTER)
        schedules = await self._store.schedules.all()
        self._measure(schedules, now)
        for schedule in schedules:
            await self._look_at(schedule, now)
        self._next = begun + EVERY.total_seconds()
        return EVERY

    def _measure(self, schedules: Sequence[Schedule], now: datetime) -> None:
        metrics = self._metrics
        metrics.overdue.replace({(each.id,): float(overdue_since(each, now) is not None) for each in schedules})
        metrics.last_success.replace(
            {(each.id,): each.last_success_at.timestamp() for each in schedules if each.last_success_at is not None}
        )
        metrics.skipped.replace(
            {(each.id, reason): count for each in schedules for reason, count in each.skipped.items()}
        )

    async def _look_at(self, schedule: Schedule, now: datetime) -> None:
        since = overdue_since(schedule, now)
        changed = (since is None) != (schedule.overdue_since is None)
        if changed and await self._store.schedules.mark_overdue(schedule, since):
            if since is not None:
                self._overdue(schedule, since, now)
            else:
                self._recovered(schedule, now)

    def _overdue(self, schedule: Schedule, since: datetime, now: datetime) -> None:
        detail = {"lastSuccessAt": _iso(schedule.last_success_at), "overdueSince": _iso(since)}
        log.warning(
            LogEvent.SCHEDULE_OVERDUE,
            schedule_id=schedule.id,
            task_type=schedule.task_type,
            last_success_at=detail["lastSuccessAt"],
            overdue_since=detail["overdueSince"],
        )
        self._tell(EventName.SCHEDULE_OVERDUE, schedule, now, detail)

    def _recovered(self, schedule: Schedule, now: datetime) -> None:
        told = schedule.overdue_since
        assert told is not None
        succeeded = schedule.last_success_at is not None and schedule.last_success_at >= told
        reason = "succeeded" if succeeded else "edited" if schedule.enabled else "paused"
        log.info(LogEvent.SCHEDULE_RECOVERED, schedule_id=schedule.id, task_type=schedule.task_type, reason=reason)
        detail = {"lastSuccessAt": _iso(schedule.last_success_at), "overdueSince": _iso(told), "reason": reason}
        self._tell(EventName.SCHEDULE_RECOVERED, schedule, now, detail)

    def _tell(self, name: EventName, schedule: Schedule, now: datetime, detail: dict[str, str | None]) -> None:
        self._broker.emit(
            lambda: Event(event=name, at=now, schedule_id=schedule.id, task_type=schedule.task_type, detail=detail)
        )


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
