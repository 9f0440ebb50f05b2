"""A schedule: which task type fires when, and what happens to fires that are late or overlap."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from schemas.base import Duration, Instant, Model
from schemas.task import TaskStatus, TaskType

ScheduleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


class Overlap(StrEnum):
    """What a fire does while a task of the same type and body is pending or running."""

    SKIP = "skip"
    """It is skipped and counted."""
    ALLOW = "allow"
    """It makes a task of its own."""


class Misfire(StrEnum):
    """What happens to fires that fell into a downtime."""

    COALESCE = "coalesce"
    """One run on resume."""
    ALL = "all"
    """Every one, bounded."""
    SKIP = "skip"
    """None; the next regular fire runs."""


class Firing(Model):
    """A fire that is under way: whoever holds it inserts and publishes its task."""

    fire_at: Instant
    at: Instant
    by: str


class SkipReason(StrEnum):
    """Why a due instant made no task of its own."""

    OVERLAP = "overlap"
    """A task of the same type and body was pending or running."""
    COALESCED = "coalesced"
    """Found due too late: an earlier one ran for it."""
    MISFIRE = "misfire"
    """Found due too late: none ran."""


class Skip(Model):
    """Due instants that made no task."""

    reason: SkipReason
    since: Instant
    """The first of them."""
    until: Instant
    """No later one than this."""
    count: int
    by: str | None = None
    """The task that was pending or running (overlap), or that ran for them (coalesced)."""


class RecentRun(Model):
    """How one task of a schedule ended."""

    task_id: str
    status: TaskStatus
    at: Instant
    duration_ms: int


RECENT = 20
"""How many runs, and how many skips, a schedule remembers."""


class Schedule(Model):
    """One schedule as the store keeps it."""

    id: ScheduleId
    task_type: TaskType
    task_body: dict[str, Any] = {}
    schedule: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """Cron (5 fields, or 6 with leading seconds), ``@daily`` and its kin, ``@every 30s``, ``@at 2026-12-24T18:00Z``."""
    timezone: str = "UTC"
    enabled: bool = True
    overlap: Overlap = Overlap.SKIP
    misfire: Misfire = Misfire.COALESCE
    misfire_grace: Duration | None = None
    jitter: Duration | None = None
    """Moves a fire's task by up to this much, equally on every replica; ``fireAt`` stays nominal."""
    expect_success_within: Duration | None = None
    """Overdue when the last success is older; null: two cadences."""
    source: str | None = None
    """Who owns it: ``apply --prune`` touches only its own."""

    paused_at: Instant | None = None
    """When it was disabled last."""
    resumed_at: Instant | None = None
    """When it was enabled again last: freshness counts from here, if there is no later success."""

    next_fire_at: Instant | None = None
    """Null: no fire is left, or the schedule is disabled."""
    firing: Firing | None = None
    last_fire_at: Instant | None = None
    last_task_id: str | None = None
    last_status: TaskStatus | None = None
    last_ended_at: Instant | None = None
    last_success_at: Instant | None = None
    last_duration_ms: int | None = None
    skipped: dict[str, int] = {}
    """How many fires were skipped, by reason: ``overlap``, ``misfire``, ``coalesced``."""
    recent_skips: list[Skip] = []
    """The newest, in order; a list of schedules leaves them out."""
    recent_runs: list[RecentRun] = []
    """The newest by their end, in order; a list of schedules leaves them out."""
    overdue_since: Instant | None = None
    """Since when its success has been overdue: set and unset by whichever scheduler tells of it."""
    revision: int = 0
    """Incremented by each edit."""
    created_at: Instant | None = None
    updated_at: Instant | None = None


class ScheduleEntry(Model):
    """One entry of a schedules file; its keys are snake_case as in a crontab's JSON form."""

    id: ScheduleId
    task_type: str
    schedule: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    args: dict[str, Any] = {}
    enabled: bool = True
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    misfire: Misfire = Misfire.COALESCE
    misfire_grace: Duration | None = None
    jitter: Duration | None = None
    expect_success_within: Duration | None = None


class ScheduleFile(Model):
    """``{"schedules": [{"id", "task_type", "schedule", "args", "enabled"}]}``."""

    schedules: list[ScheduleEntry] = Field(max_length=10_000)
