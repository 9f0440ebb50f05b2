"""One line of the audit: who did what to what."""

import json
from datetime import datetime
from secrets import token_hex
from typing import Any

from schemas.access import AuditEntry
from service.logs import hide_and_bound
from service.payload import safe_text

MOST_TARGET = 1000
MOST_CHARACTERS = 16_384
"""Of ``before`` and of ``after``, as JSON: an entry is a line to read, not a backup."""


def audit_entry(at: datetime, who: str, action: str, target: str, before: Any, after: Any) -> AuditEntry:
    """What is kept: secrets and bodies hidden as in the log, values bounded, text that any store takes.

    Ids sort as time does: the audit needs no other index.
    """
    shown = hide_and_bound(None, "", {"before": before, "after": after})
    return AuditEntry(
        id=f"{int(at.timestamp() * 1000):012x}-{token_hex(6)}",
        at=at,
        who=who,
        action=action,
        target=safe_text(target[:MOST_TARGET]),
        before=_bounded(shown["before"]),
        after=_bounded(shown["after"]),
    )


def _bounded(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=True)
    if len(text) > MOST_CHARACTERS:
        return f"{text[:MOST_CHARACTERS]}…"
    return _storable(value)


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {safe_text(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return str(value)
    return value
