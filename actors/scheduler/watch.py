"""Watch: tidies the workers' records, and says when a schedule is overdue, once per change."""

from datetime import datetime, timedelta

import structlog

from actors.scheduler.duty import Duty
from actors.scheduler.fire import trigger_of
from schemas.event import Event, EventName
from schemas.schedule import Schedule
from service.broker.port import Broker
from service.due import cadence
from service.errors import InvalidSchedule
from service.store.port import Store

log = structlog.get_logger()

EVERY = timedelta(seconds=60)
FORGET_AFTER = timedelta(hours=1)


class Watch(Duty):
    """Freshness: the last success is older than two cadences, or than what the schedule expects."""

    name = "watch"

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store, self._broker = store, broker
        self._overdue: set[str] = set()
        self._next = store.clock.monotonic()

    async def tick(self) -> timedelta:
        begun = self._store.clock.monotonic()
        if begun < self._next:
            return timedelta(seconds=self._next - begun)
        await self._store.sync_clock()
        now = self._store.clock.now()
        await self._store.workers.prune(now - FORGET_AFTER)
        overdue = {schedule.id: schedule for schedule in await self._store.schedules.all() if is_overdue(schedule, now)}
        for schedule_id in overdue.keys() - self._overdue:
            self._report(overdue[schedule_id], now)
        for schedule_id in self._overdue - overdue.keys():
            log.info("schedule.recovered", schedule_id=schedule_id)
        self._overdue = set(overdue)
        self._next = begun + EVERY.total_seconds()
        return EVERY

    def _report(self, schedule: Schedule, now: datetime) -> None:
        last = schedule.last_success_at.isoformat() if schedule.last_success_at else None
        log.warning("schedule.overdue", schedule_id=schedule.id, task_type=schedule.task_type, last_success_at=last)
        self._broker.emit(
            lambda: Event(
                event=EventName.SCHEDULE_OVERDUE,
                at=now,
                schedule_id=schedule.id,
                task_type=schedule.task_type,
                detail={"lastSuccessAt": last},
            )
        )


def is_overdue(schedule: Schedule, now: datetime) -> bool:
    """Whether an enabled schedule has had no success for too long; a new one counts from its creation."""
    since = schedule.last_success_at or schedule.created_at
    if not schedule.enabled or since is None:
        return False
    if schedule.expect_success_within is not None:
        return since + schedule.expect_success_within < now
    try:
        span = cadence(trigger_of(schedule.schedule, schedule.timezone), since)
    except InvalidSchedule:
        return True
    return span is not None and since + 2 * span < now
