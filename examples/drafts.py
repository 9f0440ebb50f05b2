"""``drafts.expire``: drafts that nobody touched.

Deletes from ``drafts``: those whose last change lies further back than ``after``. A draft that was changed meanwhile
stays. A second run right after the first finds nothing to do.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field
from pymongo import IndexModel

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document, memory
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.guard import check
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.pages import pages
from actors.maintenance.params import CollectionName, DeletingParams
from schemas.base import Duration


class ExpireParams(DeletingParams):
    """Options of ``drafts.expire``."""

    after: Duration = Field(timedelta(days=90), description="A draft expires so long after its last change.")
    drafts: CollectionName = Field("drafts", description="Name of the collection.")


@dataclass(slots=True)
class ExpireCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Drafts that are old enough."""
    deleted: int = 0
    """Without those that were changed meanwhile."""


@actor("drafts.expire", max_attempts=1, timeout="30m", concurrency=1)
async def expire_drafts(params: ExpireParams, ctx: Context) -> dict[str, int]:
    """Delete drafts that nobody touched."""
    drafts = ctx.resources["memory"][params.drafts]
    by_tenant = IndexModel([("tenantId", 1), ("changedAt", 1)], name="tenant")
    by_age = IndexModel([("changedAt", 1)], name="changed")
    await ensure_indexes(ctx.resources["memory"], {params.drafts: [by_tenant, by_age]})

    counts = ExpireCounts()
    old: Document = {"changedAt": {"$lt": ctx.now() - params.after}}
    expired = await drafts.count_documents(old)
    if params.dry_run:
        counts.scanned = expired
        return counts.result()
    check(params, deleting=expired, looked_at=await drafts.estimated_document_count(), what="drafts")

    def of(tenant: str) -> AsyncIterator[Sequence[Document]]:
        return pages(drafts, {"tenantId": tenant, **old}, size=params.batch_size, projection={"_id": 1})

    async for _, page in in_turn(tenants(drafts, old), of):
        # The condition once more: a draft may have been changed since it was read.
        gone = await drafts.delete_many({"_id": {"$in": [draft["_id"] for draft in page]}, **old})
        counts.scanned += len(page)
        counts.deleted += gone.deleted_count
        await ctx.progress(counts.scanned, expired)
    return counts.result()


__all__ = ["expire_drafts", "memory"]
