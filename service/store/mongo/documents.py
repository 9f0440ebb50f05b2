"""Models to documents and back. Absent is null: a partial index must not see a field that says nothing."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from bson import DBRef, Int64
from pydantic import BaseModel, TypeAdapter

from schemas.schedule import Schedule
from schemas.task import ASKED_LIMIT, HISTORY_LIMIT, Asked, HistoryEntry, Payload, Progress, Task, TaskError, TaskStatus
from service.payload import safe_text
from service.store.mongo.database import Document

_TASK_FIELDS = [(name, info.alias or name) for name, info in Task.model_fields.items() if name != "id"]
_TASK_NAMES = {alias: name for name, alias in _TASK_FIELDS}
_SCHEDULE_NAMES = frozenset(info.alias or name for name, info in Schedule.model_fields.items() if name != "id")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEPT_NULLS = frozenset({"max_attempts"})
"""Null means something here: retry for ever."""


def plain(value: Any) -> Any:
    """JSON as it was sent: the driver reads ``{"$ref", "$id"}`` as a reference, and long integers as its own type."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    if isinstance(value, DBRef):
        return plain(value.as_doc())
    return int(value) if isinstance(value, Int64) else value


def _dumped(value: BaseModel) -> Document:
    return value.model_dump(by_alias=True, exclude_none=True)


_STORED: dict[str, Callable[[Any], Any]] = {
    "status": lambda status: status.value,
    "last_error": _dumped,
    "progress": _dumped,
    "payload": _dumped,
    "history": lambda entries: [_dumped(entry) for entry in entries],
    "asked_by": lambda requests: [_dumped(request) for request in requests],
}
_RESTORED: dict[str, Callable[[Any], Any]] = {
    "task_body": plain,
    "checkpoint": plain,
    "result": plain,
    "status": TaskStatus,
    "last_error": TaskError.model_validate,
    "progress": Progress.model_validate,
    "payload": lambda value: Payload.model_validate(plain(value)),
    "history": TypeAdapter(list[HistoryEntry]).validate_python,
    "asked_by": TypeAdapter(list[Asked]).validate_python,
}
"""What is something else in the document, on its way there and back."""
_EMPTY = Task(id="", task_type="", task_body={}, created_at=_EPOCH, retry_at=_EPOCH)


def task_document(task: Task) -> Document:
    """A task as it is stored."""
    document: Document = {"_id": task.id}
    for name, alias in _TASK_FIELDS:
        value = getattr(task, name)
        if (value is None and name not in _KEPT_NULLS) or value is False or (name == "history" and not value):
            continue
        store = _STORED.get(name)
        document[alias] = value if store is None or value is None else store(value)
    return document


def task_from(document: Document) -> Task:
    """A stored task. What the store holds was checked when it was written, and is not checked again: that would cost
    a worker as much as claiming it."""
    fields: dict[str, Any] = {"id": document["_id"], "history": []}
    for alias, value in document.items():
        if (name := _TASK_NAMES.get(alias)) is not None:
            restore = _RESTORED.get(name)
            fields[name] = value if restore is None or value is None else restore(value)
    return _EMPTY.model_copy(update=fields)


def tasks_from(documents: Iterable[Document]) -> list[Task]:
    return [task_from(document) for document in documents]


def _fields(document: Document, names: frozenset[str]) -> Document:
    """What a model takes: fields of a newer version, which may run beside this one, are left out."""
    return {"id": document["_id"], **{name: plain(value) for name, value in document.items() if name in names}}


_PUSHED = ("recent_skips", "recent_runs")
"""Lists of a schedule that only grow: each entry is written by itself."""


def schedule_document(schedule: Schedule) -> Document:
    """A schedule as it is stored; durations are seconds."""
    document: Document = {"_id": schedule.id}
    for name, info in Schedule.model_fields.items():
        value = getattr(schedule, name)
        if isinstance(value, BaseModel):
            value = value.model_dump(by_alias=True)
        elif hasattr(value, "total_seconds"):
            value = value.total_seconds()
        elif hasattr(value, "value"):
            value = value.value
        if name not in ("id", *_PUSHED) and value is not None:
            document[info.alias or name] = value
    return document


def schedule_from(document: Document) -> Schedule:
    """A stored schedule."""
    return Schedule.model_validate(_fields(document, _SCHEDULE_NAMES))


def history_push(
    at: datetime, event: str, *, reason: str | None = None, worker: str | None = None, fence: int | None = None
) -> Document:
    """The ``$push`` of one line of history, which stays bounded."""
    reason = safe_text(reason[:500]) if reason else None
    entry = HistoryEntry(at=at, event=event, reason=reason, worker=worker or None, fence=fence or None)
    return {"history": {"$each": [entry.model_dump(by_alias=True, exclude_none=True)], "$slice": -HISTORY_LIMIT}}


def asked_push(at: datetime, asked_by: str) -> Document:
    """The ``$push`` of a request that a live task stands for; the list stays bounded."""
    return {"askedBy": {"$each": [{"id": asked_by, "at": at}], "$slice": -ASKED_LIMIT}}
