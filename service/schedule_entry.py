"""One entry of a schedules file to a schedule, checked in all that it says (pure)."""

import difflib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from schemas.base import LAST_YEAR
from schemas.schedule import Schedule, ScheduleEntry
from schemas.task import TASK_TYPE
from service.errors import InvalidSchedule, PayloadRefused
from service.payload import MAX_BYTES, check_size, check_storable
from service.registry import Handler, Registry, fold
from service.schedule_file import place_of
from service.triggers import parse_schedule

LONGEST_SPAN = timedelta(days=3653)
"""Of grace, jitter and expectation."""
SPANS = ("misfire_grace", "jitter", "expect_success_within")


@dataclass(frozen=True)
class Rules:
    """What entries are checked against."""

    registry: Registry
    allow_unknown: bool = False
    """Take task types that no loaded module handles: another process may."""
    max_bytes: int = MAX_BYTES
    """Of the arguments, as JSON."""


def to_schedule(
    entry: ScheduleEntry, rules: Rules, now: datetime, *, source: str | None = None, place: str = ""
) -> Schedule:
    """A new schedule, with its first fire strictly after ``now``.

    Args:
        place: Where the entry stands, such as ``schedules[3]``: errors begin with it.

    Raises:
        InvalidSchedule: the type is unknown, the schedule or the time zone wrong, or the handler refuses the arguments.
    """
    task_type = _task_type(entry.task_type, rules, place)
    _check_spans(entry, place)
    _check_args(entry.args, rules.registry.find(task_type), rules, place)
    return Schedule(
        id=entry.id,
        task_type=task_type,
        task_body=entry.args,
        schedule=entry.schedule,
        timezone=entry.timezone,
        enabled=entry.enabled,
        overlap=entry.overlap,
        misfire=entry.misfire,
        misfire_grace=entry.misfire_grace,
        jitter=entry.jitter,
        expect_success_within=entry.expect_success_within,
        source=source,
        next_fire_at=next_fire(entry.schedule, entry.timezone, entry.enabled, now, place),
    )


def next_fire(schedule: str, timezone: str, enabled: bool, now: datetime, place: str = "") -> datetime | None:
    """The first fire strictly after ``now``; None if there is none, or it is not enabled. Raises InvalidSchedule."""
    try:
        fire = parse_schedule(schedule, timezone).next_after(now)
    except InvalidSchedule as error:
        raise _at(place, error) from None
    if fire is not None and fire.year > LAST_YEAR:
        raise InvalidSchedule(place_of(("schedule",), place), schedule, f"fires after the year {LAST_YEAR}")
    return fire if enabled else None


def _task_type(name: str, rules: Rules, place: str) -> str:
    handler = rules.registry.find(name)
    if handler is not None:
        return handler.task_type
    field = place_of(("task_type",), place)
    if rules.allow_unknown:
        if not TASK_TYPE.fullmatch(fold(name)):
            raise InvalidSchedule(field, name, f"is not {TASK_TYPE.pattern}", "rename it")
        return fold(name)
    known = sorted(handler.task_type for handler in rules.registry)
    near = difflib.get_close_matches(fold(name), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    there = f"known: {', '.join(known)}" if known else "none is loaded: set VERGER_ACTORS"
    raise InvalidSchedule(field, name, "is no known task type", hint + there)


def _check_spans(entry: ScheduleEntry, place: str) -> None:
    for name in SPANS:
        span: timedelta | None = getattr(entry, name)
        if span is None:
            continue
        field = place_of((name,), place)
        if not timedelta() <= span <= LONGEST_SPAN:
            raise InvalidSchedule(
                field, str(span), f"is not between 0 and {LONGEST_SPAN.days} days", "write 90s or 10m"
            )
        if span % timedelta(milliseconds=1):
            raise InvalidSchedule(field, str(span), "is not in whole milliseconds", "round it")


def _check_args(args: dict[str, Any], handler: Handler | None, rules: Rules, place: str) -> None:
    field = place_of(("args",), place)
    try:
        check_storable(args, field)
        check_size(args, field, rules.max_bytes)
    except PayloadRefused as error:
        raise InvalidSchedule(error.field, error.value, error.problem, error.fix) from None
    if handler is None or handler.body_model is None:
        return
    try:
        handler.body_model.model_validate(args)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        missing = problem["type"] == "missing"
        message = "is missing" if missing else problem["msg"].removeprefix("Value error, ").lower()
        shown = "" if missing else problem["input"]
        fix = f"see verger schema {handler.task_type}"
        raise InvalidSchedule(place_of(problem["loc"], field), shown, message, fix) from None


def _at(place: str, error: InvalidSchedule) -> InvalidSchedule:
    """The same error, with the place in front of its field."""
    return InvalidSchedule(place_of((error.field,), place), error.value, error.problem, error.fix)
