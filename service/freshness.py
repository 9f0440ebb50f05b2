"""Freshness: how schedules are doing, and since when one has been without a success for too long."""

import asyncio
from datetime import datetime
from itertools import islice
from statistics import median

from schemas.job import Job
from schemas.schedule import Schedule
from schemas.task import TaskStatus
from service.due import cadence
from service.errors import InvalidSchedule
from service.store.port import Store
from service.triggers import trigger_of


def overdue_since(schedule: Schedule, now: datetime) -> datetime | None:
    """When an enabled schedule became overdue; None: it is not.

    It is overdue when its last success is older than it expects, or else than two cadences. Without a success it counts
    from its creation, and from when it was resumed if that came later.
    """
    since = _counts_from(schedule)
    if not schedule.enabled or since is None:
        return None
    span = schedule.expect_success_within
    try:
        if span is None and not _surely_fresh(schedule, since, now):
            gap = cadence(trigger_of(schedule.schedule, schedule.timezone), since)
            span = 2 * gap if gap is not None else None
    except InvalidSchedule:
        return since
    return since + span if span is not None and since + span < now else None


async def jobs(store: Store) -> list[Job]:
    """How each schedule is doing, by id."""
    schedules = await store.schedules.all(recent=True)
    now = store.clock.now()
    # Thousands of them take seconds, which the loop of a server does not have.
    return await asyncio.to_thread(lambda: [job(schedule, now) for schedule in schedules])


def job(schedule: Schedule, now: datetime) -> Job:
    """How a schedule is doing; it must have been read with what is recent. Takes a millisecond or two."""
    since = overdue_since(schedule, now)
    try:
        gap = cadence(trigger_of(schedule.schedule, schedule.timezone), _counts_from(schedule) or now)
    except InvalidSchedule:
        gap = None
    took = [run.duration_ms for run in schedule.recent_runs if run.status is TaskStatus.COMPLETED]
    return Job(
        id=schedule.id,
        task_type=schedule.task_type,
        schedule=schedule.schedule,
        timezone=schedule.timezone,
        enabled=schedule.enabled,
        cadence=gap,
        next_fire_at=schedule.next_fire_at,
        last_status=schedule.last_status,
        last_ended_at=schedule.last_ended_at,
        last_success_at=schedule.last_success_at,
        overdue_since=since,
        overdue_by=now - since if since is not None else None,
        last_duration_ms=schedule.last_duration_ms,
        usual_duration_ms=round(median(took)) if took else None,
        durations_ms=took,
    )


def _counts_from(schedule: Schedule) -> datetime | None:
    known = [at for at in (schedule.last_success_at, schedule.resumed_at) if at is not None]
    return max(known, default=schedule.created_at)


def _surely_fresh(schedule: Schedule, since: datetime, now: datetime) -> bool:
    """By the next two fires alone. A cadence is no shorter than their gap, and takes much longer to know."""
    coming = list(islice(trigger_of(schedule.schedule, schedule.timezone).fires_after(since), 2))
    return len(coming) == 2 and now <= since + 2 * (coming[1] - coming[0])
