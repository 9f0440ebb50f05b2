"""Models to documents and back. Absent is null: a partial index must not see a field that says nothing."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from bson import DBRef
from pydantic import BaseModel

from schemas.schedule import Schedule
from schemas.task import HISTORY_LIMIT, HistoryEntry, Task
from service.store.mongo.database import Document

_TASK_FIELDS = [(name, info.alias or name) for name, info in Task.model_fields.items() if name != "id"]
_JSON_FIELDS = ("taskBody", "result", "checkpoint")
_KEPT_NULLS = ("maxAttempts",)
"""Null means something here: retry for ever."""


def task_document(task: Task) -> Document:
    """A task as it is stored."""
    document: Document = {"_id": task.id}
    for name, alias in _TASK_FIELDS:
        value = getattr(task, name)
        if isinstance(value, BaseModel):
            value = value.model_dump(by_alias=True, exclude_none=True)
        elif name == "history":
            value = [entry.model_dump(by_alias=True, exclude_none=True) for entry in value] or None
        elif name == "status":
            value = value.value
        if (value is not None and value is not False) or alias in _KEPT_NULLS:
            document[alias] = value
    return document


def task_from(document: Document) -> Task:
    """A stored task."""
    fields = dict(document)
    fields["id"] = fields.pop("_id")
    for name in _JSON_FIELDS:
        if name in fields:
            fields[name] = _plain(fields[name])
    return Task.model_validate(fields)


def tasks_from(documents: Iterable[Document]) -> list[Task]:
    return [task_from(document) for document in documents]


def _plain(value: Any) -> Any:
    """JSON as it was sent: the driver reads an object with ``$ref`` and ``$id`` as a reference."""
    if isinstance(value, dict):
        for key, child in value.items():
            if isinstance(child, (dict, list, DBRef)):
                value[key] = _plain(child)
        return value
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return _plain(dict(value.as_doc())) if isinstance(value, DBRef) else value


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
        if name != "id" and value is not None:
            document[info.alias or name] = value
    return document


def schedule_from(document: Document) -> Schedule:
    """A stored schedule."""
    fields = dict(document)
    fields["id"] = fields.pop("_id")
    fields["taskBody"] = _plain(fields.get("taskBody", {}))
    return Schedule.model_validate(fields)


def history_push(
    at: datetime, event: str, *, reason: str | None = None, worker: str | None = None, fence: int | None = None
) -> Document:
    """The ``$push`` of one line of history, which stays bounded."""
    entry = HistoryEntry(at=at, event=event, reason=reason and reason[:500], worker=worker or None, fence=fence or None)
    return {"history": {"$each": [entry.model_dump(by_alias=True, exclude_none=True)], "$slice": -HISTORY_LIMIT}}
