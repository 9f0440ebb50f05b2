"""Tasks for due instants of the past that made none."""

from enum import StrEnum

from pydantic import Field

from schemas.base import Instant, Model
from schemas.explanation import FireState
from schemas.schedule import Overlap

MOST = 1000
"""Due instants that one backfill looks at."""


class BackfillRequest(Model):
    """Which due instants."""

    start: Instant = Field(alias="from")
    end: Instant | None = Field(None, alias="to")
    """Not included; null, or later than now: until now."""
    limit: int = Field(100, ge=1, le=MOST)
    """How many due instants it looks at."""
    overlap: Overlap | None = None
    """Instead of the schedule's own policy."""
    unknown: bool = False
    """Also instants of which nothing is kept: they may have run."""
    dry_run: bool = False


class BackfillOutcome(StrEnum):
    """Of one due instant."""

    CREATED = "created"
    PLANNED = "planned"
    """It would be created: this was a dry run."""
    KNOWN = "known"
    """It has its task, or is about to get it."""
    OVERLAP = "overlap"
    """A task of the same type and body is pending or running."""
    UNKNOWN = "unknown"
    """It may have run: see ``unknown``."""


class BackfilledInstant(Model):
    at: Instant
    task_id: str
    outcome: BackfillOutcome
    state: FireState
    """What was known of it before."""
    reason: str | None = None


class Backfill(Model):
    """What a backfill did, or would do, in the order of the instants."""

    schedule_id: str
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    dry_run: bool
    created: int
    """How many tasks are new; in a dry run, would be."""
    fires: list[BackfilledInstant]
    continue_from: Instant | None
    """Where the limit cut it off."""
