"""What became, or will become, of each due instant of a schedule."""

from enum import StrEnum

from pydantic import Field

from schemas.base import Instant, Model
from schemas.task import TaskStatus


class FireState(StrEnum):
    """Of one due instant."""

    FIRED = "fired"
    """It made its task."""
    OPEN = "open"
    """A scheduler is making its task."""
    OVERLAP = "overlap"
    COALESCED = "coalesced"
    MISFIRE = "misfire"
    """No task of its own, for one of the reasons of a skip."""
    PAUSED = "paused"
    """The schedule was, or is, paused."""
    ABSENT = "absent"
    """The schedule did not exist yet."""
    UNKNOWN = "unknown"
    """Past, and nothing is kept of it."""
    DUE = "due"
    """The next scheduler that looks fires it."""
    FUTURE = "future"


class DueInstant(Model):
    """One due instant."""

    at: Instant
    local: str
    """The same in the schedule's time zone."""
    clock: str | None = None
    """Where the clocks change: why it fires when it does."""
    state: FireState | None = None
    """Null where no stored schedule was asked for."""
    reason: str | None = None
    task_id: str | None = None
    """Of its task, if it made one."""
    status: TaskStatus | None = None
    """Of that task."""
    starts_at: Instant | None = None
    """When a task that is still to be made may start, if the schedule has jitter."""


class ClockNote(Model):
    """The clocks of the time zone change."""

    at: Instant
    local_before: str
    local_after: str
    effect: str


class Explanation(Model):
    """The due instants of a window, in order, by what the schedule says now."""

    id: str | None = None
    schedule: str
    timezone: str
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    """Not in the window."""
    fires: list[DueInstant]
    truncated: bool
    """There are more in the window."""
    clock_changes: list[ClockNote]
