"""A worker process as the store knows it."""

from schemas.base import Instant, Model


class Worker(Model):
    """One process; written by its heartbeat."""

    id: str
    """``<host>-<pid>-<random>``."""
    host: str
    pid: int
    roles: list[str]
    task_types: list[str] = []
    """What it consumes."""
    running: int = 0
    slots: int = 0
    started_at: Instant
    seen_at: Instant
    version: str


class TaskTypeState(Model):
    """What the store knows of a task type."""

    id: str
    paused: bool = False
    paused_at: Instant | None = None
    paused_by: str | None = None
    marker_sent_at: Instant | None = None
    marker_seen_at: Instant | None = None
