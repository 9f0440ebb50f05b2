"""Structured logs: one pipe, JSON lines or a console, secrets hidden, values bounded."""

import json
import logging
import sys
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any, TextIO, cast

import orjson
import structlog

from service.settings import Settings

_SECRET = ("password", "secret", "token", "api_key", "apikey", "authorization", "cookie", "credential")
_BODIES = ("body", "task_body", "taskbody", "payload")
_OURS = frozenset({"claim_token"})
LONGEST = 2000


def configure_logs(settings: Settings) -> None:
    """Set up structlog and the standard library's logging, once, at the entry point."""
    level = getattr(logging, settings.log_level.upper())
    people = settings.log_format == "console"
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        stamp,
        hide_and_bound,
    ]
    finish: list[structlog.typing.Processor]
    if people:
        plain = structlog.dev.plain_traceback
        finish = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=plain, sort_keys=False, pad_event_to=18
            )
        ]
    else:
        # Without the frames' local variables: they hold bodies and secrets.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        finish = [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(_to_json),
        ]
    structlog.configure(
        processors=[*shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    # Libraries' own lines go through the same pipe; their chatter below warning does not.
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    # Reconnecting is reported by our own lines, which name the address and hide the password.
    for name in ("aio_pika", "aiormq", "pymongo", "apscheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _Stderr:
    """Standard error as it is at the time of writing: loggers outlive a redirection of it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _to_json(event: Any, **options: Any) -> str:
    """A line costs as much as a claim if it is not written fast; what the fast writer refuses (long integers, halves of
    surrogate pairs) the slow one takes."""
    try:
        return orjson.dumps(event, **options).decode()
    except (TypeError, ValueError):
        return json.dumps(event, ensure_ascii=False, **options)


@lru_cache(maxsize=1024)
def _is_hidden(key: str) -> bool:
    lower = key.lower()
    return lower in _BODIES or (lower not in _OURS and any(word in lower for word in _SECRET))


def hide_and_bound(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide what a key calls secret or a body, and cut long values."""
    for key, value in event.items():
        if _is_hidden(key):
            event[key] = "***"
        elif isinstance(value, str) and len(value) > LONGEST:
            event[key] = value[:LONGEST] + "…"
    return event
