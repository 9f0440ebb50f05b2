"""Structured logs: one pipe, JSON lines or a console, the context of the run, secrets hidden, values bounded."""

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache, partial
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import Any, TextIO, cast
from urllib.parse import unquote

import orjson
import structlog
from pydantic import SecretStr

from service.log_events import LogEvent
from service.settings import Settings

_SECRET = ("password", "secret", "token", "api_key", "apikey", "authorization", "cookie", "credential")
_BODIES = ("body", "task_body", "taskbody", "payload")
_OURS = frozenset({"claim_token"})
_COUNTS = ("tokens", "token_count")
"""Of a language model: these are numbers."""
_NAMED = re.compile(
    r"((?:password|passwd|secret|token|api[_-]?key|authorization|cookie|credentials?)[\"']?\s*[:=]\s*[\"']?"
    r"(?:(?:bearer|basic)\s+)?)[^\s\"',;&)}\]]+",
    re.IGNORECASE,
)
"""``password=…`` and its like, in a text."""
_BEARER = re.compile(r"\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_LOGIN = re.compile(r"(://[^\s:/@\"']*:)([^\s\"']*)")
"""And all that follows it: whether that holds an ``@`` is looked at afterwards, for a pattern that asks for one tries
from each ``://`` to the end. A password may hold one itself: the last counts."""
_ODD = re.compile(r"[\x80-\x9f\u2028\u2029]")
"""What JSON need not escape, and some programs take for the end of a line, or for an order to the terminal."""
_TRACES = ("exception", "stack")
_QUOTED = frozenset(" \t\r\n=\"'")
"""A value that holds one of these is written as a literal, for people."""
_FRAME = re.compile(r'^ *File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
LONGEST = 2000
LONGEST_TRACE = 8000
MOST_ITEMS = 50
DEEPEST = 5
MOST_FRAMES = 20
AHEAD, BEHIND = 512, 4096
"""So far beyond the cut of a text it is looked for what a secret across it ends, or begins, with. What has no end there
is taken for one; of what begins sooner, a stack trace may show the end."""
_HARMLESS = frozenset({LogEvent, int, bool, float, type(None)})
SHORTEST_SECRET = 6
"""A shorter password (guest) would be found in too many words; it is hidden where it stands in a login."""
Secrets = Mapping[str, str]
"""Those of the settings → what is written instead; what holds another goes before it."""
_NONE: Secrets = MappingProxyType({})

_bound: ContextVar[Mapping[str, Any]] = ContextVar("verger_log_fields", default=MappingProxyType({}))


def bind(fields: Mapping[str, Any]) -> None:
    """From now on each line has these fields that is written in this asyncio task, or in what it starts, by any logger.

    A field of the line itself goes before.
    """
    # One variable for all fields: it is set for each task.
    _bound.set(fields)


def configure_logs(settings: Settings) -> None:
    """Set up structlog and the standard library's logging, once, at the entry point."""
    level = getattr(logging, settings.log_level.upper())
    people = settings.log_format == "console"
    secrets = secrets_of(settings)
    # Without the frames' local variables: they hold bodies and secrets.
    frames: structlog.typing.ExceptionTransformer = structlog.tracebacks.ExceptionDictTransformer(
        show_locals=False, max_frames=MOST_FRAMES
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_bound,
        structlog.stdlib.add_log_level,
        structlog.processors.ExceptionRenderer(_plain_trace if people else frames),
        _trace_for_people if people else _trace_for_machines,
        partial(hide_and_bound, secrets=secrets),
        # After the looks at texts, which it needs not.
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
    ]
    render: structlog.typing.Processor = structlog.processors.JSONRenderer(_to_json)
    if people:
        render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False, pad_event_to=18)
    finish = [*([_show_control_characters] if people else []), _without(secrets, render)]
    structlog.configure(
        processors=[*shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    _take_in_logging(level, settings.actors, shared, finish)


def _take_in_logging(
    level: int,
    modules: Iterable[str],
    shared: list[structlog.typing.Processor],
    finish: list[structlog.typing.Processor],
) -> None:
    """The standard library's lines go through the same pipe: those of handlers as the level says, those of others (the
    event loop, uvicorn, drivers) from warning on."""
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    for module in modules:
        logging.getLogger(module.partition(".")[0]).setLevel(level)
    # Reconnecting is reported by our own lines, which name the address and hide the password.
    for name in ("aio_pika", "aiormq", "pymongo", "apscheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _Stderr:
    """Standard error as it is at the time of writing: loggers outlive a redirection of it.

    A line that cannot be written is dropped: a full disk, or a reader that is gone, must stop no work.
    """

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


# ---- processors: (logger, method, event) -> event ----------------------------------------------------------------

Event = MutableMapping[str, Any]


def _add_bound(_logger: Any, _method: str, event: Event) -> Event:
    for key, value in _bound.get().items():
        event.setdefault(key, value)
    return event


def _plain_trace(exc_info: Any) -> str:
    return "".join(traceback.format_exception(*exc_info)).rstrip()


def _trace_for_people(_logger: Any, _method: str, event: Event) -> Event:
    """``traceback`` is a text, of a handler that failed; the console writes what is called ``exception`` below."""
    if "traceback" in event:
        trace = event.pop("traceback")
        if trace is not None:
            event.setdefault("exception", trace)
    return event


def _trace_for_machines(_logger: Any, _method: str, event: Event) -> Event:
    if isinstance(trace := event.get("traceback"), str):
        event["traceback"] = [
            {"filename": file, "lineno": int(line), "name": name} for file, line, name in _FRAME.findall(trace)
        ][-MOST_FRAMES:]
    return event


def hide_and_bound(_logger: Any, _method: str, event: Event, secrets: Secrets = _NONE) -> Event:
    """Hide what a key calls secret or a body, and what a text says is one; cut long values; also nested."""
    for key, value in event.items():
        kind = type(value)
        if _is_hidden(key):
            if not (kind is int and key.lower().endswith(_COUNTS)):
                event[key] = "***"
        elif kind is str:
            # Ids, types and states have none of these; what has may be a text that somebody else wrote.
            if len(value) > LONGEST or " " in value or "=" in value or ":" in value:
                event[key] = _safe(value, secrets, trace=key == "exception")
        elif kind not in _HARMLESS:
            event[key] = _plain(value, secrets, DEEPEST)
    return event


@lru_cache(maxsize=1024)
def _is_hidden(key: str) -> bool:
    lower = key.lower().replace("-", "_")
    return lower in _BODIES or (lower not in _OURS and any(word in lower for word in _SECRET))


def _show_control_characters(_logger: Any, _method: str, event: Event) -> Event:
    """What a terminal would obey is shown: ids and errors come from strangers. A stack trace keeps its lines, indented,
    so that none of them looks like a line of the log."""
    shown: dict[str, Any] = {}
    for key, value in event.items():
        if not isinstance(value, str):
            shown[_visible(key)] = value
        elif key in _TRACES:
            shown[key] = "\n".join(f"  {_visible(line)}" for line in value.split("\n"))
        else:
            literal = key != "event" and not _QUOTED.isdisjoint(value)
            shown[_visible(key)] = value if literal else _visible(value)
    return shown


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _plain(value: Any, secrets: Secrets, depth: int) -> Any:
    """As JSON holds it, bounded in every direction."""
    if isinstance(value, str):
        return _safe(value, secrets)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(key): "***" if _is_hidden(str(key)) else _plain(inner, secrets, depth - 1)
            for key, inner in islice(value.items(), MOST_ITEMS)
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner, secrets, depth - 1) for inner in islice(value, MOST_ITEMS)]
    try:
        return _safe(str(value), secrets)
    except Exception as error:
        # A stranger's __str__ may raise; a line must not.
        return f"({type(value).__name__}: {type(error).__name__})"


def _safe(text: str, secrets: Secrets, *, trace: bool = False) -> str:
    """Without secrets, and cut: the end of a stack trace is shown, of all else the beginning.

    A part of a secret is not known as one any more: a cut that would go through one goes beside it.
    """
    if len(text) <= (LONGEST_TRACE if trace else LONGEST):
        return _hide(text, secrets)
    longest = max(map(len, secrets), default=0)
    if not trace:
        end = LONGEST
        near = text[: end + longest + AHEAD]
        for first, last in sorted(_secrets_in(near, secrets, is_cut=len(near) < len(text)), key=itemgetter(1))[::-1]:
            if first < end < last:
                end = first
        return f"{_hide(text[:end], secrets)}{'***' if end < LONGEST else ''}…"
    near = text[-(LONGEST_TRACE + longest + BEHIND) :]
    begin = cut = len(near) - LONGEST_TRACE
    for first, last in sorted(_secrets_in(near, secrets)):
        if first < begin < last:
            begin = last
    return f"…{'***' if begin > cut else ''}{_hide(near[begin:], secrets)}"


def _hide(text: str, secrets: Secrets) -> str:
    # Ours are known as a whole; of one that holds a comma, the patterns would hide what stands before it.
    for secret, instead in secrets.items():
        if secret in text:
            text = text.replace(secret, instead)
    text = _LOGIN.sub(_without_password, text)
    return _BEARER.sub(r"\1***", _NAMED.sub(r"\1***", text))


def _without_password(found: re.Match[str]) -> str:
    begin, rest = found.groups()
    _, at, after = rest.rpartition("@")
    return f"{begin}***@{after}" if at else begin + rest


def _secrets_in(text: str, secrets: Secrets, *, is_cut: bool = False) -> list[tuple[int, int]]:
    """From where to where each secret reaches, with what tells that it is one.

    As ``_hide`` does it: each look sees what the looks before it have left; but all keeps its place here.
    ``is_cut``: the text goes on. A password that has no end here may have one there.
    """
    spans: list[tuple[int, int]] = []

    def login(found: re.Match[str]) -> str:
        at = len(found[2]) if is_cut and found.end() == len(text) else found[2].rfind("@")
        if at < 0:
            return found[0]
        spans.append((found.start(), min(found.start(2) + at + 1, found.end())))
        return f"{found[1]}{'*' * at}{found[2][at:]}"

    def named(found: re.Match[str]) -> str:
        spans.append(found.span())
        return found[1] + "*" * (len(found[0]) - len(found[1]))

    for secret, instead in secrets.items():
        at = text.find(secret)
        while at >= 0:
            spans.append((at, at + len(secret)))
            at = text.find(secret, at + len(secret))
        text = text.replace(secret, instead.replace("***", "*" * (len(secret) - len(instead) + 3)))
    _BEARER.sub(named, _NAMED.sub(named, _LOGIN.sub(login, text)))
    return spans


# ---- lines -------------------------------------------------------------------------------------------------------


def _to_json(event: Any, **options: Any) -> str:
    line = _written(event, **options)
    return line if line.isascii() else _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _written(event: Any, **options: Any) -> str:
    """A line costs as much as a claim if it is not written fast; what the fast writer refuses (long integers, halves of
    surrogate pairs) the slow one takes."""
    try:
        return orjson.dumps(event, **options).decode()
    except (TypeError, ValueError):
        pass
    try:
        return json.dumps(event, **options)
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"event": str(event.get("event")), "level": event.get("level"), "unwritable": repr(error)})


def secrets_of(settings: Settings) -> Secrets:
    """Every password and key in the settings, in each form in which a line might show it."""
    keys, passwords = set[str](), set[str]()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, SecretStr):
                keys.add(each.get_secret_value())
            elif isinstance(each, str) and "@" in (rest := each.partition("://")[2]):
                # An ``@`` may belong to the password, or come after the host.
                logins = (rest.partition("@")[0], rest.rpartition("@")[0])
                passwords |= {login.partition(":")[2] for login in logins}
    hidden = dict[str, str]()
    for secret in keys | passwords:
        for form in (secret, unquote(secret)):
            escaped = json.dumps(form)[1:-1]
            if len(form) >= SHORTEST_SECRET:
                hidden |= {form: "***", escaped: "***"}
            elif form and secret in passwords:
                hidden |= {f":{form}@": ":***@", f":{escaped}@": ":***@"}
    return dict(sorted(hidden.items(), key=lambda each: len(each[0]), reverse=True))


def _without(secrets: Secrets, render: structlog.typing.Processor) -> structlog.typing.Processor:
    """The last look at a line: whatever has put a secret of ours into it, it is not written."""

    def write(logger: Any, method: str, event: Event) -> str:
        line = cast("str", render(logger, method, event))
        for secret, instead in secrets.items():
            if secret in line:
                line = line.replace(secret, instead)
        return line

    return write if secrets else cast("Callable[..., str]", render)
