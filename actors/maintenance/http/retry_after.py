"""``Retry-After``, in both of its forms."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from schemas.duration import parse_duration

LONGEST = timedelta(hours=24)
"""Nobody is kept waiting longer by what a server says."""


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta:
    """How long the server wants to be left alone: seconds, or a date. Nothing, where it does not say so clearly."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return min(LONGEST, timedelta(seconds=int(said[:9])))
    try:
        until = parsedate_to_datetime(said)
    except (ValueError, TypeError, OverflowError):  # the last: a number of many digits
        return timedelta()
    if until.tzinfo is None:  # written as -0000, which says UTC
        until = until.replace(tzinfo=UTC)
    # Up to the next whole second: the date has no smaller parts.
    return min(LONGEST, max(timedelta(), timedelta(seconds=math.ceil((until - now).total_seconds()))))


def no_sooner(wanted: timedelta, delays: Sequence[str], retries: int) -> timedelta:
    """What a server wants, but never less than a task's own schedule says after so many retries."""
    return max(wanted, parse_duration(delays[min(retries, len(delays) - 1)]))
