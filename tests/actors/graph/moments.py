"""Times in the past, as MongoDB keeps them."""

from datetime import UTC, datetime

from schemas.base import to_instant
from schemas.duration import parse_duration


def ago(span: str) -> datetime:
    """``1h``; ``-1h`` is to come."""
    distance = parse_duration(span.removeprefix("-"))
    return to_instant(datetime.now(UTC) + (distance if span.startswith("-") else -distance))
