"""``graph.stale_jobs``: jobs that are stuck in ``processing``.

Reads and writes ``jobs``; deletes nothing. A job that has been in ``processing`` for longer than its kind may be gets
``status: failed``, the reason in ``error``, ``failedAt`` and ``retryable: true``. That it is eligible for retry means:
whoever runs jobs of that kind may take it again, as it takes one that is ``pending``; ``attempts`` is as it was. It is
changed only if it is still in ``processing``, and since the same ``startedAt``: a job that has just ended, or begun
anew, is left alone.

A kind that the table does not name is left alone. So is a job without ``startedAt``: nobody can tell how long it takes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import Field
from pymongo import UpdateOne

from actors import Context, actor
from actors.graph.collections import Collections
from actors.graph.indexes import FIELDS, STATUS, jobs
from actors.graph.writes import write
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.params import BatchParams
from actors.maintenance.ranges import OLDEST, keys
from schemas.base import Duration
from schemas.duration import format_duration

PROCESSING = "processing"
LIMITS = {
    "document_parsing": timedelta(minutes=30),
    "object_extraction": timedelta(minutes=60),
    "chunk_embedding": timedelta(minutes=15),
    "graph_embedding": timedelta(minutes=15),
    "datasource_sync": timedelta(minutes=60),
}


class StaleJobsParams(BatchParams):
    """Options of ``graph.stale_jobs``."""

    limits: dict[str, Duration] = Field(LIMITS, description="How long a job of each kind may be in `processing`.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class StaleJobsCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Jobs past the limit of their kind."""
    expired: int = 0
    """Failed by this run."""
    raced: int = 0
    """Jobs that ended, or began anew, at the same moment."""
    failed: int = 0
    """Jobs that the database refused to change."""


@actor("graph.stale_jobs", aliases=["StaleJobCleanupTask"], max_attempts=1, timeout="30m", concurrency=1)
async def fail_stale_jobs(params: StaleJobsParams, ctx: Context) -> dict[str, int]:
    """Fail jobs that are stuck in processing."""
    memory, counts, now = ctx.resources["memory"], StaleJobsCounts(), ctx.now()
    collection = memory[params.collections.jobs]
    await ensure_indexes(memory, jobs(params.collections))
    for kind, limit in params.limits.items():
        first, beyond = (PROCESSING, kind, OLDEST), (PROCESSING, kind, now - limit)
        async for page in keys(collection, STATUS, FIELDS[STATUS], first, beyond, size=params.batch_size):
            expired, failed = await write(collection, [_fail(job, limit, now) for job in page], ctx)
            counts.scanned += len(page)
            counts.expired += expired
            counts.failed += failed
            counts.raced += len(page) - expired - failed
            await ctx.progress(counts.scanned)
    return counts.result()


def _fail(job: Document, limit: timedelta, now: datetime) -> UpdateOne:
    spent = format_duration(now - job["startedAt"])
    reason = f"stuck in {PROCESSING} for {spent}, longer than the {format_duration(limit)} that {job['kind']} may take"
    still = {"_id": job["_id"], "status": PROCESSING, "startedAt": job["startedAt"]}
    return UpdateOne(still, {"$set": {"status": "failed", "error": reason, "failedAt": now, "retryable": True}})
