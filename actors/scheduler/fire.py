"""Fire what is due: exactly one task for each fire, however many schedulers run (P17, P18, P19)."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

import structlog

from actors.scheduler.duty import NAP, Duty, until
from schemas.event import Event, EventName
from schemas.schedule import Misfire, Overlap, Schedule
from schemas.task import Task, TaskStatus
from service.broker.port import Broker
from service.due import FirePlan, jittered, plan_fire
from service.envelope import FIRE_PREFIX, for_stored, new_task
from service.errors import InvalidSchedule
from service.registry import Registry
from service.states import relay_at
from service.store.port import Created, FireClaim, FireEnd, Store
from service.triggers import Trigger, parse_schedule

log = structlog.get_logger()

FIRING_SECONDS = 5.0
"""An open fire older than this changes hands; whoever held it as long writes nothing more for it (P18)."""
MOST = 500
"""How many schedules fire in one batch."""


@lru_cache(maxsize=10_000)
def trigger_of(schedule: str, timezone: str) -> Trigger:
    """The parsed trigger. Raises InvalidSchedule."""
    return parse_schedule(schedule, timezone)


class Fire(Duty):
    """Compare-and-set, insert, publish, clear: each for all that are due together."""

    name = "fire"

    def __init__(self, store: Store, broker: Broker, registry: Registry, worker: str, nap: timedelta = NAP) -> None:
        self._store, self._broker, self._registry, self._worker, self._nap = store, broker, registry, worker, nap

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
        assert schedule.next_fire_at is not None
        try:
            trigger = trigger_of(schedule.schedule, schedule.timezone)
        except InvalidSchedule as error:
            # It cannot have come through our door; without a next time it stops, visibly, instead of blocking the
            # others.
            log.error("schedule.invalid", schedule_id=schedule.id, error=str(error))
            return FireClaim(schedule, None, None)
        plan = plan_fire(trigger, schedule.next_fire_at, now, schedule.misfire, schedule.misfire_grace)
        if plan.missed:
            log.warning("schedule.misfired", schedule_id=schedule.id, missed=plan.missed, policy=schedule.misfire.value)
        return FireClaim(schedule, plan.fire_at, plan.next_fire_at, _skips(schedule, plan))

    async def _take_over_stale(self) -> datetime | None:
        """Finish what another scheduler left; returns when the oldest one that is still fresh goes stale."""
        now = self._store.clock.now()
        patience = timedelta(seconds=FIRING_SECONDS)
        soonest: datetime | None = None
        for schedule in await self._store.schedules.open_fires():
            assert schedule.firing is not None
            stale_at = schedule.firing.at + patience
            if stale_at > now:
                soonest = min(soonest or stale_at, stale_at)
                continue
            begun = self._store.clock.monotonic()
            mine = await self._store.schedules.take_over(schedule, self._worker)
            if mine is not None:
                log.warning("fire.taken_over", schedule_id=schedule.id, by=self._worker, left_by=schedule.firing.by)
                await self._finish([mine], begun)
        return soonest

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
                answers = await self._store.tasks.create(tasks, ask_again=False)
                fresh = [answer.task for answer in answers if answer.created or _waits(answer)]
                await self._broker.publish([for_stored(task, now) for task in fresh])
                await self._store.schedules.end_fires(
                    [_end(schedule, answer) for schedule, answer in zip(held, answers, strict=True)]
                )
        except TimeoutError:
            log.warning("fire.too_late", schedules=[schedule.id for schedule in held][:10])
            return
        for schedule, answer in zip(held, answers, strict=True):
            self._report(schedule, answer)

    def _task(self, schedule: Schedule, now: datetime) -> Task:
        firing = schedule.firing
        assert firing is not None
        handler = self._registry.find(schedule.task_type)
        task_id = f"{FIRE_PREFIX}{schedule.id}@{firing.fire_at.isoformat().replace('+00:00', 'Z')}"
        retry_at = firing.fire_at
        if schedule.jitter is not None:
            retry_at = jittered(firing.fire_at, schedule.jitter, task_id)
        task = new_task(
            handler,
            task_type=handler.task_type if handler is not None else schedule.task_type,
            body=schedule.task_body,
            now=now,
            id=task_id,
            unique=schedule.overlap is Overlap.SKIP,
            retry_at=retry_at,
        )
        return task.model_copy(
            update={
                "schedule_id": schedule.id,
                "fire_at": firing.fire_at,
                "relay_at": relay_at(now, retry_at, published=True),
            }
        )

    def _report(self, schedule: Schedule, answer: Created) -> None:
        assert schedule.firing is not None
        overlap = answer.by == "live_key"
        lag = self._store.clock.now() - schedule.firing.fire_at
        if overlap:
            log.info("schedule.skipped", schedule_id=schedule.id, reason="overlap", by=answer.task.id)
        elif answer.created:
            log.info(
                "schedule.fired",
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
    if answer.by == "live_key":
        return FireEnd(schedule, None, {"overlap": 1})
    return FireEnd(schedule, answer.task.id)


def _skips(schedule: Schedule, plan: FirePlan) -> dict[str, int]:
    if not plan.missed:
        return {}
    return {"coalesced" if schedule.misfire is Misfire.COALESCE else "misfire": plan.missed}
