"""``graph.cache_cleanup``: stale entries of the database's cache, and of each worker's in-memory caches.

Deletes from ``cache``: entries that have expired, then, while there are more than ``maxEntries``, those that were not
accessed for the longest time. An entry that was refreshed or accessed meanwhile stays. Then every worker is told that
its in-memory caches let go of what is stale: by a control message, which may be lost; the next run sends another.

What is in a cache can be made again, so there is no limit to the part that may be deleted, unless one is given.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import Field
from pymongo import DeleteOne

from actors import Context, actor
from actors.graph.collections import Collections
from actors.graph.indexes import ACCESS, EXPIRY, FIELDS, cache
from actors.maintenance import guard
from actors.maintenance.counts import Counts
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.params import DeletingParams
from actors.maintenance.ranges import BEYOND, OLDEST, keys

MILLISECOND = timedelta(milliseconds=1)


class CacheCleanupParams(DeletingParams):
    """Options of ``graph.cache_cleanup``."""

    max_entries: int = Field(100_000, ge=0, description="Entries that may stay; those accessed last do.")
    max_delete_ratio: float = Field(1, ge=0, le=1, description="Refuse to delete more than this part of all entries.")
    cache: str | None = Field(
        None, min_length=1, max_length=100, description="The workers' in-memory cache that is told; null: each."
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class CacheCounts(Counts):
    """What a run did; in a dry run, what it would do."""

    scanned: int = 0
    """Entries that there were."""
    expired: int = 0
    """Deleted, for their time was up."""
    evicted: int = 0
    """Deleted, for there were too many."""


@actor("graph.cache_cleanup", aliases=["CacheCleanupTask"], max_attempts=1, timeout="30m", concurrency=1)
async def clean_cache(params: CacheCleanupParams, ctx: Context) -> dict[str, int]:
    """Delete stale entries of the cache, and tell the workers to let go of theirs."""
    await ensure_indexes(ctx.resources["memory"], cache(params.collections))
    run = _Run(params, ctx)
    expired, excess = await run.look()
    guard.check(params, deleting=expired + excess, looked_at=run.counts.scanned, what="cache entries")
    if params.dry_run:
        run.counts.expired, run.counts.evicted = expired, excess
        return run.counts.result()
    await run.expire()
    await run.evict(excess)
    await ctx.evict_caches(params.cache)
    return run.counts.result()


class _Run:
    def __init__(self, params: CacheCleanupParams, ctx: Context) -> None:
        self._params, self._ctx, self._now = params, ctx, ctx.now()
        self._cache = ctx.resources["memory"][params.collections.cache]
        self.counts = CacheCounts()

    async def look(self) -> tuple[int, int]:
        """How many have expired, and how many are too many beside them."""
        self.counts.scanned = total = await self._cache.count_documents({}, hint=ACCESS)
        expired = await self._cache.count_documents({"expiresAt": {"$lte": self._now}}, hint=EXPIRY)
        return expired, max(0, total - expired - self._params.max_entries)

    async def expire(self) -> None:
        beyond = (self._now + MILLISECOND,)
        async for page in keys(self._cache, EXPIRY, FIELDS[EXPIRY], (OLDEST,), beyond, size=self._params.batch_size):
            still = {"_id": {"$in": [key["_id"] for key in page]}, "expiresAt": {"$lte": self._now}}
            self.counts.expired += (await self._cache.delete_many(still)).deleted_count
            await self._ctx.checkpoint()

    async def evict(self, excess: int) -> None:
        async for page in keys(self._cache, ACCESS, FIELDS[ACCESS], (), (BEYOND,), size=self._params.batch_size):
            if excess <= 0:
                return
            # Only as it was last accessed then: null is what says nothing of it.
            oldest: list[Any] = [
                DeleteOne({"_id": key["_id"], "lastAccessAt": key["lastAccessAt"]}) for key in page[:excess]
            ]
            excess -= len(oldest)
            self.counts.evicted += (await self._cache.bulk_write(oldest, ordered=False)).deleted_count
            await self._ctx.checkpoint()
