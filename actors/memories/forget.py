"""``memories.forget``: what nobody recalls fades.

Reads and writes active ``memories``: ``decayScore`` and ``lastEvaluatedAt``; deletes nothing. Tenants have their turn
after a batch each.

A memory fades when its last recall, or its creation if there was none, lies further back than the window: ``decayScore
*= 0.5 ** (elapsed / halfLife)``. ``elapsed`` is counted from the end of the window, or from ``lastEvaluatedAt`` if
that is later, and ends at the moment of the run, which becomes ``lastEvaluatedAt``. Powers add up: however often it
runs, and however late, the score is on one curve, ``score at the end of the window * 0.5 ** (time since / halfLife)``.
A recall stops it, and forgives what no run has counted by then. When the clock is set back, what has faded waits until
time has caught up.

Below ``floor`` the score becomes 0. What has faded to 0 has left the index that serves this job: it costs nothing any
more. A memory without ``createdAt`` does not fade. A run that is cut short goes on as of the same moment, and passes
over what it has done.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.moment import moment
from actors.maintenance.params import BatchParams
from actors.maintenance.ranges import OLDEST, keys
from actors.memories.collections import Collections
from actors.memories.indexes import FADING, FIELDS, memories
from actors.memories.updates import Updates
from schemas.base import Duration

MILLISECOND = timedelta(milliseconds=1)


class ForgetParams(BatchParams):
    """Options of ``memories.forget``."""

    batch_size: int = Field(2000, ge=1, le=10_000, description="Memories of a tenant that are updated at once.")
    window: Duration = Field(timedelta(days=30), description="Without a recall for this long, a memory fades.")
    half_life: Duration = Field(
        timedelta(days=30), ge=MILLISECOND, description="In this time a fading memory loses half its score."
    )
    floor: float = Field(0.001, ge=0, lt=1, description="A score below it becomes 0, and is not looked at again.")
    max_failures_in_row: int = Field(20, ge=1, description="So many refused memories one after the other end the run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class ForgetCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Memories that fade and were not evaluated as of this moment."""
    decayed: int = 0
    forgotten: int = 0
    """Of those: the ones whose score became 0."""
    failed: int = 0
    """Refused by the database, such as a score that is no number."""


@actor("memories.forget", aliases=["apply_forgetting_policies_job"], max_attempts=1, timeout="30m", concurrency=1)
async def forget_memories(params: ForgetParams, ctx: Context) -> dict[str, int]:
    """Let memories fade that nobody recalls."""
    await ensure_indexes(ctx.resources["memory"], memories(params.collections))
    run = _Run(params, ctx, await moment(ctx))
    async for tenant, page in in_turn(run.tenants(), run.fading):
        await run.decay(tenant, [key["_id"] for key in page])
        await ctx.progress(run.counts.scanned)
    return run.counts.result()


class _Run:
    def __init__(self, params: ForgetParams, ctx: Context, now: datetime) -> None:
        self._params = params
        self._memories = ctx.resources["memory"][params.collections.memories]
        self._updates = Updates(self._memories, ctx, params.max_failures_in_row)
        self._end = now - params.window
        self._due = {
            "status": "active",
            "decayScore": {"$gt": 0},
            "lastRecalledAt": {"$not": {"$gte": self._end}},
            "lastEvaluatedAt": {"$not": {"$gte": now}},
        }
        self._decay = _decay(now, params)
        self.counts = ForgetCounts()

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._memories)

    def fading(self, tenant: str) -> AsyncIterator[list[Document]]:
        """Oldest first, which is about the order in which they are stored: neighbours are written together."""
        stretch = (tenant, "active", OLDEST), (tenant, "active", self._end)
        size = self._params.batch_size
        return keys(self._memories, FADING, FIELDS[FADING], *stretch, size=size, query=self._due)

    async def decay(self, tenant: str, ids: Sequence[Any]) -> None:
        counts = self.counts
        counts.scanned += len(ids)
        counts.decayed += await self._updates.update(tenant, ids, self._due, self._decay)
        counts.failed = self._updates.failed
        faint = {"_id": {"$in": list(ids)}, "decayScore": {"$gt": 0, "$lt": self._params.floor}}
        counts.forgotten += (await self._memories.update_many(faint, {"$set": {"decayScore": 0.0}})).modified_count


def _decay(now: datetime, params: ForgetParams) -> list[Document]:
    """As a pipeline: the server reckons with what the document says when it is written."""
    used = {"$ifNull": ["$lastRecalledAt", "$createdAt"]}
    since = {"$max": [{"$add": [used, params.window / MILLISECOND]}, "$lastEvaluatedAt"]}
    half_lives = {"$divide": [{"$subtract": [now, since]}, params.half_life / MILLISECOND]}
    faded = {"$multiply": ["$decayScore", {"$pow": [0.5, half_lives]}]}
    return [{"$set": {"decayScore": faded, "lastEvaluatedAt": now}}]
