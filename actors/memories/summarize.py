"""``memories.summarize``: summaries of clusters that have none, or have outgrown theirs.

Reads ``clusters`` and the active ``memories`` of those that are due; writes ``summary``, ``summaryAt``,
``summaryHash``, ``summaryModel`` and ``summarisedCount`` of the clusters; deletes nothing. After a few clusters of a
tenant it is the next one's turn.

A cluster is due when its ``memberCount`` has reached the threshold and it has no summary, or when it has grown by half
since its last one. Normally the service asks for a summary itself when that happens; this finds what was missed. Of the
members of a due cluster a hash is taken, over their ids and texts: where it is that of the last summary, nothing has
changed but the count, and no summary is made. A large cluster is summarised from a sample, which is the same each time
and changes little as the cluster grows: the members with the smallest hashes.

A cluster that fails is tried again by the next run. What is left to do is what is due: there is no checkpoint.
"""

import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import Field

from actors import Context, actor
from actors.maintenance.breaker import Breaker
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.pages import pages
from actors.memories.collections import Collections
from actors.memories.indexes import MEMBERS, OWN, clusters, memories
from actors.memories.summariser.port import Summariser, SummariserRefused, SummariserUnavailable
from schemas.base import Model
from service.log_events import LogEvent

MEMBERS_AT_ONCE = 500
"""Members that are read in one query."""


class SummarizeParams(Model):
    """Options of ``memories.summarize``."""

    threshold: int = Field(10, ge=1, description="Members that a cluster has when it gets its first summary.")
    growth: float = Field(
        1.5, gt=1, le=1000, description="It gets a new one when it has this many times the members it had."
    )
    sample: int = Field(200, ge=1, le=5000, description="Members of a cluster that are summarised at most.")
    max_chars: int = Field(1200, ge=50, le=20_000, description="Characters of a summary at most.")
    max_member_chars: int = Field(
        4000, ge=100, le=100_000, description="Characters of a member that are looked at; what is beyond is left out."
    )
    batch_size: int = Field(5, ge=1, le=1000, description="Clusters of a tenant before it is the next one's turn.")
    max_summaries: int = Field(
        500, ge=1, description="Summaries made in one run; the next goes on. A model takes seconds for each."
    )
    max_failures_in_row: int = Field(5, ge=1, description="So many failed clusters one after the other end the run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class SummarizeCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Clusters that were due."""
    summarised: int = 0
    skipped_unchanged: int = 0
    """Their members are those of the last summary."""
    empty: int = 0
    """They have no active member with a text."""
    failed: int = 0
    overtaken: int = 0
    """Somebody else summarised them meanwhile."""


@actor("memories.summarize", aliases=["auto_summarization_job"], max_attempts=1, timeout="2h", concurrency=1)
async def summarize_clusters(params: SummarizeParams, ctx: Context) -> dict[str, int]:
    """Summarise clusters that have no summary, or have outgrown theirs."""
    run = _Run(params, ctx)
    await ensure_indexes(ctx.resources["memory"], {**clusters(params.collections), **memories(params.collections)})
    async for _, batch in in_turn(run.tenants(), run.due):
        for cluster in batch:
            if run.counts.summarised >= params.max_summaries:
                return run.counts.result()
            await run.summarize(cluster)
            await ctx.progress(run.counts.scanned)
    return run.counts.result()


@dataclass(slots=True)
class _Members:
    """What is known of a cluster's members after one pass over them."""

    hash: str
    texts: list[str]
    """Of the sample, oldest first."""


class _Run:
    def __init__(self, params: SummarizeParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        database, names = ctx.resources["memory"], params.collections
        self._clusters, self._memories = database[names.clusters], database[names.memories]
        self._summariser: Summariser = ctx.resources["summariser"]
        self._breaker = Breaker(params.max_failures_in_row, "clusters")
        self.counts = SummarizeCounts()

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._clusters)

    def due(self, tenant: str) -> AsyncIterator[list[Document]]:
        query = due_clusters(tenant, self._params)
        fields = {"tenantId": 1, "memberCount": 1, "summaryHash": 1, "begins": _text("$summary", 1)}
        return pages(self._clusters, query, size=self._params.batch_size, projection=fields, hint=OWN)

    async def summarize(self, cluster: Document) -> None:
        self.counts.scanned += 1
        try:
            await self._summarize(cluster)
        except (SummariserUnavailable, SummariserRefused) as error:
            self.counts.failed += 1
            self._ctx.log.warning(
                LogEvent.CLUSTER_FAILED, tenant=cluster["tenantId"], cluster=str(cluster["_id"]), error=str(error)
            )
            self._breaker.failed(error)
        else:
            self._breaker.worked()

    async def _summarize(self, cluster: Document) -> None:
        members = await self._members(cluster)
        if not members.texts:
            self.counts.empty += 1
            return
        if cluster["begins"] and members.hash == cluster.get("summaryHash"):
            # So that it is not due again before it has grown once more.
            await self._write(cluster, {"summarisedCount": cluster["memberCount"]})
            self.counts.skipped_unchanged += 1
            return
        summary = await self._summariser.summarise(members.texts, max_chars=self._params.max_chars)
        written = await self._write(
            cluster,
            {
                "summary": summary,
                "summaryAt": self._ctx.now(),
                "summaryHash": members.hash,
                "summaryModel": self._summariser.model,
                "summarisedCount": cluster["memberCount"],
            },
        )
        self.counts.summarised += written
        self.counts.overtaken += not written

    async def _write(self, cluster: Document, fields: Document) -> bool:
        """Unless somebody wrote another summary meanwhile: that one may know of newer members."""
        seen = {"_id": cluster["_id"], "summaryHash": cluster.get("summaryHash")}
        done = await self._clusters.update_one(seen, {"$set": fields})
        return bool(done.matched_count)

    async def _members(self, cluster: Document) -> _Members:
        fields = {"text": _text("$text", self._params.max_member_chars), "createdAt": 1}
        whole = sha256()
        # A heap of the smallest hashes: its first is the largest of those, so they are negated.
        sample: list[tuple[int, int, Document]] = []
        number = 0
        async for page in pages(
            self._memories, members_of(cluster), size=MEMBERS_AT_ONCE, projection=fields, hint=MEMBERS
        ):
            await self._ctx.checkpoint()
            for member in page:
                if not member.get("text"):
                    continue
                whole.update(_hash(member["_id"]) + _hash(member["text"]))
                number += 1
                place = (-int.from_bytes(_hash(member["_id"])[:8], "big"), number, member)
                if len(sample) < self._params.sample:
                    heapq.heappush(sample, place)
                else:
                    heapq.heappushpop(sample, place)
        ordered = sorted((str(member.get("createdAt")), place, member["text"]) for _, place, member in sample)
        return _Members(whole.hexdigest(), [text for _, _, text in ordered])


def due_clusters(tenant: str, params: SummarizeParams) -> Document:
    """The query of the clusters that a summary is due for."""
    outgrown = {"$gte": ["$memberCount", {"$multiply": [_number("$summarisedCount"), params.growth]}]}
    return {
        "tenantId": tenant,
        "memberCount": {"$gte": params.threshold},
        "$or": [{"summary": None}, {"$expr": outgrown}],
    }


def members_of(cluster: Document) -> Document:
    """The query of the memories that make up a cluster."""
    return {"tenantId": cluster["tenantId"], "clusterId": cluster["_id"], "status": "active"}


def _hash(value: object) -> bytes:
    return sha256(str(value).encode()).digest()


def _text(field: str, most: int) -> Any:
    """The beginning of a text; null where the field holds none."""
    return {"$cond": [{"$eq": [{"$type": field}, "string"]}, {"$substrCP": [field, 0, most]}, None]}


def _number(field: str) -> Any:
    """Zero where the field holds none."""
    return {"$cond": [{"$isNumber": field}, field, 0]}
