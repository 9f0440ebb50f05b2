"""``verger actors``: what is loaded here."""

from collections.abc import Sequence
from typing import Any

from actors.cli.options import Json
from actors.cli.output import print_json, table
from schemas.duration import format_duration
from service.registry import Handler, load
from service.settings import load_settings


def actors(json: Json = False) -> None:
    """List the task types of the loaded modules; needs no server."""
    settings = load_settings()
    handlers = sorted(load(settings.actors), key=lambda handler: handler.task_type)
    if json:
        print_json({"actors": [_content(handler) for handler in handlers]})
    else:
        _show(handlers, settings.concurrency)


def _show(handlers: Sequence[Handler], concurrency: int) -> None:
    table(
        ("TYPE", "ALIASES", "SLOTS", "ATTEMPTS", "TIMEOUT", "WHAT IT DOES"),
        [
            (
                handler.task_type,
                ", ".join(handler.aliases),
                str(handler.concurrency or concurrency),
                "no limit" if handler.max_attempts is None else str(handler.max_attempts),
                format_duration(handler.timeout),
                handler.summary,
            )
            for handler in handlers
        ],
        fold=5,
    )


def _content(handler: Handler) -> dict[str, Any]:
    return {
        "taskType": handler.task_type,
        "aliases": list(handler.aliases),
        "concurrency": handler.concurrency,
        "maxAttempts": handler.max_attempts,
        "timeoutSeconds": handler.timeout.total_seconds(),
        "unique": handler.unique,
        "summary": handler.summary,
        "module": handler.function.__module__,
    }
