"""``memories.embed``: vectors of memories, made anew.

Reads ``memories``; writes their vectors into the vector store, and ``embeddingUpdatedAt`` and ``embeddingModel`` of
the memories. Each has one vector: its owner and id are the memory's id, its group is the tenant.

With ``memoryId`` it embeds that memory, whatever its vector is like; else all that are stale: without a vector, with
one of another model, or with a text newer (``textUpdatedAt``) than that. After each batch of a tenant it is the next
one's turn.

A memory is marked only if it is still as it was when it was read. One whose text changed meanwhile stays stale; of one
that was deleted or purged meanwhile the vector is removed again. Memories that are soft-deleted, or on their way out,
are left alone.

An embedder or a vector store that is down makes the task try again, with growing delays. A text that the embedder will
not take is counted, logged and skipped. What is left to do is what is stale: there is no checkpoint.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from pydantic import Field
from pymongo import UpdateOne

from actors import Context, actor
from actors.maintenance.breaker import Breaker
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.embedder.port import Embedder, EmbedderRefused
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.pages import pages
from actors.maintenance.vector_store.port import Vector, VectorStore, VectorStoreRefused
from actors.memories.collections import Collections
from actors.memories.ids import candidates
from actors.memories.indexes import OWN, memories
from schemas.base import Model
from service.log_events import LogEvent

NOT_EMBEDDED = ("soft_deleted", "hard_delete_pending", "purged")
"""Memories that are not to be found any more."""
FIELDS = {"tenantId": 1, "status": 1, "textUpdatedAt": 1, "text": 1}


class EmbedParams(Model):
    """Options of ``memories.embed``."""

    memory_id: str | None = Field(None, description="Embed this memory alone; null: all that are stale.")
    tenant_id: str | None = Field(None, min_length=1, description="Only stale ones of this tenant; null: of all.")
    table: str = Field("memories", min_length=1, max_length=100, description="Table of the vector store.")
    max_chars: int = Field(
        8000, ge=100, le=1_000_000, description="Characters of a text that are embedded; models read only so far."
    )
    batch_size: int = Field(64, ge=1, le=1000, description="Memories read, embedded and written at once.")
    max_failures_in_row: int = Field(20, ge=1, description="So many refused texts one after the other end the run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class EmbedCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Memories that were asked for, or stale."""
    embedded: int = 0
    missing: int = 0
    """The memory that was asked for does not exist, has no text, or is on its way out."""
    failed: int = 0
    """Texts that were refused."""
    overtaken: int = 0
    """Changed while they were embedded: they are stale still."""
    removed: int = 0
    """Deleted while they were embedded: their vectors are gone again."""


@actor("memories.embed", timeout="2h")
async def embed_memories(params: EmbedParams, ctx: Context) -> dict[str, int]:
    """Embed memories whose vectors are missing or stale, or one memory."""
    run = _Run(params, ctx)
    if params.memory_id is not None:
        await run.embed(await run.find(params.memory_id))
        return run.counts.result()
    await ensure_indexes(ctx.resources["memory"], memories(params.collections))
    async for _, batch in in_turn(run.tenants(), run.stale):
        await run.embed(batch)
        await ctx.progress(run.counts.scanned)
    return run.counts.result()


class _Run:
    def __init__(self, params: EmbedParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._memories = ctx.resources["memory"][params.collections.memories]
        self._embedder: Embedder = ctx.resources["embedder"]
        self._vectors: VectorStore = ctx.resources["vector_store"]
        self._breaker = Breaker(params.max_failures_in_row, "memories")
        self.counts = EmbedCounts()

    async def tenants(self) -> AsyncIterator[str]:
        if self._params.tenant_id is not None:
            yield self._params.tenant_id
            return
        async for tenant in tenants(self._memories):
            yield tenant

    def stale(self, tenant: str) -> AsyncIterator[list[Document]]:
        query = stale_memories(tenant, self._embedder.model)
        size = self._params.batch_size
        return pages(self._memories, query, size=size, projection=self._fields(), hint=OWN)

    async def find(self, memory_id: str) -> list[Document]:
        query = {"_id": {"$in": candidates(memory_id)}, "status": {"$nin": NOT_EMBEDDED}, "text": {"$gt": ""}}
        found: list[Document] = await self._memories.find(query, self._fields(), limit=1).to_list(1)
        self.counts.missing += not found
        return found

    def _fields(self) -> Document:
        return {**FIELDS, "text": {"$substrCP": ["$text", 0, self._params.max_chars]}}

    async def embed(self, batch: Sequence[Document]) -> None:
        if not batch:
            return
        now = self._ctx.now()
        self.counts.scanned += len(batch)
        model = self._embedder.model
        for part in await self._put(batch, model):
            await self._mark(part, model, now)

    async def _put(self, batch: Sequence[Document], model: str) -> list[Sequence[Document]]:
        """Embed and store; answers what was stored. Should a batch be refused, each is tried alone."""
        try:
            values = await self._embedder.embed([memory["text"] for memory in batch])
            vectors = [_vector(memory, model, each) for memory, each in zip(batch, values, strict=True)]
            await self._vectors.replace_owners(self._params.table, [vector.owner for vector in vectors], vectors)
        except (EmbedderRefused, VectorStoreRefused) as error:
            if len(batch) > 1:
                return [part for memory in batch for part in await self._put([memory], model)]
            self._fail(batch[0], error)
            return []
        self._breaker.worked()
        return [batch]

    def _fail(self, memory: Document, error: Exception) -> None:
        self.counts.failed += 1
        self._ctx.log.warning(
            LogEvent.MEMORY_FAILED, tenant=memory["tenantId"], memory=str(memory["_id"]), error=str(error)[:300]
        )
        self._breaker.failed(error)

    async def _mark(self, batch: Sequence[Document], model: str, now: datetime) -> None:
        """Those that are as they were when they were read; the others have vectors that are not theirs any more."""
        stamp = {"$set": {"embeddingUpdatedAt": now, "embeddingModel": model}}
        done = await self._memories.bulk_write([UpdateOne(_as_read(memory), stamp) for memory in batch], ordered=False)
        self.counts.embedded += done.matched_count
        if done.matched_count < len(batch):
            await self._mend(batch)

    async def _mend(self, batch: Sequence[Document]) -> None:
        query = {"_id": {"$in": [memory["_id"] for memory in batch]}, "status": {"$nin": NOT_EMBEDDED}}
        found = {
            each["_id"]: each
            async for each in self._memories.find(query, {"status": 1, "textUpdatedAt": 1, "tenantId": 1})
        }
        gone = [str(memory["_id"]) for memory in batch if memory["_id"] not in found]
        if gone:
            await self._vectors.delete(self._params.table, owners=gone)
            self.counts.removed += len(gone)
        changed = [
            memory["_id"] for memory in batch if memory["_id"] in found and not _same(memory, found[memory["_id"]])
        ]
        if changed:
            await self._memories.update_many({"_id": {"$in": changed}}, {"$set": {"embeddingUpdatedAt": None}})
            self.counts.overtaken += len(changed)


def stale_memories(tenant: str, model: str) -> Document:
    """The query of a tenant's memories whose vectors are missing, of another model, or older than the text."""
    return {
        "tenantId": tenant,
        "status": {"$nin": NOT_EMBEDDED},
        "text": {"$gt": ""},
        "$or": [
            {"embeddingUpdatedAt": None},
            {"embeddingModel": {"$ne": model}},
            {"$expr": {"$gt": ["$textUpdatedAt", "$embeddingUpdatedAt"]}},
        ],
    }


def _as_read(memory: Document) -> Document:
    return {"_id": memory["_id"], **{name: memory.get(name) for name in ("tenantId", "status", "textUpdatedAt")}}


def _same(memory: Document, now: Document) -> bool:
    return _as_read(memory) == _as_read(now)


def _vector(memory: Document, model: str, values: list[float]) -> Vector:
    owner, text = str(memory["_id"]), memory["text"]
    return Vector(
        id=owner,
        owner=owner,
        group=str(memory["tenantId"]),
        model=model,
        content_hash=sha256(text.encode()).hexdigest(),
        text=text,
        values=values,
    )
