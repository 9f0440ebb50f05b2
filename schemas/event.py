"""Events on ``verger.events`` and names in the log: one list, so that dashboards and code agree."""

from enum import StrEnum
from typing import Any

from schemas.base import Instant, Model


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


class Event(Model):
    """One event. Best effort: transient, unconfirmed, dropped (and counted) when the buffer is full."""

    event: str
    at: Instant
    task_id: str | None = None
    task_type: str | None = None
    schedule_id: str | None = None
    worker: str | None = None
    detail: dict[str, Any] = {}


class ControlCommand(StrEnum):
    """Hints on the control exchange: the store holds the truth, a lost hint only delays."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    SCHEDULES_CHANGED = "schedules_changed"


class ControlMessage(Model):
    command: ControlCommand
    task_id: str | None = None
    task_type: str | None = None
    force: bool = False
