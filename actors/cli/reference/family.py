"""The pages of docs/actors, made from the modules of a family: their docstrings, params, counts and events."""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from actors.maintenance.counts import Counts
from schemas.duration import format_duration
from schemas.schedule import ScheduleEntry
from service.log_events import LogEvent
from service.registry import Handler, load

_EVENT = re.compile(r"\bLogEvent\.([A-Z_]+)\b")


def page(module: str, schedules: Sequence[ScheduleEntry] = ()) -> str:
    """Every actor of a module, with the schedule that it has among these."""
    defaults = {schedule.task_type: schedule.schedule for schedule in schedules}
    return "\n".join(_section(handler, defaults.get(handler.task_type)) for handler in load([module]))


def _section(handler: Handler, schedule: str | None) -> str:
    module = inspect.getmodule(handler.function)
    assert module is not None
    parts = [f"## {handler.task_type}", _facts(handler, schedule), _prose(handler, module)]
    if handler.body_model is not None:
        parts.append(_options(handler.body_model))
    modules = [module, *_parts_of(module)]
    counts = [line for each in modules for line in _counts(each)]
    if counts:
        parts.append("Counts, in the result and on `task.finished`:\n\n" + "\n".join(counts))
    events = sorted({event for each in modules for event in _events(each)})
    if events:
        parts.append("Events:\n\n" + "\n".join(f"- `{event}` ({event.level}): {event.meaning}" for event in events))
    return "\n\n".join(parts) + "\n"


def _facts(handler: Handler, schedule: str | None) -> str:
    facts = []
    if handler.aliases:
        facts.append("*Alias* " + ", ".join(f"`{alias}`" for alias in handler.aliases))
    facts.append(f"*schedule* `{schedule}`" if schedule else "runs when it is asked for")
    facts.append(_attempts(handler))
    facts.append(f"{format_duration(handler.timeout)} at most")
    return " · ".join(facts) + "."


def _attempts(handler: Handler) -> str:
    match handler.max_attempts:
        case None:
            times = "tried again without end"
        case 1:
            return "one attempt"
        case several:
            times = f"{several} attempts"
    delays = " ".join(format_duration(delay) for delay in handler.retry.delays)
    return f"{times}, after {delays}" if delays else times


def _prose(handler: Handler, module: ModuleType) -> str:
    """The module's docstring, its first words as a sentence of their own."""
    text = inspect.getdoc(module) or ""
    text = text.removeprefix(f"``{handler.task_type}``: ")
    text = text[:1].upper() + text[1:]
    return text.replace("``", "`")


def _options(model: type[BaseModel]) -> str:
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = f"{(field.description or '').removesuffix('.')}{_bounds(field)}".replace("|", "\\|")
        rows.append(f"| `{field.alias or name}` | {_default(field)} | {meaning} |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    value = field.default if field.default is not PydanticUndefined else None
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        value = field.get_default(call_default_factory=True, validated_data={})
    return f"`{_written(value)}`"


def _written(value: Any) -> str:
    match value:
        case timedelta():
            return format_duration(value)
        case BaseModel():
            return json.dumps(value.model_dump(mode="json", by_alias=True))
        case Enum():
            return str(value.value)
        case dict() | list() | tuple():
            return json.dumps(value, default=_written)
        case str():
            return value or '""'
        case None | bool():
            return json.dumps(value)
        case float():
            return f"{value:g}"
    return str(value)


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = [
        f"{words[name]} {_written(getattr(each, name))}"
        for each in field.metadata
        for name in words
        if getattr(each, name, None) is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def _parts_of(module: ModuleType) -> Iterator[ModuleType]:
    """The other modules of a package that is one job, such as ``actors.sessions.backup``."""
    package = module.__name__.rpartition(".")[0]
    if package.count(".") >= 2:
        for name, each in sorted(sys.modules.items()):
            if name.startswith(f"{package}.") and each is not module:
                yield each


def _counts(module: ModuleType) -> Iterator[str]:
    for each in vars(module).values():
        if isinstance(each, type) and issubclass(each, Counts) and each.__module__ == module.__name__:
            for name, meaning in _fields(each).items():
                yield f"- `{name}`" + (f": {meaning[:1].lower()}{meaning[1:]}" if meaning else "")


def _fields(counts: type[Counts]) -> Mapping[str, str]:
    """The fields of a dataclass, and the docstrings below them."""
    [made] = ast.parse(inspect.cleandoc(inspect.getsource(counts))).body
    assert isinstance(made, ast.ClassDef)
    found: dict[str, str] = {}
    last = ""
    for node in made.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=last)):
                found[last] = ""
            case ast.Expr(value=ast.Constant(value=str(text))) if last:
                found[last] = " ".join(text.split()).replace("``", "`")
    return found


def _events(module: ModuleType) -> Iterator[LogEvent]:
    return (LogEvent[name] for name in _EVENT.findall(inspect.getsource(module)))
