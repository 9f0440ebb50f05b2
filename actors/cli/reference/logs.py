"""The second half of docs/logs.md, made from the events."""

import json
from typing import Any

from service.log_events import LogEvent

HEAD = """## Events

| Event | Level | Means | Fields |
|---|---|---|---|
"""

EXAMPLES_HEAD = """
## Examples

One line for each event:

```json
"""

EXAMPLES: dict[str, Any] = {
    "action": "schedule.replace",
    "actor": "handler report.build",
    "address": "192.0.2.7",
    "after": {"enabled": False},
    "again": False,
    "again_in_seconds": 0.5,
    "archive": "daily/2026-10-02.tar.xz",
    "attempt": 1,
    "backup": "2026-10-09T03-00-00Z",
    "before": {"enabled": True},
    "broker": "amqp://verger:***@mq.example.org/",
    "by": "3f1c8a52b7d94f0e9a6d2c4b8e7f1a03",
    "bytes": 1834722,
    "bytes_freed": 734003,
    "cache": "titles",
    "cancelled": 3,
    "candidate": "import-4711",
    "claims": 12,
    "cluster": "cl-17",
    "collection": "tags",
    "command": "cancel",
    "completed": 1200,
    "condemned": 12,
    "count": 40,
    "crashes": 1,
    "cursor": "2026-10-09T12:00:00+00:00",
    "cut": 0,
    "dry": False,
    "duration_ms": 1834,
    "duties": ["fire", "intake", "prune", "relay", "rescue", "watch"],
    "duty": "relay",
    "endpoint": "herbarium-hooks",
    "entries": 17,
    "error": "MongoDB at mongodb://db.example.org/ does not answer: connection refused",
    "error_type": "ConnectionError",
    "exception": [{"exc_type": "KeyError", "exc_value": "'x'", "frames": ["…"]}],
    "exit_code": 1,
    "failed": 0,
    "fence": 2,
    "file": "sessions/index.json",
    "fix": "set VERGER_CLAUDE_PROJECTS",
    "folder": ".verger/backups/2026-10-09T03-00-00Z",
    "grace_seconds": 600.0,
    "host": "0.0.0.0",  # noqa: S104 - an example
    "http_status": 503,
    "id": "0b7e4c1d2f6a4e83b95d7c1a8f3e2d64",
    "integration": "herbarium-notes",
    "item": "notes/2026-10.md",
    "kind": "mongodb",
    "lag_ms": 7,
    "last_success_at": "2026-10-09T02:00:03+00:00",
    "left_by": "worker-1-4711",
    "left_running": 0,
    "limit_seconds": 1800.0,
    "line": 17,
    "malformed": 120,
    "marked": 48211,
    "members": 31,
    "memory": "m-1b9f",
    "merged": 7,
    "message_id": "msg_5f1c",
    "messages": 5,
    "method": "GET",
    "missed": 12,
    "name": "memory.notes",
    "names": ["dashboard", "deploy"],
    "of": 5,
    "overdue_since": "2026-10-09T04:00:00+00:00",
    "pardoned": 1,
    "path": "/home/ada/notes.jsonl",
    "pid": 4711,
    "policy": "coalesce",
    "port": 8081,
    "problem": "2026-10-08T03-00-00Z: manifest.json is missing",
    "purpose": "publishing",
    "queue": "verger.tasks.report.build",
    "reason": "exhausted",
    "record": "rose",
    "reference": "9f2b6c1e8a7d4f03",
    "refused": 1,
    "released": 2,
    "replayed": 40,
    "restart_in_seconds": 0.2,
    "restarts": 1,
    "retry_at": "2026-10-09T12:00:02.412000+00:00",
    "roles": ["worker"],
    "root": "/home/ada/.claude/projects",
    "scanned": 51302,
    "schedule_id": "nightly-backup",
    "schedules": ["nightly-backup"],
    "seconds": 3.2,
    "server": "store",
    "signal": "SIGTERM",
    "size": 70000,
    "status": "success",
    "swept": 9,
    "target": "nightly-backup",
    "task_type": "report.build",
    "task_types": ["report.build", "report.send"],
    "tenant": "herbarium",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "traceback": [{"filename": "jobs.py", "lineno": 17, "name": "build_report"}],
    "url": "http://127.0.0.1:8080",
    "version": "0.1.0",
    "waiting": 40,
    "who": "deploy",
    "worker": "worker-1-4711-a3f2c1",
    "would_remove": 4,
}
"""Field → what it may look like."""
OWN: dict[LogEvent, dict[str, Any]] = {
    LogEvent.LETTERS_REPLAYED: {"by": "deploy"},
    LogEvent.VERGER_STARTED: {"task_types": 2},
    LogEvent.TASK_FINISHED: {"reason": None, "retry_at": None, "error": None, "error_type": None, "rows": 340},
    LogEvent.TASK_FAILED: {"status": "dead_letter", "error": "the report service refused"},
    LogEvent.TASK_RESCUED: {"status": "pending"},
    LogEvent.TASK_REFUSED: {"reason": "the claim was lost; another run's outcome stands"},
    LogEvent.SCHEDULE_SKIPPED: {"reason": "overlap"},
    LogEvent.SCHEDULE_RECOVERED: {"reason": "succeeded"},
    LogEvent.MESSAGE_REFUSED: {"id": "invalid:5d41402a", "reason": "invalid_message", "error": "taskBody is missing"},
    LogEvent.MONGOD_STARTED: {"url": "mongodb://127.0.0.1:27017/"},
    LogEvent.KEYS_LOADED: {"file": "/etc/verger/keys"},
    LogEvent.KEYS_REFUSED: {"file": "/etc/verger/keys", "error": "line 3: a key is not in the form of one"},
}
"""Where an event's own look is another; None: left out."""


def page() -> str:
    """Every event with its fields, and a line of each."""
    rows = [
        f"| `{event}` | {event.level} | {event.meaning} | {_names(event.fields) or '–'} |" for event in sorted(LogEvent)
    ]
    examples = [json.dumps(example(event), ensure_ascii=False) for event in sorted(LogEvent)]
    return f"{HEAD}{chr(10).join(rows)}\n{EXAMPLES_HEAD}{chr(10).join(examples)}\n```\n"


def example(event: LogEvent) -> dict[str, Any]:
    """A line of this event."""
    fields = {field: EXAMPLES[field] for field in event.fields} | OWN.get(event, {})
    shown = {field: value for field, value in fields.items() if value is not None}
    return {**shown, "event": event.value, "level": event.level, "timestamp": "2026-10-09T12:00:00.412345Z"}


def _names(fields: tuple[str, ...]) -> str:
    return " ".join(f"`{field}`" for field in fields)
