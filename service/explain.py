"""Why a schedule did, did not, or will fire: each due instant of a window, and what is known of it."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo

from schemas.base import LAST_YEAR, in_calendar
from schemas.explanation import ClockNote, DueInstant, Explanation, FireState
from schemas.schedule import RECENT, Schedule, SkipReason
from schemas.task import Task
from service.clock_changes import ClockChange, changes, time_of_two, wall
from service.errors import InvalidInput, NotFound
from service.fires import fire_id, starts_at
from service.store.port import Store
from service.triggers import Trigger, trigger_of, zone_of

LONGEST_WINDOW = timedelta(days=3653)
"""Of a stored schedule: a longer one would take long to walk through."""
BACKFILLED = "backfilled"
"""The line in the history of a task that was made afterwards."""
_READ = 500
"""How many tasks are read at once."""
_SKIPPED = {
    SkipReason.OVERLAP: (FireState.OVERLAP, "skipped: {by} was still pending or running"),
    SkipReason.COALESCED: (FireState.COALESCED, "found due too late: {by} ran for it and others"),
    SkipReason.MISFIRE: (FireState.MISFIRE, "found due too late, and left out"),
}


async def explain(store: Store, schedule_id: str, start: datetime, end: datetime, limit: int) -> Explanation:
    """The first ``limit`` due instants in ``[start, end)``, by what the schedule says now.

    Raises NotFound; InvalidInput: the window is empty or longer than ``LONGEST_WINDOW``.
    """
    check_window(start, end)
    schedule = await store.schedules.get(schedule_id)
    if schedule is None:
        raise NotFound(f"there is no schedule {schedule_id!r}")
    made = explain_text(schedule.schedule, schedule.timezone, start, end, limit)
    now = store.clock.now()
    ids = [fire_id(schedule.id, fire.at) for fire in made.fires if fire.at <= now]
    tasks: dict[str, Task] = {}
    for first in range(0, len(ids), _READ):
        tasks |= await store.tasks.get_many(ids[first : first + _READ])
    fires = [_explained(fire, schedule, tasks, now) for fire in made.fires]
    return made.model_copy(update={"id": schedule.id, "fires": fires})


def explain_text(text: str, timezone: str, start: datetime, end: datetime, limit: int) -> Explanation:
    """When a schedule's text fires, in UTC and in its time zone; pure.

    Raises InvalidSchedule; InvalidInput: the window leaves the calendar.
    """
    for field, moment in (("from", start), ("to", end)):
        if not in_calendar(moment):
            raise InvalidInput(field, moment.isoformat(), "is out of range", f"give a year from 2 to {LAST_YEAR}")
    trigger = trigger_of(text, timezone)
    zone = zone_of(timezone)
    fires = trigger.between(start, end, limit + 1)
    truncated, fires = len(fires) > limit, fires[:limit]
    until = fires[-1] if truncated else end
    return Explanation(
        schedule=text,
        timezone=timezone,
        start=start,
        end=end,
        fires=[
            DueInstant(at=fire, local=fire.astimezone(zone).isoformat(), clock=_clock(trigger, fire, zone))
            for fire in fires
        ],
        truncated=truncated,
        clock_changes=[_noted(change) for change in _changes(start, until, zone)],
    )


def check_window(start: datetime, end: datetime) -> None:
    """Raises InvalidInput: it is empty or too long."""
    if end <= start:
        raise InvalidInput("to", end.isoformat(), f"is not after from, {start.isoformat()}", "give a later instant")
    if end - start > LONGEST_WINDOW:
        fix = "ask for one part after the other"
        raise InvalidInput("to", end.isoformat(), f"is more than {LONGEST_WINDOW.days} days after from", fix)


# ---- what became of an instant ---------------------------------------------------------------------------------------


def _explained(fire: DueInstant, schedule: Schedule, tasks: Mapping[str, Task], now: datetime) -> DueInstant:
    task_id = fire_id(schedule.id, fire.at)
    if (task := tasks.get(task_id)) is not None:
        backfilled = any(line.event == BACKFILLED for line in task.history)
        return _known(fire, FireState.FIRED, BACKFILLED if backfilled else None, task_id=task_id, status=task.status)
    if fire.at > now:
        return _to_come(fire, schedule)
    if schedule.firing is not None and schedule.firing.fire_at == fire.at:
        return _known(fire, FireState.OPEN, f"{schedule.firing.by} is making its task")
    for skip in schedule.recent_skips:
        if skip.since <= fire.at <= skip.until:
            state, reason = _SKIPPED[skip.reason]
            return _known(fire, state, reason.format(by=f"task {skip.by}"))
    for run in schedule.recent_runs:
        if run.task_id == task_id:
            return _known(fire, FireState.FIRED, "its record is gone", task_id=task_id, status=run.status)
    if fire.at == schedule.last_fire_at:
        return _known(fire, FireState.FIRED, "its record is gone", task_id=task_id)
    return _without_a_trace(fire, schedule)


def _to_come(fire: DueInstant, schedule: Schedule) -> DueInstant:
    if not schedule.enabled:
        return _known(fire, FireState.PAUSED, "will not fire unless the schedule is resumed")
    jittered = starts_at(schedule, fire.at) if schedule.jitter is not None else None
    return _known(fire, FireState.FUTURE, None, starts_at=jittered)


def _without_a_trace(fire: DueInstant, schedule: Schedule) -> DueInstant:
    if schedule.enabled and schedule.next_fire_at is not None and fire.at >= schedule.next_fire_at:
        return _known(fire, FireState.DUE, "the next scheduler that looks fires it; does one run?")
    if schedule.created_at is not None and fire.at <= schedule.created_at:
        return _known(fire, FireState.ABSENT, f"the schedule was created later, at {_iso(schedule.created_at)}")
    paused = _last_pause(schedule)
    if paused is not None and paused[0] < fire.at <= paused[1]:
        until = f" until {_iso(paused[1])}" if schedule.enabled else ""
        return _known(fire, FireState.PAUSED, f"the schedule was paused at {_iso(paused[0])}{until}")
    reason = f"its task is gone, nor is it among the last {RECENT} runs and skips"
    if schedule.updated_at is not None and fire.at < schedule.updated_at:
        reason += f"; the schedule was edited since, at {_iso(schedule.updated_at)}"
    return _known(fire, FireState.UNKNOWN, reason)


def _last_pause(schedule: Schedule) -> tuple[datetime, datetime] | None:
    """From when to when nothing fired, as far as the schedule says."""
    if not schedule.enabled:
        since = schedule.paused_at or schedule.updated_at
        return (since, datetime.max.replace(tzinfo=UTC)) if since is not None else None
    if schedule.paused_at is None or schedule.resumed_at is None:
        return None
    return schedule.paused_at, schedule.resumed_at


def _known(fire: DueInstant, state: FireState, reason: str | None, **more: object) -> DueInstant:
    return fire.model_copy(update={"state": state, "reason": reason, **more})


# ---- clocks ----------------------------------------------------------------------------------------------------------


def _clock(trigger: Trigger, fire: datetime, zone: tzinfo) -> str | None:
    named = trigger.named_time(fire)
    if named is None:
        return None
    shown = wall(fire, zone)
    if named != shown:
        return f"{_hour(named)} does not exist on this day: fires at the first moment after the gap"
    which = time_of_two(fire, zone)
    if which is None:
        return None
    return f"{_hour(shown)} comes twice on this day: this is the {'first' if which == 1 else 'second'}"


def _changes(start: datetime, end: datetime, zone: tzinfo) -> Iterator[ClockChange]:
    return iter(()) if zone is UTC else changes(start, end, zone)


def _noted(change: ClockChange) -> ClockNote:
    old, new = _hour(change.before), _hour(change.after)
    if change.is_gap:
        effect = f"local time from {old} to {new} does not exist: a time of day in it fires at {new}"
    else:
        effect = (
            f"local time from {new} to {old} comes twice: a time of day in it fires the first time, "
            "an hour of * both times"
        )
    return ClockNote(
        at=change.at, local_before=change.before.isoformat(), local_after=change.after.isoformat(), effect=effect
    )


def _hour(local: datetime) -> str:
    return local.strftime("%H:%M:%S" if local.second else "%H:%M")


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
