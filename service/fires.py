"""The task of a fire: its id, its start and its fields (pure)."""

from datetime import UTC, datetime

from schemas.schedule import Overlap, Schedule
from schemas.task import Task
from service.due import jittered
from service.envelope import FIRE_PREFIX, new_task
from service.registry import Handler


def fire_id(schedule_id: str, fire_at: datetime) -> str:
    """``fire:<schedule id>@<instant>``: whoever makes the task of a fire makes this one."""
    return f"{FIRE_PREFIX}{schedule_id}@{fire_at.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"


def starts_at(schedule: Schedule, fire_at: datetime) -> datetime:
    """When the task of a fire may start: with its jitter."""
    if schedule.jitter is None:
        return fire_at
    return jittered(fire_at, schedule.jitter, fire_id(schedule.id, fire_at))


def fire_task(
    schedule: Schedule,
    fire_at: datetime,
    handler: Handler | None,
    now: datetime,
    *,
    retry_at: datetime,
    overlap: Overlap | None = None,
) -> Task:
    """The pending task of a fire; ``relayAt`` is left to whoever publishes it.

    Args:
        overlap: Instead of the schedule's own policy. ``skip`` gives it a live key, so that it is not made while a task
        of the same type and body is pending or running (P19).
    """
    task = new_task(
        handler,
        task_type=handler.task_type if handler is not None else schedule.task_type,
        body=schedule.task_body,
        now=now,
        id=fire_id(schedule.id, fire_at),
        unique=(overlap or schedule.overlap) is Overlap.SKIP,
        retry_at=retry_at,
    )
    return task.model_copy(update={"schedule_id": schedule.id, "fire_at": fire_at})
