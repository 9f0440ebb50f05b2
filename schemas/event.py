"""Events on ``verger.events`` and names in the log: one list, so that dashboards and code agree."""

from enum import StrEnum
from typing import Any

from schemas.base import Instant, Model
from schemas.schedule import SkipReason
from schemas.task import TaskStatus


class EventName(StrEnum):
    """Routing keys on the events exchange."""

    TASK_STARTED = "task.started"
    TASK_COMPLETED = "task.completed"
    TASK_FAILED = "task.failed"
    TASK_RETRYING = "task.retrying"
    TASK_CANCELLED = "task.cancelled"
    TASK_RESCUED = "task.rescued"
    SCHEDULE_FIRED = "schedule.fired"
    SCHEDULE_SKIPPED = "schedule.skipped"
    SCHEDULE_OVERDUE = "schedule.overdue"
    SCHEDULE_RECOVERED = "schedule.recovered"
    GC_COMPLETED = "gc.completed"


class Event(Model):
    """One event. Best effort: transient, unconfirmed, dropped (and counted) when the buffer is full."""

    event: str
    at: Instant
    task_id: str | None = None
    task_type: str | None = None
    schedule_id: str | None = None
    worker: str | None = None
    detail: dict[str, Any] = {}


# ---- what the detail of each event holds ----------------------------------------------------------------------------


class Started(Model):
    """A run began."""

    attempt: int


class Ended(Model):
    """A run ended, and its end is stored."""

    attempt: int
    duration_ms: int
    reason: str | None
    """Why it did not complete."""


class Rescued(Model):
    """The stale claim of a lost worker was taken away; ``worker`` is that one."""

    attempt: int
    status: TaskStatus
    """What the task is now."""


class Fired(Model):
    """A fire made its task."""


class Skipped(Model):
    """A fire made no task; ``taskId`` is the one that is still pending or running."""

    reason: SkipReason


class Overdue(Model):
    """The last success of a schedule is too long ago."""

    last_success_at: Instant | None
    overdue_since: Instant | None


class Recovered(Model):
    """A schedule is not overdue any more."""

    last_success_at: Instant | None
    overdue_since: Instant | None
    """Since when it was."""
    reason: str
    """``succeeded``, ``edited`` or ``paused``."""


class Pruned(Model):
    """Finished tasks were deleted: how many of each status."""

    completed: int
    cancelled: int
    failed: int


DETAILS: dict[EventName, type[Model]] = {
    EventName.TASK_STARTED: Started,
    EventName.TASK_COMPLETED: Ended,
    EventName.TASK_FAILED: Ended,
    EventName.TASK_RETRYING: Ended,
    EventName.TASK_CANCELLED: Ended,
    EventName.TASK_RESCUED: Rescued,
    EventName.SCHEDULE_FIRED: Fired,
    EventName.SCHEDULE_SKIPPED: Skipped,
    EventName.SCHEDULE_OVERDUE: Overdue,
    EventName.SCHEDULE_RECOVERED: Recovered,
    EventName.GC_COMPLETED: Pruned,
}
"""Event → its ``detail``, as it is sent. Whoever emits writes the plain dict: a worker emits with each run."""


class Gap(Model):
    """Events are missing here: what a listener is told instead of them."""

    reason: str
    missed: int | None = None
    """How many, where that is known."""


class ControlCommand(StrEnum):
    """Hints on the control exchange: the store holds the truth, a lost hint only delays."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    SCHEDULES_CHANGED = "schedules_changed"
    EVICT = "evict"


class ControlMessage(Model):
    command: ControlCommand
    task_id: str | None = None
    task_type: str | None = None
    cache: str | None = None
    """Which in-memory cache lets go of what is stale; None: each."""
    force: bool = False
