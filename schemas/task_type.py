"""A task type as an operator sees it."""

from schemas.base import Instant, Model
from schemas.task import TaskStatus


class TaskTypeSummary(Model):
    """One type: that a loaded module handles, or that the store knows from elsewhere."""

    task_type: str
    aliases: list[str] = []
    summary: str = ""
    """What its handler says of itself."""
    known: bool
    """Whether a module that is loaded here handles it."""
    paused: bool
    paused_at: Instant | None = None
    paused_by: str | None = None
    slots: int | None = None
    """How many runs of it one worker has at once; null where the handler leaves it to VERGER_CONCURRENCY."""
    workers: int
    """How many workers consume it."""
    counts: dict[TaskStatus, int] | None = None
    """Tasks by status; null unless it was asked for."""
