"""The events of the log: the enum, the calls that write them and the page that documents them agree."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.cli.reference.logs import example, page
from service.log_events import BOUND, LogEvent

ROOT = Path(__file__).parents[2]
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
OPEN = {LogEvent.TASK_FINISHED}
"""Has the numbers of a handler's result, too."""


@dataclass(frozen=True)
class Call:
    """One call of a logger."""

    place: str
    level: str
    events: tuple[str, ...]
    """Names of members; what is none of these is a fault."""
    fields: frozenset[str]
    open: bool
    """It passes fields that only a run knows."""


def sources() -> list[Path]:
    return [path for layer in ("service", "actors") for path in sorted((ROOT / layer).rglob("*.py"))]


def calls_of(path: str, source: str) -> Iterator[Call]:
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=method, value=receiver)) if method in (*LEVELS, "critical", "log"):
                said = ast.unparse(receiver)
                if said == "math" or (not node.args and not said.endswith("log")):
                    continue  # math.log(x), future.exception()
                around = [each for each in functions if each.lineno <= node.lineno <= (each.end_lineno or 0)]
                yield _call(f"{path}:{node.lineno}", method, node, around[-1] if around else tree)


def _call(place: str, method: str, node: ast.Call, around: ast.AST) -> Call:
    fields, is_open = set[str](), False
    for keyword in node.keywords:
        if keyword.arg is not None:
            fields.add("exception" if keyword.arg == "exc_info" else keyword.arg)
            continue
        spread = set(_keys(keyword.value, around))
        fields |= spread
        is_open = is_open or not spread
    if method == "exception":
        fields.add("exception")
    first = node.args[0] if len(node.args) == 1 else ast.Constant(None)
    names = tuple(_names(first))
    return Call(place, LEVELS.get(method, method), names, frozenset(fields), is_open)


def _names(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id="LogEvent"), attr=name):
            yield name
        case ast.IfExp(body=body, orelse=orelse):
            yield from _names(body)
            yield from _names(orelse)
        case _:
            yield f"?{ast.unparse(node)}"


def _keys(node: ast.AST, around: ast.AST) -> Iterator[str]:
    """The literal keys of ``**node``, wherever its function puts them."""
    for each in ast.walk(node):
        if isinstance(each, ast.Dict):
            yield from (key.value for key in each.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    if isinstance(node, ast.Name):
        for each in ast.walk(around):
            match each:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                    | ast.AugAssign(target=ast.Name(id=name), value=value)
                ) if name == node.id:
                    yield from _keys(value, ast.Module([], []))


def bound_of(source: str) -> set[str]:
    """What loggers of a file are bound to."""
    return {
        keyword.arg
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "bind"
        for keyword in node.keywords
        if keyword.arg is not None
    }


def faults(path: str, source: str) -> list[str]:
    """What is wrong with the calls of one file by themselves."""
    found = []
    for call in calls_of(path, source):
        for name in call.events:
            if name not in LogEvent.__members__:
                found.append(f"{call.place} logs {name.removeprefix('?')}, which is no LogEvent")
                continue
            event = LogEvent[name]
            if call.level != event.level:
                found.append(f"{call.place} logs {event} as {call.level}, not {event.level}")
            if unknown := call.fields - set(event.fields):
                found.append(f"{call.place} logs {event} with {', '.join(sorted(unknown))}, which it does not list")
            if call.open and event not in OPEN:
                found.append(f"{call.place} logs {event} with fields that cannot be read here: name them")
    return found


def test_every_call_of_a_logger_names_an_event_at_its_level_with_its_fields() -> None:
    found = [
        fault
        for path in sources()
        for fault in faults(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]

    assert not found, "\n".join(found)


def test_every_event_is_logged_and_every_field_is_passed() -> None:
    passed = defaultdict[str, set[str]](set)
    bound = set[str]()
    for path in sources():
        source = path.read_text(encoding="utf-8")
        bound |= bound_of(source)
        for call in calls_of(str(path), source):
            for name in call.events:
                passed[name] |= call.fields

    assert set(LogEvent.__members__) == set(passed)
    missing = {event: set(event.fields) - passed[event.name] - bound for event in LogEvent}
    assert {event: fields for event, fields in missing.items() if fields} == {}


@pytest.mark.parametrize(
    "line",
    [
        'log.info("task.started")',
        "log.info(name)",
        'log.info("%s", 1)',
        "self._log.info(LogEvent.NOT_THERE)",
        "log.warning(LogEvent.TASK_STARTED)",
        "log.info(LogEvent.TASK_STARTED, colour=1)",
        "log.info(LogEvent.TASK_STARTED, **fields)",
        "logging.getLogger().warning('text')",
        "self._ctx.log.info(LogEvent.TASK_STARTED if new else 'task.old')",
    ],
)
def test_a_call_that_breaks_the_rule_is_found(line: str) -> None:
    assert faults("service/x.py", f"def f(fields):\n    {line}")


def test_names_are_a_noun_and_what_happened_to_it() -> None:
    assert [event for event in LogEvent if not re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", event)] == []
    assert len({event.value for event in LogEvent}) == len(LogEvent)


def test_the_page_is_the_one_that_is_made_from_the_events() -> None:
    kept = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")

    assert kept.endswith(f"\n{page()}"), "run: scripts/reference"
    assert [field for field in BOUND if f"`{field}`" not in kept.split("## Three questions")[0]] == []


@pytest.mark.parametrize("event", LogEvent)
def test_the_example_of_an_event_has_fields_that_it_lists(event: LogEvent) -> None:
    fields = example(event).keys() - {"event", "level", "timestamp"}

    assert fields <= set(event.fields) or event in OPEN
