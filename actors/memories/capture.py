"""``memories.capture``: candidates of the capture queue become memories, each exactly once.

Reads ``capture_queue`` where ``status`` is ``pending``, tenant by tenant in turn, each tenant's in the order of
``createdAt`` and ``_id``. Writes ``memories``, and ``status``, ``reason``, ``memoryId`` and ``decidedAt`` of the
candidates, and raises ``memberCount`` of ``clusters`` to what there is. Deletes ``candidate`` of those that became
memories or are duplicates of one: the text is in the memory, and goes with it.

A ``candidate`` is ``{text, clusterId, retentionExpiresAt, metadata}``; only the text is needed. A valid one is inserted
into ``memories`` and then becomes ``promoted``; the others become ``rejected`` with the reason, such as ``duplicate of
m-…``: the tenant has a memory with this text, apart from white space.

The memory's id is made from the candidate's, and the insert changes nothing where that id exists. So a run that was
killed between the two steps, or two runs at once, make one memory. Which of two equal texts is first is decided by a
unique index on ``tenantId`` and ``contentHash``. What is left to do is what is ``pending``: there is no checkpoint.
"""

import unicodedata
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from pydantic import Field, ValidationError
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.params import BatchParams
from actors.memories.collections import Collections
from actors.memories.ids import digest
from actors.memories.indexes import MEMBERS, capture_queue, memories, texts
from schemas.base import Instant, Model
from service.log_events import LogEvent

PENDING = {"status": "pending"}
NO_TENANT = {"tenantId": {"$not": {"$gt": ""}}}
"""Its tenant is no text, or an empty one: it has no turn."""
FORGET = {"$unset": {"candidate": ""}}
"""The text is in a memory."""
DUPLICATE_KEY = 11000
FAILED_VALIDATION = 121
ONE_RECORDS_TROUBLE = frozenset({DUPLICATE_KEY, FAILED_VALIDATION})
"""Errors of a write that say nothing about the next one."""


class CaptureParams(BatchParams):
    """Options of ``memories.capture``."""

    max_chars: int = Field(16_000, ge=1, le=1_000_000, description="A longer text is rejected.")
    max_bytes: int = Field(65_536, ge=1024, le=4_194_304, description="A larger candidate (BSON) is rejected.")
    max_logged: int = Field(10, ge=0, description="Rejected candidates that are logged one by one in a run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


class Candidate(Model):
    """What a candidate must be."""

    text: str
    cluster_id: str | None = Field(None, min_length=1, max_length=200)
    retention_expires_at: Instant | None = None
    metadata: dict[str, Any] = {}


@dataclass(slots=True)
class CaptureCounts(Counts):
    """What a run did."""

    scanned: int = 0
    promoted: int = 0
    rejected: int = 0
    """All rejected ones, with the duplicates."""
    duplicates: int = 0
    finished: int = 0
    """Promoted ones whose memory was there already: an earlier run was cut short, or another one was first."""
    overtaken: int = 0
    """Another run settled them first."""


@actor("memories.capture", aliases=["process_capture_queue_job"], max_attempts=1, timeout="30m", concurrency=1)
async def capture_candidates(params: CaptureParams, ctx: Context) -> dict[str, int]:
    """Promote the candidates of the capture queue into memories, or reject them."""
    run = _Run(params, ctx)
    for indexes in (memories, texts, capture_queue):
        await ensure_indexes(ctx.resources["memory"], indexes(params.collections))
    async for page in run.pages(NO_TENANT):
        await run.settle([], [(row, "tenantId is not a text") for row in page])
        await ctx.checkpoint()
    async for _, batch in in_turn(run.tenants(), lambda tenant: run.pages({"tenantId": tenant})):
        await run.promote(batch)
        await ctx.progress(run.counts.scanned)
    return run.counts.result()


class _Run:
    def __init__(self, params: CaptureParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        database, names = ctx.resources["memory"], params.collections
        self._queue, self._memories = database[names.capture_queue], database[names.memories]
        self._clusters = database[names.clusters]
        self.counts = CaptureCounts()

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._queue, PENDING)

    async def pages(self, whose: Document) -> AsyncIterator[list[Document]]:
        """From the head each time: what was settled has left the query, and what came late is in its place."""
        size = self._params.batch_size
        order = [("tenantId", 1), ("createdAt", 1), ("_id", 1)]
        while True:
            # The size is looked at by the server: what is too large never gets here.
            fits = {"$lte": [{"$bsonSize": "$$ROOT"}, self._params.max_bytes]}
            found = self._queue.find(
                {**PENDING, **whose},
                {"tenantId": 1, "source": 1, "fits": fits, "candidate": {"$cond": [fits, "$candidate", "$$REMOVE"]}},
                sort=order,
                limit=size,
            )
            page: list[Document] = await found.to_list(size)
            if page:
                self.counts.scanned += len(page)
                yield page
            if len(page) < size:
                return

    async def promote(self, page: Sequence[Document]) -> None:
        now = self._ctx.now()
        valid: dict[str, tuple[Document, Document]] = {}
        rejected: list[tuple[Document, str]] = []
        for row in page:
            try:
                memory = _memory(row, now, self._params)
            except ValueError as error:
                rejected.append((row, str(error)))
            else:
                valid[memory["_id"]] = (row, memory)
        refused, duplicates = await self._insert([memory for _, memory in valid.values()])
        rejected += [(valid[memory_id][0], reason) for memory_id, reason in refused.items()]
        promoted = [(row, memory_id) for memory_id, (row, _) in valid.items() if memory_id not in refused | duplicates]
        await self._count_members(page[0]["tenantId"], {valid[memory_id][1]["clusterId"] for _, memory_id in promoted})
        await self.settle(promoted, rejected, [(valid[key][0], reason) for key, reason in duplicates.items()])

    async def _count_members(self, tenant: str, clusters: set[str | None]) -> None:
        """Before the candidates are settled: a run that is killed does it again."""
        named = [cluster for cluster in clusters if cluster is not None]
        if not named:
            return
        members = {"tenantId": tenant, "clusterId": {"$in": named}, "status": "active"}
        counted = self._memories.aggregate(
            [{"$match": members}, {"$group": {"_id": "$clusterId", "members": {"$sum": 1}}}], hint=MEMBERS
        )
        # Raised only: of two runs at once the one that counted first may be the one that writes last.
        raised = [
            UpdateOne({"_id": each["_id"], "tenantId": tenant}, {"$max": {"memberCount": each["members"]}})
            async for each in counted
        ]
        if raised:
            await self._clusters.bulk_write(raised, ordered=False)

    async def _insert(self, memories: Sequence[Document]) -> tuple[dict[str, str], dict[str, str]]:
        """Insert those that are not there. Answers which were refused and which are duplicates, by id, and why."""
        problems = await self._try_insert(memories)
        if not problems:
            return {}, {}
        hashes = {each["_id"]: each["contentHash"] for each in memories if each["_id"] in problems}
        own = {each["_id"] async for each in self._memories.find({"_id": {"$in": list(hashes)}}, {"_id": 1})}
        same = self._memories.find(same_texts(memories[0]["tenantId"], list(hashes.values())), {"contentHash": 1})
        others = {each["contentHash"]: each["_id"] async for each in same}
        refused = {key: problem for key, problem in problems.items() if key not in own}
        duplicates = {key: f"duplicate of {others[hashes[key]]}" for key in refused if hashes[key] in others}
        self.counts.finished += len(own)
        return {key: reason for key, reason in refused.items() if key not in duplicates}, duplicates

    async def _try_insert(self, memories: Sequence[Document]) -> dict[str, str]:
        """Answers what the database refused, by id. The server inserts in this order, also after one it refused."""
        if not memories:
            return {}
        try:
            await self._memories.insert_many(memories, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            problems = details.get("writeErrors") or []
            if details.get("writeConcernErrors") or any(each["code"] not in ONE_RECORDS_TROUBLE for each in problems):
                raise
            return {
                memories[each["index"]]["_id"]: f"refused by the database: {each['errmsg'][:300]}" for each in problems
            }
        return {}

    async def settle(
        self,
        promoted: Sequence[tuple[Document, str]],
        rejected: Sequence[tuple[Document, str]],
        duplicates: Sequence[tuple[Document, str]] = (),
    ) -> None:
        """Each with its memory's id, or with the reason."""
        now = self._ctx.now()
        refused = [*rejected, *duplicates]
        kept = await self._mark(
            (row, {"$set": {"status": "promoted", "memoryId": key, "decidedAt": now}, **FORGET})
            for row, key in promoted
        )
        dropped = await self._mark(
            (row, {"$set": {"status": "rejected", "reason": reason, "decidedAt": now}, **(FORGET if again else {})})
            for again, group in ((False, rejected), (True, duplicates))
            for row, reason in group
        )
        for row, reason in refused[: max(0, self._params.max_logged - self.counts.rejected)]:
            self._ctx.log.warning(
                LogEvent.CANDIDATE_REJECTED, tenant=row.get("tenantId"), candidate=str(row["_id"]), problem=reason
            )
        self.counts.promoted += kept
        self.counts.rejected += dropped
        self.counts.duplicates += len(duplicates)
        self.counts.overtaken += len(promoted) + len(refused) - kept - dropped

    async def _mark(self, marks: Iterable[tuple[Document, Document]]) -> int:
        """Only those that nobody else settled meanwhile; answers how many."""
        updates = [UpdateOne({"_id": row["_id"], **PENDING}, mark) for row, mark in marks]
        return int((await self._queue.bulk_write(updates, ordered=False)).modified_count) if updates else 0


def content_hash(text: str) -> str:
    """Equal for texts that differ in white space or in the composition of letters only."""
    return sha256(unicodedata.normalize("NFC", " ".join(text.split())).encode()).hexdigest()


def same_texts(tenant: str, hashes: Sequence[str]) -> Document:
    """The query of a tenant's memories with one of these texts."""
    # Without $type the server does not see that its partial index has them all.
    return {"tenantId": tenant, "contentHash": {"$in": list(hashes), "$type": "string"}}


def memory_id(candidate_id: object) -> str:
    """The same for the same candidate, however often it is promoted."""
    return f"m-{digest(candidate_id)}"


def _memory(row: Document, now: datetime, params: CaptureParams) -> Document:
    """Raises ValueError: what is wrong with the candidate."""
    if not row["fits"]:
        raise ValueError(f"larger than {params.max_bytes} bytes")
    try:
        candidate = Candidate.model_validate(row.get("candidate"))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(['candidate', *map(str, problem['loc'])])}: {problem['msg'].lower()}") from None
    text = candidate.text.strip()
    if not 0 < len(text) <= params.max_chars:
        raise ValueError(f"candidate.text: has {len(text)} characters, not 1 to {params.max_chars}")
    return {
        "_id": memory_id(row["_id"]),
        "tenantId": row["tenantId"],
        "clusterId": candidate.cluster_id,
        "text": text,
        "contentHash": content_hash(text),
        "textUpdatedAt": now,
        "source": row.get("source"),
        "metadata": candidate.metadata,
        "tier": "hot",
        "decayScore": 1.0,
        "score": 0.0,
        "recallCount": 0,
        "lastRecalledAt": None,
        "lastEvaluatedAt": None,
        "createdAt": now,
        "status": "active",
        "statusChangedAt": now,
        "retentionExpiresAt": candidate.retention_expires_at,
        "embeddingUpdatedAt": None,
        "embeddingModel": None,
    }
