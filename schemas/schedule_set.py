"""All schedules together, and what a change of them would do."""

from typing import Any

from pydantic import Field

from schemas.base import Model
from schemas.schedule import Schedule


class ScheduleSet(Model):
    """All schedules by id, without what is recent of each."""

    schedules: list[Schedule]
    revision: int
    """Of the set: each edit of any schedule increments it. Also the ``ETag``."""


class ChangedKey(Model):
    """The value of a file's key."""

    before: Any = Field(alias="from")
    after: Any = Field(alias="to")


class ChangedSchedule(Model):
    id: str
    changes: dict[str, ChangedKey]
    """By key of a schedules file."""


class SchedulePlan(Model):
    """What a file changes: ids."""

    create: list[str]
    update: list[ChangedSchedule]
    delete: list[str]
    unchanged: list[str]
    source: str | None
    """Owner of what is created."""
    applied: bool
    """False: it was a dry run, or there was nothing to do."""
