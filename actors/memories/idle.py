"""Memories that nobody has used since a moment: two stretches of an index that counts them by last use."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from actors.maintenance.database import Document
from actors.maintenance.ranges import OLDEST

Stretch = tuple[Sequence[Any], Sequence[Any]]


def idle_since(since: datetime, *prefix: Any) -> tuple[Stretch, Stretch]:
    """Of an index ``(*prefix, lastRecalledAt, createdAt)``: those never recalled count from their creation."""
    never = (*prefix, None, OLDEST), (*prefix, None, since)
    recalled = (*prefix, OLDEST), (*prefix, since)
    return never, recalled


def last_use(memory: Document) -> datetime | None:
    """None: the document does not say."""
    used = memory.get("lastRecalledAt")
    used = memory.get("createdAt") if used is None else used
    return used if isinstance(used, datetime) else None
