"""A schedules file: its text to entries, with errors that name the place; and schedules back to that form (pure)."""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from schemas.base import Model
from schemas.duration import exact_duration
from schemas.schedule import Schedule, ScheduleEntry, ScheduleFile
from service.errors import SHOWN, InvalidSchedule

MAX_FILE_BYTES = 4 * 1024 * 1024
"""The largest file that is read."""

_ALWAYS = ("id", "task_type", "schedule", "args", "enabled")
"""Written even where they say what is assumed anyway; the other keys only where they do not."""
_ENTRY = tuple(ScheduleEntry.model_fields)
_KEYS: dict[type[Model], tuple[str, ...]] = {ScheduleFile: tuple(ScheduleFile.model_fields), ScheduleEntry: _ENTRY}
_BODY = ("taskBody", "task_body")
_ENGINES = frozenset(
    spelling
    for name, info in Schedule.model_fields.items()
    if name not in (*_ENTRY, "task_body")
    for spelling in (name, info.alias or name)
)
"""What a file does not say of a schedule."""
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
        refusal, path = _refusal(error, ScheduleFile)
        match path:
            case ["schedules", int(index), *_]:
                entry = content["schedules"][index]
                refusal.index = index
                if isinstance(entry, dict) and "id" in entry:
                    refusal.schedule_id = _compact(entry["id"])[:SHOWN]
        raise refusal from None


def read_set(data: bytes) -> ScheduleFile:
    """As ``read_file``, of schedules as the API shows them: ``taskBody`` is ``args``, and what the engine keeps of a
    schedule is read over. Raises InvalidSchedule."""
    content = _parsed(data)
    if isinstance(content, dict) and isinstance(content.get("schedules"), list):
        rest = {key: value for key, value in content.items() if key != "revision"}
        content = {**rest, "schedules": [_as_entry(each) for each in content["schedules"]]}
    return file_from(content)


def read_entry(data: bytes, schedule_id: str) -> ScheduleEntry:
    """One schedule as the API shows it, or as a file says it; its id may be left out. Raises InvalidSchedule."""
    content = _parsed(data)
    if not isinstance(content, dict):
        raise InvalidSchedule("body", _compact(content), "is not an object", "write {…}")
    return _entry_from(_named({"id": schedule_id, **_as_entry(content)}, schedule_id))


def read_patch(data: bytes, schedule_id: str) -> dict[str, Any]:
    """What is to change of a schedule: keys as in ``read_entry``, null is what is assumed. Raises InvalidSchedule."""
    content = _parsed(data)
    if not isinstance(content, dict):
        raise InvalidSchedule("body", _compact(content), "is not an object", "write {…}")
    fields = _named(_as_entry(content), schedule_id)
    if not fields:
        raise InvalidSchedule("body", _compact(content), "says nothing to change", f"there are: {', '.join(_ENTRY)}")
    return fields


def patched(schedule: Schedule, fields: Mapping[str, Any]) -> ScheduleEntry:
    """The entry of a schedule with some keys changed. Raises InvalidSchedule."""
    entry = {name: getattr(to_entry(schedule), name) for name in _ENTRY}
    for key, value in fields.items():
        name = _SPELLED.get(key, key)
        known = ScheduleEntry.model_fields.get(name)
        entry[name] = known.default if value is None and known is not None and not known.is_required() else value
    return _entry_from(entry)


def _entry_from(content: dict[str, Any]) -> ScheduleEntry:
    try:
        return ScheduleEntry.model_validate(content)
    except ValidationError as error:
        raise _refusal(error, ScheduleEntry)[0] from None


def _as_entry(shown: Any) -> Any:
    """An entry from a schedule as the API shows it; what is wrong in it is left to the entry."""
    if not isinstance(shown, dict):
        return shown
    return {"args" if key in _BODY else key: value for key, value in shown.items() if key not in _ENGINES}


def _named(content: dict[str, Any], schedule_id: str) -> dict[str, Any]:
    if content.get("id", schedule_id) != schedule_id:
        fix = f"leave it out, or write {schedule_id}: an id never changes"
        raise InvalidSchedule("id", _compact(content["id"]), "is not the id in the path", fix)
    return content


def _refusal(error: ValidationError, model: type[Model]) -> tuple[InvalidSchedule, list[int | str]]:
    """The error for the first problem, and where it is."""
    # A wrong name is the cause, what is missing its consequence.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    # A missing key is reported by its other spelling.
    path = [_SPELLED.get(part, part) for part in first["loc"]]
    place = place_of(path)
    if first["type"] == "extra_forbidden":
        keys = _KEYS[model if len(path) == 1 else ScheduleEntry]
        return _unknown_key(place, path[-1], keys), path
    problem, fix = _SAID.get(first["type"], (first["msg"].removeprefix("Value error, ").lower(), ""))
    shown = "" if first["type"] == "missing" else first["input"]
    return InvalidSchedule(place or "file", _compact(shown), problem, fix), path


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


def to_file(schedules: Iterable[Schedule | ScheduleEntry]) -> dict[str, Any]:
    """The JSON of a file that says the same; ``file_from`` reads it back."""
    entries = (each if isinstance(each, ScheduleEntry) else to_entry(each) for each in schedules)
    return {"schedules": [_entry_json(entry) for entry in entries]}


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
        line = error.doc.split("\n")[error.lineno - 1]
        refusal = InvalidSchedule(place, line.strip(), f"is no JSON: {error.msg.lower()}", "mend the file")
        refusal.line = error.lineno
        raise refusal from None
    except UnicodeDecodeError as error:
        line_number = data.count(b"\n", 0, error.start) + 1
        refusal = InvalidSchedule(f"line {line_number}", data[error.start : error.start + 1], "is not UTF-8")
        refusal.line = line_number
        raise refusal from None
    except RecursionError:
        raise InvalidSchedule("file", "…", "nests too deeply", "flatten it") from None
    except ValueError as error:  # a number of thousands of digits
        raise InvalidSchedule("file", "…", str(error).lower()) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise InvalidSchedule("key", twice, "stands twice in one object", "remove one")
    return content


def _constant(text: str) -> Any:
    raise InvalidSchedule("value", text, "is not a JSON number", "write a number, or null")


def _unknown_key(place: str, key: int | str, keys: Sequence[str]) -> InvalidSchedule:
    near = difflib.get_close_matches(str(key)[:SHOWN].lower().replace("-", "_"), keys, n=1)
    fix = f"did you mean {near[0]}?" if near else f"there are: {', '.join(keys)}"
    return InvalidSchedule(place, str(key), "is no key of a schedules file", fix)


def _compact(value: object) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:  # it was just not too deep to be read
        return "…"
