"""A schedules file: its text to entries, with errors that name the place; and schedules back to that form (pure)."""

import difflib
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from schemas.duration import exact_duration
from schemas.schedule import Schedule, ScheduleEntry, ScheduleFile
from service.errors import InvalidSchedule

MAX_FILE_BYTES = 4 * 1024 * 1024
"""The largest file that is read."""

_ALWAYS = ("id", "task_type", "schedule", "args", "enabled")
"""Written even where they say what is assumed anyway; the other keys only where they do not."""
_KEYS = {ScheduleFile: tuple(ScheduleFile.model_fields), ScheduleEntry: tuple(ScheduleEntry.model_fields)}
_SPELLED: dict[int | str, str] = {
    info.alias: name for name, info in ScheduleEntry.model_fields.items() if info.alias is not None
}
"""The other spelling of a key → that of a file."""
_SAID = {
    "missing": ("is missing", "add it"),
    "model_type": ("is not an object", "write {…}"),
    "dict_type": ("is not an object", "write {…}"),
    "list_type": ("is not a list", "write […]"),
    "string_type": ("is not text", "put it in quotes"),
    "bool_type": ("is not true or false", "write one of the two, without quotes"),
    "bool_parsing": ("is not true or false", "write one of the two, without quotes"),
    "string_pattern_mismatch": ("is not an id", "use 1 to 100 of A-Z a-z 0-9 _ . -"),
    "string_too_short": ("is empty", "write a cron expression such as */5 * * * *"),
}


def read_file(data: bytes) -> ScheduleFile:
    """The entries of a schedules file: ``{"schedules": [{"id", "task_type", "schedule", "args", "enabled"}]}``.

    Raises:
        InvalidSchedule: names the line where it is no JSON, else the entry and its key: ``schedules[3].jitter``.
    """
    if len(data) > MAX_FILE_BYTES:
        raise InvalidSchedule("file", f"{len(data)} bytes", f"is larger than {MAX_FILE_BYTES} bytes", "split it")
    return file_from(_parsed(data))


def file_from(content: Any) -> ScheduleFile:
    """The same from parsed JSON. Raises InvalidSchedule."""
    try:
        return ScheduleFile.model_validate(content)
    except ValidationError as error:
        # A wrong name is the cause, what is missing its consequence.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
        first = problems[0]
        # A missing key is reported by its other spelling.
        place = place_of([_SPELLED.get(part, part) for part in first["loc"]])
        if first["type"] == "extra_forbidden":
            raise _unknown_key(place, first["loc"]) from None
        problem, fix = _SAID.get(first["type"], (first["msg"].removeprefix("Value error, ").lower(), ""))
        shown = "" if first["type"] == "missing" else first["input"]
        raise InvalidSchedule(place or "file", _compact(shown), problem, fix) from None


def place_of(location: Sequence[int | str], base: str = "") -> str:
    """``("schedules", 3, "jitter")`` as ``schedules[3].jitter``."""
    place = base
    for part in location:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    return place


def to_entry(schedule: Schedule) -> ScheduleEntry:
    """All that a file can say of a schedule."""
    return ScheduleEntry(
        id=schedule.id,
        task_type=schedule.task_type,
        schedule=schedule.schedule,
        args=schedule.task_body,
        enabled=schedule.enabled,
        timezone=schedule.timezone,
        overlap=schedule.overlap,
        misfire=schedule.misfire,
        misfire_grace=schedule.misfire_grace,
        jitter=schedule.jitter,
        expect_success_within=schedule.expect_success_within,
    )


def to_file(schedules: Iterable[Schedule]) -> dict[str, Any]:
    """The JSON of a file that says the same; ``file_from`` reads it back."""
    return {"schedules": [_entry_json(to_entry(schedule)) for schedule in schedules]}


def _entry_json(entry: ScheduleEntry) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, info in ScheduleEntry.model_fields.items():
        value = getattr(entry, name)
        if name in _ALWAYS or value != info.default:
            # Exactly, and in the form that people write: pydantic's own may count in years, which are none here.
            content[name] = exact_duration(value) if isinstance(value, timedelta) else value
    return content


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        line = error.doc.splitlines()[error.lineno - 1] if error.doc.strip() else ""
        raise InvalidSchedule(place, line.strip(), f"is no JSON: {error.msg.lower()}", "mend the file") from None
    except UnicodeDecodeError as error:
        line_number = data.count(b"\n", 0, error.start) + 1
        raise InvalidSchedule(f"line {line_number}", data[error.start : error.start + 1], "is not UTF-8") from None
    except RecursionError:
        raise InvalidSchedule("file", "…", "nests too deeply", "flatten it") from None
    except ValueError as error:  # a number of thousands of digits
        raise InvalidSchedule("file", "…", str(error).lower()) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidSchedule("key", twice, "stands twice in one object", "remove one")
    return content


def _constant(text: str) -> Any:
    raise InvalidSchedule("value", text, "is not a JSON number", "write a number, or null")


def _unknown_key(place: str, location: Sequence[int | str]) -> InvalidSchedule:
    keys = _KEYS[ScheduleFile if len(location) == 1 else ScheduleEntry]
    near = difflib.get_close_matches(str(location[-1]).lower().replace("-", "_"), keys, n=1)
    fix = f"did you mean {near[0]}?" if near else f"there are: {', '.join(keys)}"
    return InvalidSchedule(place, str(location[-1]), "is no key of a schedules file", fix)


def _compact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
