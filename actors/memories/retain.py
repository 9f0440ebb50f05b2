"""``memories.retain``: memories whose time is up go, step by step.

Reads and writes ``memories``: ``status`` and ``statusChangedAt``, and in the end all of the document; writes
``audit_log``; deletes vectors, and summaries of ``clusters``. Tenants have their turn after a batch each.

    active → archived → soft_deleted → hard_delete_pending → purged

A memory whose ``retentionExpiresAt`` has passed takes one step a run, each after its own time in the status before it;
none is skipped. It goes on only while its retention is over: where that was extended, or removed, it stays what it is.
A memory on legal hold, ``holdUntil`` in the future, takes no step, and neither does one whose ``holdUntil`` is no
date: whoever wrote it meant something. One whose ``statusChangedAt`` is no date gets the moment of the run: its time
begins.

A purge deletes the memory's vectors, and the summary of its cluster, which may quote it and is made anew by
``memories.summarize``, from active members only; then all of the document but ids, dates and status; then writes a row
into ``audit_log``, whose id is made from the memory's; then the status ``purged``. What remains is a tombstone without
text. A run that is killed between any two of these is mended by the next one, and the memory is audited once. A hold
that comes while the vectors go saves the text, and ``embeddingUpdatedAt`` becomes null, so that it is embedded again.
Copies in backups have a retention of their own.

The guard against a bad filter counts what would be purged against all memories that are not. While the vector store
cannot be reached nothing is purged; the other steps are taken, and the run fails in the end.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field
from pymongo.errors import BulkWriteError

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.guard import check
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.moment import moment
from actors.maintenance.params import DeletingParams
from actors.maintenance.ranges import OLDEST, keys
from actors.maintenance.vector_store.port import VectorStore, VectorStoreUnavailable
from actors.memories.collections import Collections
from actors.memories.indexes import FIELDS, RETENTION, memories
from actors.memories.updates import Updates
from schemas.base import Duration

DUPLICATE_KEY = 11000
PENDING, PURGED = "hard_delete_pending", "purged"
KEPT = ("tenantId", "status", "statusChangedAt", "createdAt", "retentionExpiresAt", "holdUntil")
"""Fields of a tombstone, beside ``_id`` and ``purgedAt``."""


class RetainParams(DeletingParams):
    """Options of ``memories.retain``."""

    batch_size: int = Field(1000, ge=1, le=10_000, description="Memories of a tenant that take a step at once.")
    archive_after: Duration = Field(timedelta(0), description="From the end of the retention to archived.")
    soft_delete_after: Duration = Field(timedelta(days=30), description="From archived to soft_deleted.")
    hard_delete_after: Duration = Field(timedelta(days=30), description="From soft_deleted to hard_delete_pending.")
    purge_after: Duration = Field(timedelta(days=7), description="From hard_delete_pending to purged.")
    vector_table: str = Field("memories", min_length=1, description="Table of the memories' vectors.")
    max_delete_ratio: float = Field(0.5, ge=0, le=1, description="Refuse to purge more than this part of all memories.")
    max_failures_in_row: int = Field(20, ge=1, description="So many refused memories one after the other end the run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class RetainCounts(Counts):
    """What a run did; after a dry run, what it would do."""

    scanned: int = 0
    """Memories whose next step is due, those on hold among them."""
    archived: int = 0
    soft_deleted: int = 0
    hard_delete_pending: int = 0
    purged: int = 0
    vectors: int = 0
    """Vectors of purged memories."""
    held: int = 0
    """On legal hold, or changed by somebody else meanwhile."""
    dated: int = 0
    """Their ``statusChangedAt`` was no date."""
    failed: int = 0
    """Refused by the database."""


@actor("memories.retain", aliases=["retention_enforcement_job"], max_attempts=1, timeout="2h", concurrency=1)
async def retain_memories(params: RetainParams, ctx: Context) -> dict[str, int]:
    """Move memories whose retention is over one step on; purge those that took all steps."""
    await ensure_indexes(ctx.resources["memory"], memories(params.collections))
    run = _Run(params, ctx, await moment(ctx))
    await run.look()
    if params.dry_run:
        return run.counts.result()
    async for tenant, due in in_turn(run.tenants(), run.due):
        for step, page in due:
            await run.take(tenant, step, page)
        await ctx.progress(run.counts.scanned)
    run.raise_problem()
    return run.counts.result()


@dataclass(frozen=True, slots=True)
class _Step:
    source: str
    target: str
    after: timedelta


class _Run:
    def __init__(self, params: RetainParams, ctx: Context, now: datetime) -> None:
        self._params, self._ctx, self._now = params, ctx, now
        database, names = ctx.resources["memory"], params.collections
        self._memories, self._audit_log = database[names.memories], database[names.audit_log]
        self._clusters = database[names.clusters]
        self._vectors: VectorStore = ctx.resources["vector_store"]
        self._updates = Updates(self._memories, ctx, params.max_failures_in_row)
        self._problem: VectorStoreUnavailable | None = None
        self.counts = RetainCounts()
        # The last step first: what takes one is not met again by the next.
        self._steps = (
            _Step(PENDING, PURGED, params.purge_after),
            _Step("soft_deleted", PENDING, params.hard_delete_after),
            _Step("archived", "soft_deleted", params.soft_delete_after),
            _Step("active", "archived", params.archive_after),
        )

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._memories)

    def raise_problem(self) -> None:
        """Raises VectorStoreUnavailable if that kept memories from being purged."""
        if self._problem is not None:
            raise self._problem

    # ---- what is due ---------------------------------------------------------------------------------

    def _expired(self, step: _Step) -> datetime:
        """The retention of those that are due ended before."""
        return self._now - step.after if step.source == "active" else self._now

    def _ripe(self, step: _Step, key: Document) -> bool:
        """Whether its time in the step's first status is over, or was never written down."""
        since = key["statusChangedAt"]
        # Not at the moment itself: a run that goes on as of its moment takes no second step at once.
        return step.source == "active" or not isinstance(since, datetime) or since < self._now - step.after

    def _may(self, step: _Step) -> Document:
        """The condition that a memory may take the step."""
        free = {"$or": [{"holdUntil": None}, {"holdUntil": {"$lte": self._now}}]}
        conditions: list[Document] = [free, {"holdUntil": {"$not": {"$type": "array"}}}]
        if step.source != "active":
            conditions.append({"statusChangedAt": {"$lt": self._now - step.after}})
        expired = {"$gte": OLDEST, "$lt": self._expired(step)}
        return {"status": step.source, "retentionExpiresAt": expired, "$and": conditions}

    async def look(self) -> None:
        """Count what would be purged, before anything changes; everything, for a dry run."""
        counts, living, purging = self.counts, 0, 0
        statuses = [step.source for step in self._steps]
        async for tenant in self.tenants():
            living += await self._memories.count_documents({"tenantId": tenant, "status": {"$in": statuses}})
            for step in self._steps if self._params.dry_run else self._steps[:1]:
                found = await self._memories.count_documents({"tenantId": tenant, **self._may(step)}, hint=RETENTION)
                purging += found if step.target == PURGED else 0
                if self._params.dry_run:
                    counts.scanned += found
                    self._count(step, found)
            await self._ctx.checkpoint()
        check(self._params, deleting=purging, looked_at=living, what="memories")

    async def due(self, tenant: str) -> AsyncIterator[list[tuple[_Step, list[Document]]]]:
        for step in self._steps:
            stretch = (tenant, step.source, OLDEST), (tenant, step.source, self._expired(step))
            size = self._params.batch_size
            # The keys tell who waits, without a look at their documents.
            async for page in keys(self._memories, RETENTION, FIELDS[RETENTION], *stretch, size=size):
                if step.target == PURGED and self._problem is not None:
                    break
                yield [(step, [key for key in page if self._ripe(step, key)])]

    # ---- a step --------------------------------------------------------------------------------------

    async def take(self, tenant: str, step: _Step, page: Sequence[Document]) -> None:
        ids = await self._dated(tenant, step, page)
        if not ids:
            return
        if step.target == PURGED:
            await self._purge(tenant, step, ids)
            return
        counts, failed = self.counts, self._updates.failed
        change = {"$set": {"status": step.target, "statusChangedAt": self._now}}
        taken = await self._updates.update(tenant, ids, self._may(step), change)
        self._count(step, taken)
        counts.scanned += len(ids)
        counts.failed = self._updates.failed
        counts.held += len(ids) - taken - (counts.failed - failed)

    async def _dated(self, tenant: str, step: _Step, page: Sequence[Document]) -> list[Any]:
        """The ids of those that say since when they are what they are; the others do so from now on."""
        if step.source == "active":
            return [key["_id"] for key in page]
        undated = [key["_id"] for key in page if not isinstance(key["statusChangedAt"], datetime)]
        if undated:
            no_date = {"status": step.source, "statusChangedAt": {"$not": {"$type": "date"}}}
            begin = {"$set": {"statusChangedAt": self._now}}
            self.counts.dated += await self._updates.update(tenant, undated, no_date, begin)
        return [key["_id"] for key in page if isinstance(key["statusChangedAt"], datetime)]

    def _count(self, step: _Step, number: int) -> None:
        setattr(self.counts, step.target, getattr(self.counts, step.target) + number)

    async def _purge(self, tenant: str, step: _Step, ids: Sequence[Any]) -> None:
        """Vectors, summary, text, audit row, tombstone: in this order, so that the next run mends what a crash left."""
        may = self._may(step)
        found = self._memories.find({**may, "_id": {"$in": list(ids)}}, {"clusterId": 1}, batch_size=len(ids))
        clusters = {each["_id"]: each.get("clusterId") async for each in found}
        free = list(clusters)
        if not free:
            self.counts.scanned += len(ids)
            self.counts.held += len(ids)
            return
        try:
            vectors = await self._vectors.delete(self._params.vector_table, owners=[str(key) for key in free])
        except VectorStoreUnavailable as error:
            self._problem = error
            return
        await self._drop_summaries(tenant, {cluster for cluster in clusters.values() if cluster is not None})
        bare: Document = {name: f"${name}" for name in ("_id", *KEPT)}
        bare["purgedAt"] = {"$ifNull": ["$purgedAt", self._now]}
        failed = self._updates.failed
        await self._updates.update(tenant, free, may, [{"$replaceWith": bare}])

        emptied = {"_id": {"$in": free}, "status": PENDING, "text": {"$exists": False}, "purgedAt": {"$type": "date"}}
        gone = await self._memories.find(emptied, batch_size=len(free)).to_list(len(free))
        await self._audit(gone)
        buried = {"_id": {"$in": [each["_id"] for each in gone]}, "status": PENDING}
        tombstone = {"$set": {"status": PURGED, "statusChangedAt": self._now}}
        purged = (await self._memories.update_many(buried, tombstone)).modified_count

        counts = self.counts
        counts.scanned += len(ids)
        counts.vectors += vectors
        counts.failed = self._updates.failed
        counts.held += len(ids) - purged - (counts.failed - failed)
        self._count(step, purged)
        if len(gone) < len(free):
            saved = {"_id": {"$in": free}, "text": {"$exists": True}}
            await self._memories.update_many(saved, {"$set": {"embeddingUpdatedAt": None}})

    async def _drop_summaries(self, tenant: str, clusters: Collection[Any]) -> None:
        """Before the texts go: a run that is killed in between drops them again."""
        if clusters:
            gone = dict.fromkeys(("summary", "summaryHash", "summaryAt"), "")
            which = {"tenantId": tenant, "_id": {"$in": list(clusters)}, "summary": {"$exists": True}}
            await self._clusters.update_many(which, {"$unset": gone})

    async def _audit(self, gone: Sequence[Document]) -> None:
        """A row for each, dated when it is written: one in the past might lie behind a SIEM's cursor already."""
        if not gone:
            return
        try:
            await self._audit_log.insert_many([_audit_row(each, self._ctx.now()) for each in gone], ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            others = [each for each in details.get("writeErrors", ()) if each["code"] != DUPLICATE_KEY]
            if others or details.get("writeConcernErrors"):
                raise


def audit_id(memory_id: object) -> str:
    """The same for the same memory: it is audited once."""
    return f"memory.purged:{memory_id}"


def _audit_row(memory: Document, now: datetime) -> Document:
    return {
        "_id": audit_id(memory["_id"]),
        "tenantId": memory["tenantId"],
        "at": now,
        "actor": "memories.retain",
        "action": "memory.purged",
        "target": str(memory["_id"]),
        "detail": {name: memory.get(name) for name in ("createdAt", "retentionExpiresAt", "purgedAt")},
    }
