"""Schedules as people want them: a file to a plan, a plan to the store; pause and resume."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.schedule import Schedule, ScheduleFile
from service.client import Client
from service.clock import Clock
from service.errors import Conflict, InvalidSchedule, NotFound
from service.schedule_entry import SPANS, Rules, next_fire, to_schedule
from service.schedule_file import place_of, to_file
from service.store.port import Schedules

MAX_SOURCE = 100
REPEATS = 3
"""How often a change of one schedule is tried when somebody else was quicker."""

_SETTABLE = (
    "task_type",
    "task_body",
    "schedule",
    "timezone",
    "enabled",
    "overlap",
    "misfire",
    *SPANS,
)
"""What an entry says of a schedule, beside its id."""
_TIMING = frozenset({"schedule", "timezone", "enabled"})
"""A change of these computes the next fire anew; any other keeps it."""


@dataclass(frozen=True, slots=True)
class Change:
    """An edit of one schedule."""

    before: Schedule
    after: Schedule

    @property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """Key in a file → JSON value before and after, for what differs."""
        return _differences(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file would change, decided on what was read."""

    create: tuple[Schedule, ...] = ()
    update: tuple[Change, ...] = ()
    delete: tuple[Schedule, ...] = ()
    unchanged: tuple[Schedule, ...] = ()
    """Equal in everything that a file can say."""

    @property
    def empty(self) -> bool:
        return not (self.create or self.update or self.delete)


# ---- pure: edits and plans -------------------------------------------------------------------------------------------


def edited(before: Schedule, wanted: Schedule) -> Schedule:
    """``before`` with all that a file says taken from ``wanted``; itself if that changes nothing.

    The next fire is that of ``wanted`` if its times changed, else it stays. The source stays: whose it is was said when
    it was created.
    """
    differences = _differences(before, wanted)
    if not differences:
        return before
    changes: dict[str, Any] = {name: getattr(wanted, name) for name in _SETTABLE}
    if not _TIMING.isdisjoint(differences):
        changes["next_fire_at"] = wanted.next_fire_at
    return before.model_copy(update=changes)


def plan(
    file: ScheduleFile,
    existing: Sequence[Schedule],
    source: str | None,
    prune: bool,
    *,
    rules: Rules,
    now: datetime,
) -> Plan:
    """What makes ``existing`` say what the file says.

    Args:
        source: Owner of the schedules that are created.
        prune: Delete what has this source and is not in the file; nobody else's is ever touched.

    Raises:
        InvalidSchedule: an entry is wrong, or two have the same id; nothing is planned then.
    """
    if source is not None and not (0 < len(source) <= MAX_SOURCE and source.isprintable()):
        raise InvalidSchedule("source", source, f"is not a text of 1 to {MAX_SOURCE} characters", "shorten it")
    _check_ids(file)
    known = {schedule.id: schedule for schedule in existing}
    create, update, unchanged = [], [], []
    for index, entry in enumerate(file.schedules):
        wanted = to_schedule(entry, rules, now, source=source, place=place_of(("schedules", index)))
        before = known.pop(entry.id, None)
        if before is None:
            create.append(wanted)
        elif (after := edited(before, wanted)) is before:
            unchanged.append(before)
        else:
            update.append(Change(before, after))
    delete = [schedule for schedule in known.values() if prune and schedule.source == source]
    return Plan(tuple(create), tuple(update), tuple(delete), tuple(unchanged))


def paused(schedule: Schedule) -> Schedule:
    """It fires no more until resumed; itself if it is paused."""
    if not schedule.enabled and schedule.next_fire_at is None:
        return schedule
    return schedule.model_copy(update={"enabled": False, "next_fire_at": None})


def resumed(schedule: Schedule, now: datetime) -> Schedule:
    """It fires from ``now`` on: what it missed is not made up for; itself if it is not paused."""
    if schedule.enabled:
        return schedule
    fire = next_fire(schedule.schedule, schedule.timezone, True, now)
    return schedule.model_copy(update={"enabled": True, "next_fire_at": fire})


def _differences(before: Schedule, after: Schedule) -> dict[str, tuple[Any, Any]]:
    old, new = (to_file([schedule])["schedules"][0] for schedule in (before, after))
    pairs = {key: (old.get(key), new.get(key)) for key in {**old, **new}}
    # As JSON: to Python, true is 1.
    return {
        key: (a, b) for key, (a, b) in pairs.items() if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True)
    }


def _check_ids(file: ScheduleFile) -> None:
    first: dict[str, int] = {}
    for index, entry in enumerate(file.schedules):
        earlier = first.setdefault(entry.id, index)
        if earlier != index:
            place = place_of(("schedules", index, "id"))
            raise InvalidSchedule(place, entry.id, f"is the id of schedules[{earlier}] too", "give each one of its own")


# ---- over the store --------------------------------------------------------------------------------------------------


class Timetable:
    """Reads and changes the stored schedules, and tells the schedulers."""

    def __init__(self, schedules: Schedules, client: Client, clock: Clock, rules: Rules) -> None:
        self._schedules, self._client, self._clock, self._rules = schedules, client, clock, rules

    async def all(self) -> list[Schedule]:
        """By id."""
        return await self._schedules.all()

    async def get(self, schedule_id: str) -> Schedule:
        """Raises NotFound."""
        schedule = await self._schedules.get(schedule_id)
        if schedule is None:
            raise NotFound(f"there is no schedule {schedule_id!r}")
        return schedule

    async def plan(self, file: ScheduleFile, *, source: str | None, prune: bool = False) -> Plan:
        """What the file would change now. Raises InvalidSchedule."""
        existing = await self._schedules.all()
        return plan(file, existing, source, prune, rules=self._rules, now=self._clock.now())

    async def apply(self, plan: Plan) -> None:
        """Write it, all or nothing. Raises Conflict if a schedule was changed since the plan was made."""
        if plan.empty:
            return
        await self._schedules.write([*plan.create, *(change.after for change in plan.update)], plan.delete)
        await self._client.schedules_changed()

    async def set_enabled(self, schedule_id: str, enabled: bool) -> Schedule:
        """Pause or resume; returns it as it now is. Raises NotFound, and Conflict if others keep changing it."""
        for repeat in range(REPEATS):
            before = await self.get(schedule_id)
            after = resumed(before, self._clock.now()) if enabled else paused(before)
            if after is before:
                return before
            try:
                await self._schedules.write([after])
            except Conflict:
                if repeat == REPEATS - 1:
                    raise
            else:
                break
        await self._client.schedules_changed()
        return await self.get(schedule_id)
