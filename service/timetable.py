"""Schedules as people want them: a file to a plan, a plan to the store; pause and resume."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from schemas.schedule import Schedule, ScheduleEntry, ScheduleFile
from schemas.schedule_set import ChangedKey, ChangedSchedule, SchedulePlan
from service.client import Client
from service.clock import Clock
from service.errors import Conflict, InvalidSchedule, NotFound, Outdated
from service.schedule_entry import SPANS, Rules, next_fire, to_schedule
from service.schedule_file import patched, place_of, to_file
from service.store.port import Edit, Schedules

T = TypeVar("T")

MAX_SOURCE = 100
REPEATS = 3
"""How often a change of one schedule is tried when somebody else was quicker."""

_SET_CHANGED = "the schedules were changed since you read them; read them again"
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


@dataclass(frozen=True, slots=True)
class Change(Edit):
    """An edit that says what it changes."""

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
    revision: int | None = None
    """Of the whole set as read, where the plan is to replace it; else others may change what the plan leaves alone."""

    @property
    def empty(self) -> bool:
        return not (self.create or self.update or self.delete)

    def summary(self, source: str | None, *, applied: bool) -> SchedulePlan:
        return SchedulePlan(
            create=[schedule.id for schedule in self.create],
            update=[
                ChangedSchedule(
                    id=change.after.id,
                    changes={key: ChangedKey(before=old, after=new) for key, (old, new) in change.fields.items()},
                )
                for change in self.update
            ],
            delete=[schedule.id for schedule in self.delete],
            unchanged=[schedule.id for schedule in self.unchanged],
            source=source,
            applied=applied,
        )


# ---- pure: edits and plans -------------------------------------------------------------------------------------------


def edited(before: Schedule, wanted: Schedule, now: datetime) -> Schedule:
    """``before`` with all that a file says taken from ``wanted``; itself if that changes nothing.

    The next fire is that of ``wanted`` if its times changed, else it stays. The source stays: whose it is was said when
    it was created.
    """
    if not _differences(before, wanted):
        return before
    changes: dict[str, Any] = {name: getattr(wanted, name) for name in _SETTABLE}
    if Edit(before, wanted).times_changed:
        changes["next_fire_at"] = wanted.next_fire_at
    if wanted.enabled != before.enabled:
        changes["resumed_at" if wanted.enabled else "paused_at"] = now
    return before.model_copy(update=changes)


def plan(
    file: ScheduleFile,
    existing: Sequence[Schedule],
    source: str | None,
    prune: bool,
    *,
    rules: Rules,
    now: datetime,
    revision: int | None = None,
) -> Plan:
    """What makes ``existing`` say what the file says.

    Args:
        source: Owner of the schedules that are created.
        prune: Delete what has this source and is not in the file; nobody else's is touched.
        revision: Of the whole set: replace it, deleting whatever is not in the file, whoever's it is.

    Raises:
        InvalidSchedule: an entry is wrong, or two have the same id; nothing is planned then.
    """
    if source is not None and not (0 < len(source) <= MAX_SOURCE and source.isprintable()):
        raise InvalidSchedule("source", source, f"is not a text of 1 to {MAX_SOURCE} characters", "shorten it")
    _check_ids(file)
    known = {schedule.id: schedule for schedule in existing}
    create, update, unchanged = [], [], []
    for index, entry in enumerate(file.schedules):
        try:
            wanted = to_schedule(entry, rules, now, source=source, place=place_of(("schedules", index)))
        except InvalidSchedule as error:
            error.index, error.schedule_id = index, entry.id
            raise
        before = known.pop(entry.id, None)
        if before is None:
            create.append(wanted)
        elif (after := edited(before, wanted, now)) is before:
            unchanged.append(before)
        else:
            update.append(Change(before, after))
    whole = revision is not None
    delete = [schedule for schedule in known.values() if whole or (prune and schedule.source == source)]
    return Plan(tuple(create), tuple(update), tuple(delete), tuple(unchanged), revision)


def unfired(after: Schedule, present: Schedule, now: datetime) -> datetime | None:
    """The next fire of ``after``, or the one that follows where ``present`` may have fired it already.

    A one-shot whose time has come meanwhile is late, and not lost.
    """
    due = after.next_fire_at
    if due is None or (present.next_fire_at is not None and due >= present.next_fire_at):
        return due
    return next_fire(after.schedule, after.timezone, after.enabled, now) or due


def paused(schedule: Schedule, now: datetime) -> Schedule:
    """It fires no more until resumed; itself if it is paused."""
    if not schedule.enabled and schedule.next_fire_at is None:
        return schedule
    return schedule.model_copy(update={"enabled": False, "next_fire_at": None, "paused_at": now})


def resumed(schedule: Schedule, now: datetime) -> Schedule:
    """It fires from ``now`` on: what it missed is not made up for; itself if it is not paused."""
    if schedule.enabled:
        return schedule
    fire = next_fire(schedule.schedule, schedule.timezone, True, now)
    return schedule.model_copy(update={"enabled": True, "next_fire_at": fire, "resumed_at": now})


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
            problem = f"is the id of schedules[{earlier}] too"
            error = InvalidSchedule(place, entry.id, problem, "give each one of its own")
            error.index, error.schedule_id = index, entry.id
            raise error


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

    async def replace(
        self, file: ScheduleFile, *, source: str, revision: int | None = None, dry_run: bool = False
    ) -> Plan:
        """Make the file all that there is, all or nothing: what it does not name is deleted, whoever's it is.

        Raises:
            InvalidSchedule: an entry is wrong.
            Outdated: the set was changed since ``revision`` of it was read.
            Conflict: others keep changing it.
        """

        async def attempt() -> Plan:
            seen, existing = await self.whole()
            if revision is not None and revision != seen:
                raise Outdated(_SET_CHANGED)
            made = plan(file, existing, source, False, rules=self._rules, now=self._clock.now(), revision=seen)
            if not dry_run:
                await self.apply(made)
            return made

        return await _insist(attempt)

    async def whole(self) -> tuple[int, list[Schedule]]:
        """All schedules by id, and the revision of the set: no change of it since goes unseen."""
        revision = await self._schedules.revision()
        return revision, await self._schedules.all()

    async def apply(self, plan: Plan) -> None:
        """Write it, all or nothing. What has fired since the plan was made is no conflict: no instant comes again.

        Raises Conflict if a schedule was changed since the plan was made; or any other where the plan replaces the
        whole set.
        """
        if plan.empty:
            return
        edits = [Edit(change.before, change.after, partial(self._after_a_fire, change.after)) for change in plan.update]
        await self._schedules.write(plan.create, edits, plan.delete, revision=plan.revision)
        await self._client.schedules_changed()

    def _after_a_fire(self, after: Schedule, present: Schedule) -> Schedule:
        """``after``, where ``present`` has fired since it was made."""
        return after.model_copy(update={"next_fire_at": unfired(after, present, self._clock.now())})

    async def set_enabled(self, schedule_id: str, enabled: bool, *, revision: int | None = None) -> Change:
        """Pause or resume; as ``edit``."""

        def switched(before: Schedule, now: datetime) -> Schedule:
            return resumed(before, now) if enabled else paused(before, now)

        return await self.edit(schedule_id, switched, revision=revision)

    async def patch(self, schedule_id: str, fields: Mapping[str, Any], *, revision: int | None = None) -> Change:
        """Change some of what a file says of it, null being what is assumed; as ``edit``. Raises InvalidSchedule."""

        def changed(before: Schedule, now: datetime) -> Schedule:
            return edited(before, to_schedule(patched(before, fields), self._rules, now), now)

        return await self.edit(schedule_id, changed, revision=revision)

    async def put(
        self, entry: ScheduleEntry, *, source: str, revision: int | None = None
    ) -> tuple[Schedule | None, Schedule]:
        """Create a schedule, or make it say what the entry says; before, and as it now is.

        Raises InvalidSchedule; Outdated: it is not there any more, or its revision is another; Conflict.
        """
        if await self._schedules.get(entry.id) is None:
            if revision is not None:
                raise Outdated(_changed(entry.id))
            new = to_schedule(entry, self._rules, self._clock.now(), source=source)
            await self._schedules.write([new])
            await self._client.schedules_changed()
            return None, await self.get(entry.id)

        def replaced(before: Schedule, now: datetime) -> Schedule:
            return edited(before, to_schedule(entry, self._rules, now), now)

        change = await self.edit(entry.id, replaced, revision=revision)
        return change.before, change.after

    async def delete(self, schedule_id: str, *, revision: int | None = None) -> Schedule:
        """Its tasks stay. Returns it as it was. Raises as ``edit``."""

        async def attempt() -> Schedule:
            before = await self._seen(schedule_id, revision)
            await self._schedules.write(delete=[before])
            await self._client.schedules_changed()
            return before

        return await _insist(attempt)

    async def edit(
        self, schedule_id: str, change: Callable[[Schedule, datetime], Schedule], *, revision: int | None = None
    ) -> Change:
        """Write what ``change`` makes of it; trying again if somebody was quicker, or it fired meanwhile.

        Raises:
            NotFound: there is none.
            Outdated: its revision is not the given one, or no longer.
            Conflict: others keep changing it.
        """

        async def attempt() -> Change:
            before = await self._seen(schedule_id, revision)
            after = change(before, self._clock.now())
            if after is before:
                return Change(before, before)
            await self._schedules.write(edit=[Edit(before, after, lambda now: change(now, self._clock.now()))])
            await self._client.schedules_changed()
            return Change(before, await self.get(schedule_id))

        return await _insist(attempt)

    async def _seen(self, schedule_id: str, revision: int | None) -> Schedule:
        schedule = await self.get(schedule_id)
        if revision is not None and schedule.revision != revision:
            raise Outdated(_changed(schedule_id))
        return schedule


async def _insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Until nobody is quicker: another editor, or a fire. An attempt looks at the present state first."""
    for _ in range(REPEATS - 1):
        with suppress(Conflict):
            return await attempt()
    return await attempt()


def _changed(schedule_id: str) -> str:
    return f"schedule {schedule_id!r} was changed since you read it; read it again"
