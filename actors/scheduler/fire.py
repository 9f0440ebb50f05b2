"""Fire what is due: exactly one task for each fire, however many schedulers run (P17, P18, P19)."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from actors.scheduler.duty import NAP, Duty, until
from schemas.event import Event, EventName
from schemas.schedule import Schedule, Skip, SkipReason
from schemas.task import Task, TaskStatus
from service.broker.port import Broker
from service.due import FirePlan, plan_fire
from service.envelope import for_stored
from service.errors import InvalidSchedule
from service.fires import fire_id, fire_task, starts_at
from service.log_events import LogEvent
from service.metrics import Metrics
from service.registry import Registry
from service.states import relay_at
from service.store.port import Created, FireClaim, FireEnd, Store
from service.traces import published
from service.triggers import Trigger, trigger_of

log = structlog.get_logger()

FIRING_SECONDS = 5.0
"""An open fire older than this changes hands; whoever held it as long writes nothing more for it (P18)."""
MOST = 200
"""How many schedules fire in one batch: while one scheduler publishes its batch, another has the next."""
TAKEN_TOGETHER = 20
"""How many open fires are taken over at once: what one lost reply has left open keeps the others waiting."""


class Fire(Duty):
    """Compare-and-set, insert, publish, clear: each for all that are due together."""

    name = "fire"

    def __init__(
        self, store: Store, broker: Broker, registry: Registry, metrics: Metrics, worker: str, nap: timedelta = NAP
    ) -> None:
        self._store, self._broker, self._registry, self._metrics = store, broker, registry, metrics
        self._worker, self._nap = worker, nap

    async def tick(self) -> timedelta:
        opened = await self._take_over_stale()
        upcoming = await self._store.schedules.upcoming(MOST)
        now = self._store.clock.now()
        due = [schedule for schedule in upcoming if schedule.next_fire_at is not None and schedule.next_fire_at <= now]
        if due:
            await self._fire(due, now)
            if len(due) == MOST:
                return timedelta()
        now = self._store.clock.now()
        soonest = await self._soonest(upcoming, due)
        return until(opened if soonest is None else min(opened, soonest) if opened else soonest, now, nap=self._nap)

    async def _soonest(self, upcoming: Sequence[Schedule], fired: Sequence[Schedule]) -> datetime | None:
        """The next instant anything is due; what has just fired is due again by its own schedule."""
        rest = [schedule.next_fire_at for schedule in upcoming[len(fired) :] if schedule.next_fire_at is not None]
        if fired:
            again = await self._store.schedules.upcoming(1)
            rest += [schedule.next_fire_at for schedule in again if schedule.next_fire_at is not None]
        return min(rest, default=None)

    # ---- a fire ----------------------------------------------------------------------------------

    async def _fire(self, due: Sequence[Schedule], now: datetime) -> None:
        begun = self._store.clock.monotonic()
        claims = [claim for schedule in due if (claim := self._claim(schedule, now)) is not None]
        if claims:
            won = await self._store.schedules.begin_fires(claims, self._worker)
            await self._finish(won, begun)

    def _claim(self, schedule: Schedule, now: datetime) -> FireClaim | None:
        due = schedule.next_fire_at
        assert due is not None
        try:
            trigger = trigger_of(schedule.schedule, schedule.timezone)
        except InvalidSchedule as error:
            # It cannot have come through our door; without a next time it stops, visibly, instead of blocking the
            # others.
            log.error(LogEvent.SCHEDULE_INVALID, schedule_id=schedule.id, error=str(error))
            return FireClaim(schedule, None, None)
        plan = plan_fire(trigger, due, now, schedule.misfire, schedule.misfire_grace)
        if plan.missed:
            log.warning(
                LogEvent.SCHEDULE_MISFIRED, schedule_id=schedule.id, missed=plan.missed, policy=schedule.misfire.value
            )
        return FireClaim(schedule, plan.fire_at, plan.next_fire_at, _missed(schedule, trigger, plan, due, now))

    async def _take_over_stale(self) -> datetime | None:
        """Finish what another scheduler left; returns when the oldest one that is still fresh goes stale."""
        now = self._store.clock.now()
        patience = timedelta(seconds=FIRING_SECONDS)
        soonest: datetime | None = None
        left: list[Schedule] = []
        for schedule in await self._store.schedules.open_fires():
            assert schedule.firing is not None
            stale_at = schedule.firing.at + patience
            if stale_at > now:
                soonest = min(soonest or stale_at, stale_at)
            else:
                left.append(schedule)
        for first in range(0, len(left), TAKEN_TOGETHER):
            begun = self._store.clock.monotonic()
            some = left[first : first + TAKEN_TOGETHER]
            taken = await asyncio.gather(*(self._take_over(schedule) for schedule in some))
            await self._finish([mine for mine in taken if mine is not None], begun)
        return soonest

    async def _take_over(self, schedule: Schedule) -> Schedule | None:
        mine = await self._store.schedules.take_over(schedule, self._worker)
        if mine is not None:
            assert schedule.firing is not None
            log.warning(LogEvent.FIRE_TAKEN_OVER, schedule_id=schedule.id, by=self._worker, left_by=schedule.firing.by)
        return mine

    async def _finish(self, held: Sequence[Schedule], begun: float) -> None:
        """Insert, publish, clear. Too late, or the store gone: left to take-over."""
        left = FIRING_SECONDS - (self._store.clock.monotonic() - begun)
        if not held or left <= 0:
            return
        try:
            async with asyncio.timeout(left):
                now = self._store.clock.now()
                tasks = [self._task(schedule, now) for schedule in held]
                # A duplicate id is a no-op, a taken live key is the overlap skip; a fire never asks for once more.
                answers = await self._store.tasks.create(tasks, ask_again=False, repeat=False)
                fresh = [answer.task for answer in answers if answer.created or _waits(answer)]
                await self._broker.publish([for_stored(task, now) for task in fresh])
                published_at = self._store.clock.now()
                await self._store.schedules.end_fires(
                    [_end(schedule, answer) for schedule, answer in zip(held, answers, strict=True)]
                )
        except TimeoutError:
            log.warning(LogEvent.FIRE_TOO_LATE, schedules=[schedule.id for schedule in held][:10])
            return
        for schedule, answer in zip(held, answers, strict=True):
            self._report(schedule, answer, published_at)

    def _task(self, schedule: Schedule, now: datetime) -> Task:
        firing = schedule.firing
        assert firing is not None
        retry_at = starts_at(schedule, firing.fire_at)
        handler = self._registry.find(schedule.task_type)
        task = fire_task(schedule, firing.fire_at, handler, now, retry_at=retry_at)
        due = relay_at(now, retry_at, published=True)
        return task.model_copy(update={"relay_at": due, "traceparent": published(task.task_type)})

    def _report(self, schedule: Schedule, answer: Created, published_at: datetime) -> None:
        assert schedule.firing is not None
        overlap = answer.by == "live_key"
        lag = published_at - schedule.firing.fire_at
        if overlap:
            log.info(LogEvent.SCHEDULE_SKIPPED, schedule_id=schedule.id, reason="overlap", by=answer.task.id)
        elif answer.created:
            self._metrics.fires.add(schedule.id)
            self._metrics.fire_lag.observe(max(0.0, lag.total_seconds()))
            log.info(
                LogEvent.SCHEDULE_FIRED,
                schedule_id=schedule.id,
                task_type=answer.task.task_type,
                id=answer.task.id,
                lag_ms=round(lag.total_seconds() * 1000),
            )
        self._broker.emit(
            lambda: Event(
                event=EventName.SCHEDULE_SKIPPED if overlap else EventName.SCHEDULE_FIRED,
                at=self._store.clock.now(),
                task_id=answer.task.id,
                task_type=answer.task.task_type,
                schedule_id=schedule.id,
                detail={"reason": "overlap"} if overlap else {},
            )
        )


def _waits(answer: Created) -> bool:
    """Inserted by an earlier holder of the fire, who may not have published it."""
    return answer.by == "id" and answer.task.status is TaskStatus.PENDING


def _end(schedule: Schedule, answer: Created) -> FireEnd:
    if answer.by != "live_key":
        return FireEnd(schedule, answer.task.id)
    assert schedule.firing is not None
    at = schedule.firing.fire_at
    return FireEnd(schedule, None, Skip(reason=SkipReason.OVERLAP, since=at, until=at, count=1, by=answer.task.id))


def _missed(schedule: Schedule, trigger: Trigger, plan: FirePlan, due: datetime, now: datetime) -> Skip | None:
    """The due instants that get no fire of their own."""
    if not plan.missed:
        return None
    if plan.fire_at is None:
        return Skip(reason=SkipReason.MISFIRE, since=due, until=max(due, now), count=plan.missed)
    if plan.fire_at > due:
        until = plan.fire_at - timedelta(milliseconds=1)
        return Skip(reason=SkipReason.MISFIRE, since=due, until=until, count=plan.missed)
    return Skip(
        reason=SkipReason.COALESCED,
        since=trigger.next_after(due) or due,
        until=max(due, now),
        count=plan.missed,
        by=fire_id(schedule.id, due),
    )
