"""When the clocks of a time zone change, and what that does to its times of day (pure)."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

STRIDE = timedelta(days=5)
"""Shorter than any time between two changes of a zone's offset since 1970; the shortest was 7 days (Recife, 2000)."""
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ClockChange:
    """One change of a zone's offset from UTC. The walls are naive local times."""

    at: datetime
    before: datetime
    """What clocks would show at ``at`` had they not changed."""
    after: datetime
    """What they show."""

    @property
    def is_gap(self) -> bool:
        """Local times from ``before`` to ``after`` do not exist; else those from ``after`` to ``before`` come twice."""
        return self.after > self.before


def wall(instant: datetime, zone: tzinfo) -> datetime:
    """What a clock in ``zone`` shows at ``instant``, naive."""
    return instant.astimezone(zone).replace(tzinfo=None)


def offset(instant: datetime, zone: tzinfo) -> timedelta:
    """Of ``zone`` from UTC at ``instant`` (UTC)."""
    return wall(instant, zone) - instant.replace(tzinfo=None)


def first_change(start: datetime, end: datetime, zone: tzinfo) -> datetime | None:
    """The first instant in ``(start, end]`` with another offset than ``start``, to the second."""
    present, low = offset(start, zone), start
    while low < end:
        high = min(low + STRIDE, end)
        if offset(high, zone) != present:
            while high - low > _SECOND:
                middle = low + (high - low) // _SECOND // 2 * _SECOND
                low, high = (middle, high) if offset(middle, zone) == present else (low, middle)
            return high
        low = high
    return None


def changes(start: datetime, end: datetime, zone: tzinfo) -> Iterator[ClockChange]:
    """The changes in ``(start, end]``, in order."""
    # Whole seconds, so that a change is found at its own.
    low = start.astimezone(UTC).replace(microsecond=0)
    while (at := first_change(low, end, zone)) is not None:
        yield ClockChange(at, wall(at - _SECOND, zone) + _SECOND, wall(at, zone))
        low = at


def time_of_two(instant: datetime, zone: tzinfo) -> int | None:
    """1 or 2 if the local time comes twice around ``instant``, which is the first or the second; else None."""
    local = instant.astimezone(zone)
    if local.utcoffset() == local.replace(fold=1 - local.fold).utcoffset():
        return None
    return 1 + local.fold
