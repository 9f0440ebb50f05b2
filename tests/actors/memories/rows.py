"""Memories for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.base import to_instant

NOW = to_instant(datetime.now(UTC))
"""The tests' clock stands here, or a little later."""


def ago(days: float) -> datetime:
    return to_instant(NOW - timedelta(days=days))


def a_memory(key: Any, tenant: str = "ada", **fields: Any) -> dict[str, Any]:
    """Made a year ago, never recalled, and active."""
    return {
        "_id": key,
        "tenantId": tenant,
        "text": f"what {key} says",
        "tier": "hot",
        "decayScore": 1.0,
        "recallCount": 0,
        "lastRecalledAt": None,
        "lastEvaluatedAt": None,
        "createdAt": ago(365),
        "status": "active",
        "statusChangedAt": ago(365),
        "retentionExpiresAt": None,
    } | fields
