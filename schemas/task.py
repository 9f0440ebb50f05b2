"""A task: one unit of work, as the store keeps it and the API shows it."""

import re
from base64 import b64decode
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from schemas.base import Instant, Model

TASK_TYPE = re.compile(r"[a-z0-9_.-]{1,100}")
TaskType = Annotated[str, StringConstraints(pattern=rf"^{TASK_TYPE.pattern}$")]

HISTORY_LIMIT = 20
"""How many lines of history a task keeps; the oldest go first."""
ASKED_LIMIT = 10
"""How many requests that it stands for a task keeps; the oldest go first."""


class TaskStatus(StrEnum):
    """Where a task stands; ``service/states.py`` says how it moves."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    """A dead letter."""
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


class TaskError(Model):
    """The last failure of a run."""

    type: str
    message: str
    traceback: str | None = None
    """Bounded; the innermost frames are kept."""
    fingerprint: str
    """Equal for failures of the same kind at the same place, whatever line that is on now."""
    place: str | None = None
    """``file:function`` where it was raised; null where no code of a handler did."""
    at: Instant


class Progress(Model):
    """How far a run has come."""

    progress: float = Field(ge=0, le=1)
    eta_ms: int | None = None
    done_count: int
    total_count: int | None = None
    message: str | None = None
    at: Instant


class HistoryEntry(Model):
    """One step off the happy path."""

    at: Instant
    event: str
    reason: str | None = None
    worker: str | None = None
    fence: int | None = None


class Asked(Model):
    """A request that made no task of its own: this one has its live key."""

    id: str
    at: Instant


class Payload(Model):
    """A message that was no task."""

    body: str
    """Its bytes, or the first of them, in base64."""
    size: int
    sha256: str
    complete: bool
    headers: dict[str, str] = {}

    @property
    def content(self) -> bytes:
        return b64decode(self.body)


class Task(Model):
    """One unit of work. ``taskBody``, ``checkpoint`` and ``result`` hold JSON values."""

    id: str
    task_type: str
    task_body: dict[str, Any]
    task_name: str | None = None
    """Singleton name, for display; the rule is in ``live_key``."""
    live_key: str | None = None
    """Present only while pending or running, and unique among those."""
    ended_key: str | None = None
    """The live key of a finished task: a replay takes it up again."""

    status: TaskStatus = TaskStatus.PENDING
    reason: str | None = None
    """Why it ended, where no exception says so."""

    created_at: Instant
    retry_at: Instant
    """Not eligible before."""
    relay_at: Instant | None = None
    """When relay looks at it next; absent when nothing is left to publish."""
    started_at: Instant | None = None
    finished_at: Instant | None = None

    processing_at: Instant | None = None
    """When the claim was last renewed, by the store's clock; absent unless running."""
    claimed_by: str | None = None
    claim_token: str | None = None
    """One UUID for each claim; a settled task keeps its last."""
    fence: int = 0
    """Incremented by each claim: orders the runs of one record."""

    attempt: int = 0
    """Incremented by each claim; taken back by a release or a snooze."""
    retry_count: int = 0
    max_attempts: int | None = 8
    """Ceiling for ``attempt``; null: retry for ever."""
    timeout_seconds: float = 1800
    again: bool = False
    """Asked for once more while running."""
    asked_by: list[Asked] | None = None
    """The last requests that this task stands for, at most one noted a second; ``verger tasks why`` finds them."""
    cancel_requested_at: Instant | None = None
    cancel_forced: bool = False
    """The handler is interrupted, not only asked."""

    last_error: TaskError | None = None
    progress: Progress | None = None
    checkpoint: Any = None
    """What the next attempt resumes from."""
    result: Any = None

    schedule_id: str | None = None
    fire_at: Instant | None = None
    tenant_id: str | None = None
    traceparent: str | None = None
    payload: Payload | None = None
    """The message as it came, where it was no task: kept so that it can be replayed."""
    history: list[HistoryEntry] = []

    @property
    def at_ceiling(self) -> bool:
        return self.max_attempts is not None and self.attempt >= self.max_attempts

    def eligible(self, now: datetime) -> bool:
        return self.status is TaskStatus.PENDING and self.retry_at <= now
