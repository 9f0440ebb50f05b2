"""A job: how a schedule is doing."""

from schemas.base import Duration, Instant, Model
from schemas.task import TaskStatus


class Job(Model):
    """One schedule, as whoever watches over it wants to see it."""

    id: str
    task_type: str
    schedule: str
    timezone: str
    enabled: bool
    cadence: Duration | None
    """The largest gap between neighbouring fires around the last success; null with fewer than two fires."""
    next_fire_at: Instant | None
    """Null: paused, or no fire is left."""
    last_status: TaskStatus | None
    last_ended_at: Instant | None
    last_success_at: Instant | None
    overdue_since: Instant | None
    """Null: it is not overdue."""
    overdue_by: Duration | None
    last_duration_ms: int | None
    usual_duration_ms: int | None
    """The median of ``durationsMs``."""
    durations_ms: list[int]
    """Of the completed ones among the last 20 runs, oldest first."""


class Jobs(Model):
    """All of them, by id."""

    jobs: list[Job]
