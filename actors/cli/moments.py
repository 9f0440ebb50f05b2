"""Instants as people write and read them."""

from datetime import UTC, datetime, timedelta, tzinfo

from schemas.base import LAST_YEAR, in_calendar
from schemas.duration import format_duration
from service.errors import InvalidInput


def parse_moment(text: str, field: str, zone: tzinfo = UTC) -> datetime:
    """An instant in UTC: ISO 8601, a date alone being its midnight; without an offset in ``zone``.

    Raises:
        InvalidInput: it is none.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        fix = "write 2026-12-24T18:00:00Z, or without Z for the time zone of the schedule"
        raise InvalidInput(field, text, "is no instant", fix) from None
    if not in_calendar(moment):
        raise InvalidInput(field, text, "is too near the end of the calendar", f"give a year from 2 to {LAST_YEAR}")
    return moment


def iso(moment: datetime) -> str:
    """``2026-12-24T18:00:00Z``; with milliseconds where there are some."""
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.astimezone(UTC).isoformat(timespec=precision).removesuffix("+00:00") + "Z"


def stamp(moment: datetime) -> str:
    """For people: ``2026-12-24 18:00:00Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def relative(moment: datetime, now: datetime) -> str:
    """``in 5m`` or ``3h2m ago``."""
    if moment >= now:
        return "in " + _short(moment - now)
    return _short(now - moment) + " ago"


def both(moment: datetime | None, now: datetime) -> str | None:
    """``2026-12-24 18:00:00Z (in 5m)``."""
    return None if moment is None else f"{stamp(moment)} ({relative(moment, now)})"


def _short(span: timedelta) -> str:
    # Nobody counts milliseconds here, nor seconds after an hour.
    unit = timedelta(minutes=1) if span >= timedelta(hours=1) else timedelta(seconds=1)
    whole = span // unit * unit
    return format_duration(whole) if whole else "0s"
