"""``memories.insights``: a snapshot of each tenant's memories, once a day.

Reads ``memories``; writes ``insights {_id: "<tenant>:<day>"}``; deletes nothing. The snapshot of the same day (UTC) is
replaced.

Exact are the counts by status, those of active memories by tier, both from the keys of an index, and the most
recalled, the first of another. ``growth`` compares the total with the snapshots of one, seven and thirty days ago, and
is null where there is none. The topics are the terms that most texts of a sample have in common: at most
``sampleSize`` active memories, in groups of neighbours at random distances, so that each tier and age has its share.
The same seed, tenant, day and data give the same sample.

A run that is cut short goes on after the last tenant that it finished.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from pydantic import Field

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.moment import moment
from actors.maintenance.ranges import BEYOND, sample
from actors.memories.collections import Collections
from actors.memories.indexes import FIELDS, RECALLED, TIERS, memories
from schemas.base import Model

GROWTH = {"day": 1, "week": 7, "month": 30}
MOST_TERMS = 50_000
"""Different terms that are counted at once; beyond it, the rarer half is let go."""
TERM = re.compile(r"[^\W\d_]{3,30}")
COMMON_WORDS = (
    "about after again all also and any are because been before being but can could did does done down each even "
    "every few for from get got had has have having her here him his how into its just like made make many may more "
    "most much must not now off once one only onto other our out over own said same she should since some such than "
    "that the their them then there these they this those through too two under until upon very was way were what "
    "when where which while who whom whose why will with within without would yes you your"
)
COMMON = frozenset(COMMON_WORDS.split())
"""English words that are nobody's topic."""


class InsightsParams(Model):
    """Options of ``memories.insights``."""

    sample_size: int = Field(1000, ge=20, le=10_000, description="Memories of a tenant that are read for its topics.")
    max_chars: int = Field(2000, ge=100, le=100_000, description="Characters of a text that are looked at.")
    topics: int = Field(20, ge=0, le=200, description="Topics that are kept.")
    most_recalled: int = Field(10, ge=0, le=200, description="Most recalled memories that are kept.")
    seed: int = Field(0, description="Another seed draws another sample.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class InsightsCounts(Counts):
    """What a run did."""

    tenants: int = 0
    """Snapshots that were written."""
    memories: int = 0
    """All memories of these tenants that are not purged."""
    sampled: int = 0


@actor("memories.insights", aliases=["generate_daily_insights_job"], max_attempts=1, timeout="2h", concurrency=1)
async def describe_tenants(params: InsightsParams, ctx: Context) -> dict[str, int]:
    """Write today's snapshot of each tenant's memories."""
    await ensure_indexes(ctx.resources["memory"], memories(params.collections))
    run = _Run(params, ctx, await moment(ctx))
    async for tenant in run.tenants():
        await run.describe(tenant)
        await run.save(tenant)
    return run.counts.result()


class _Run:
    def __init__(self, params: InsightsParams, ctx: Context, now: datetime) -> None:
        self._params, self._ctx, self._now = params, ctx, now
        database, names = ctx.resources["memory"], params.collections
        self._memories, self._insights = database[names.memories], database[names.insights]
        self.counts = InsightsCounts()

    def tenants(self) -> AsyncIterator[str]:
        kept = self._ctx.task.checkpoint
        resumed = isinstance(kept, dict) and kept.get("at") == self._now.isoformat()
        return tenants(self._memories, after=kept.get("after") if resumed else None)

    async def save(self, tenant: str) -> None:
        await self._ctx.save({"at": self._now.isoformat(), "after": tenant})
        await self._ctx.progress(self.counts.tenants)

    async def describe(self, tenant: str) -> None:
        statuses, tiers = await self._count(tenant)
        total = sum(statuses.values()) - statuses.get("purged", 0)
        topics, sampled = await self._topics(tenant, statuses.get("active", 0))
        snapshot = {
            "tenantId": tenant,
            "day": self._day(0),
            "at": self._now,
            "memories": total,
            "statuses": statuses,
            "tiers": tiers,
            "growth": await self._growth(tenant, total),
            "mostRecalled": await self._most_recalled(tenant),
            "topics": topics,
            "sampled": sampled,
        }
        await self._insights.replace_one({"_id": self._id(tenant, 0)}, snapshot, upsert=True)
        self.counts.tenants += 1
        self.counts.memories += total
        self.counts.sampled += sampled

    def _day(self, ago: int) -> str:
        return (self._now - timedelta(days=ago)).date().isoformat()

    def _id(self, tenant: str, ago: int) -> str:
        return f"{tenant}:{self._day(ago)}"

    async def _count(self, tenant: str) -> tuple[Document, Document]:
        """By status; active ones by tier."""
        each = {"status": "$status", "tier": "$tier"}
        counted = self._memories.aggregate(
            [{"$match": {"tenantId": tenant}}, {"$group": {"_id": each, "memories": {"$sum": 1}}}], hint=TIERS
        )
        statuses: Counter[str] = Counter()
        tiers: Counter[str] = Counter()
        async for group in counted:
            status, tier = (str(group["_id"].get(name) or "none") for name in ("status", "tier"))
            statuses[status] += group["memories"]
            if status == "active":
                tiers[tier] += group["memories"]
        return dict(sorted(statuses.items())), dict(sorted(tiers.items()))

    async def _growth(self, tenant: str, total: int) -> Document:
        ids = {span: self._id(tenant, days) for span, days in GROWTH.items()}
        found = self._insights.find({"_id": {"$in": list(ids.values())}}, {"memories": 1})
        before = {each["_id"]: each["memories"] async for each in found}
        return {span: total - before[key] if key in before else None for span, key in ids.items()}

    async def _most_recalled(self, tenant: str) -> list[Document]:
        if not self._params.most_recalled:
            return []
        query = {"tenantId": tenant, "status": "active", "recallCount": {"$gt": 0}}
        order = [("recallCount", -1)]
        most = self._params.most_recalled
        found = self._memories.find(query, {"recallCount": 1}, sort=order, limit=most, hint=RECALLED)
        return [{"memoryId": each["_id"], "recallCount": each["recallCount"]} async for each in found]

    async def _topics(self, tenant: str, active: int) -> tuple[list[Document], int]:
        """And of how many texts."""
        terms: Counter[str] = Counter()
        sampled = 0
        random = Random(f"{self._params.seed}:{self._id(tenant, 0)}")
        stretch = (tenant, "active"), (tenant, "active", BEYOND)
        size = self._params.sample_size
        async for page in sample(
            self._memories, TIERS, FIELDS[TIERS], *stretch, total=active, size=size, random=random
        ):
            for text in await self._texts([key["_id"] for key in page]):
                sampled += 1
                terms.update(_terms(text))
            if len(terms) > MOST_TERMS:
                terms = Counter(dict(terms.most_common(MOST_TERMS // 2)))
            await self._ctx.checkpoint()
        shared = sorted(((-number, term) for term, number in terms.items() if number > 1))[: self._params.topics]
        return [{"term": term, "memories": -number} for number, term in shared], sampled

    async def _texts(self, ids: list[object]) -> list[str]:
        beginning = {"$substrCP": ["$text", 0, self._params.max_chars]}
        found = self._memories.find({"_id": {"$in": ids}, "text": {"$type": "string"}}, {"beginning": beginning})
        return [each["beginning"] async for each in found]


def _terms(text: str) -> Iterable[str]:
    """Each once."""
    return set(TERM.findall(text.lower())) - COMMON
