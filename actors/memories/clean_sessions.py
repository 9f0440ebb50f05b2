"""``memories.clean_sessions``: sessions whose refresh token has expired go.

Reads and deletes from ``auth_sessions``, those whose ``refreshExpiresAt`` has passed. A session that is refreshed
meanwhile stays, and so does one whose ``refreshExpiresAt`` is no date. A run that is cut short has deleted some of
them; the next one deletes the others.

Sessions are made to expire, so a large part may: the guard against a wrong clock begins at ``maxDeleteRatio`` 0.9.
"""

from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.guard import check
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.moment import moment
from actors.maintenance.params import DeletingParams
from actors.maintenance.ranges import OLDEST, keys
from actors.memories.collections import Collections
from actors.memories.indexes import EXPIRY, FIELDS, auth_sessions
from schemas.base import Duration


class CleanSessionsParams(DeletingParams):
    """Options of ``memories.clean_sessions``."""

    grace: Duration = Field(timedelta(0), description="How long an expired session is kept.")
    max_delete_ratio: float = Field(
        0.9, ge=0, le=1, description="Refuse to delete more than this part of all sessions."
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class CleanSessionsCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """All sessions, about."""
    expired: int = 0
    deleted: int = 0


@actor("memories.clean_sessions", aliases=["cleanup_expired_sessions"], max_attempts=1, timeout="30m", concurrency=1)
async def clean_auth_sessions(params: CleanSessionsParams, ctx: Context) -> dict[str, int]:
    """Delete sessions whose refresh token has expired."""
    await ensure_indexes(ctx.resources["memory"], auth_sessions(params.collections))
    sessions = ctx.resources["memory"][params.collections.auth_sessions]
    ended = await moment(ctx) - params.grace
    expired = {"refreshExpiresAt": {"$gte": OLDEST, "$lt": ended}}
    counts = CleanSessionsCounts(await sessions.estimated_document_count(), await sessions.count_documents(expired))
    check(params, deleting=counts.expired, looked_at=counts.scanned, what="sessions")
    if params.dry_run:
        return counts.result()
    async for page in keys(sessions, EXPIRY, FIELDS[EXPIRY], [OLDEST], [ended], size=params.batch_size):
        these = {"_id": {"$in": [key["_id"] for key in page]}}
        counts.deleted += (await sessions.delete_many({**these, **expired})).deleted_count
        await ctx.progress(counts.deleted, counts.expired)
    return counts.result()
