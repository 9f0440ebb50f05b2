"""``vectors.reconcile``: the two-way difference between entries and vectors.

Walks ``entries`` and their vectors side by side in the order of their ids, page by page, and looks each difference up
again before it acts. Vectors whose entry is gone, or has nothing to index any more, are orphans: they are deleted, if
they are no more than the guard allows. Entries that are stamped as indexed and lack vectors, or whose vectors are of
another embedding model or another conversation group, lose their stamp, and ``vectors.index_retry`` is asked to index
them: that is how a change of the model reaches every entry. Stopped in the middle, it goes on from there.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field
from pymongo import UpdateOne

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Database, Document
from actors.maintenance.embedder.port import Embedder
from actors.maintenance.guard import check
from actors.maintenance.params import DeletingParams
from actors.maintenance.vector_store.port import Stored, VectorStore
from actors.vectors.entries import INDEXABLE, RETRY, StoreParams, group_of

LOOKED_AT: Document = {"conversationGroupId": 1, "indexedAt": 1, "indexedChunks": 1}


class ReconcileParams(DeletingParams, StoreParams):
    """Options of ``vectors.reconcile``."""

    batch_size: int = Field(
        5000, ge=1, le=50_000, description="Entries, and documents with vectors, looked at at once."
    )
    queue: bool = Field(True, description="Have missing and outdated entries indexed.")


@dataclass(slots=True)
class ReconcileCounts(Counts):
    """What a run found and did. A dry run counts what it would do."""

    entries: int = 0
    """Entries with something to index."""
    owners: int = 0
    """Documents that have vectors."""
    orphans: int = 0
    """Those among them that have no entry."""
    deleted: int = 0
    """Vectors of orphans."""
    missing: int = 0
    """Entries that are stamped as indexed and lack vectors."""
    outdated: int = 0
    """Entries whose vectors are of another model or another conversation group, or not all there."""
    queued: int = 0
    """Entries that are to be indexed again."""


@dataclass(slots=True)
class _Page:
    """A stretch of both walks."""

    last: str
    """The largest id in it."""
    entries: int = 0
    owners: int = 0
    orphans: list[str] = field(default_factory=list)
    missing: list[Document] = field(default_factory=list)
    outdated: list[Document] = field(default_factory=list)


@actor("vectors.reconcile", max_attempts=1, timeout="2h", concurrency=1)
async def reconcile(params: ReconcileParams, ctx: Context) -> dict[str, Any]:
    """Bring entries and vectors together again. The result's ``orphanRatio`` is the part of owners that are orphans."""
    return await _Run(params, ctx).run()


class _Run:
    def __init__(self, params: ReconcileParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        database: Database = ctx.resources["memory"]
        self._entries = database[params.collections.entries]
        self._store: VectorStore = ctx.resources["vector_store"]
        embedder: Embedder = ctx.resources["embedder"]
        self._model = embedder.model
        self._counts = ReconcileCounts()

    async def run(self) -> dict[str, Any]:
        counts = self._counts
        resumed: dict[str, Any] | None = self._ctx.task.checkpoint
        if resumed is None:
            # Twice: nothing is deleted before it is known how much that would be.
            await self._count()
            check(self._params, deleting=counts.orphans, looked_at=counts.owners, what="indexed documents")
        else:
            self._counts = counts = ReconcileCounts(**resumed["counts"])
        if not self._params.dry_run and counts.orphans + counts.missing + counts.outdated:
            await self._mend(resumed["after"] if resumed else "", resumed=resumed is not None)
        ratio = round(counts.orphans / counts.owners, 4) if counts.owners else 0.0
        return {**counts.result(), "orphanRatio": ratio}

    async def _count(self) -> None:
        counts = self._counts
        async for page in self._pages(""):
            counts.entries += page.entries
            counts.owners += page.owners
            counts.orphans += len(page.orphans)
            counts.missing += len(page.missing)
            counts.outdated += len(page.outdated)
            await self._ctx.progress(counts.entries)

    async def _mend(self, after: str, *, resumed: bool) -> None:
        counts = self._counts
        async for page in self._pages(after):
            counts.deleted += await self._delete(page.orphans)
            await self._queue([*page.missing, *page.outdated])
            await self._ctx.save({"after": page.last, "counts": counts.result()})
            await self._ctx.checkpoint()
        if resumed:
            # It may have been stopped between the two halves of queueing.
            await self._ask()

    async def _delete(self, orphans: Sequence[str]) -> int:
        if not orphans:
            return 0
        # One that has an entry by now is none any more.
        known = self._entries.find({"_id": {"$in": list(orphans)}, **INDEXABLE}, {"_id": 1})
        alive = {entry["_id"] async for entry in known}
        return await self._store.delete(self._params.table, owners=[each for each in orphans if each not in alive])

    async def _queue(self, entries: Sequence[Document]) -> None:
        if not entries or not self._params.queue:
            return
        # One that was indexed meanwhile has another stamp, and keeps it.
        writes = [
            UpdateOne({"_id": entry["_id"], "indexedAt": entry["indexedAt"]}, {"$set": {"indexedAt": None}})
            for entry in entries
        ]
        self._counts.queued += (await self._entries.bulk_write(writes, ordered=False)).modified_count
        await self._ask()

    async def _ask(self) -> None:
        await self._ctx.enqueue(RETRY, self._params.place(), name=self._params.retry_name)

    # ---- the two walks -------------------------------------------------------------------------------

    async def _pages(self, after: str) -> AsyncIterator[_Page]:
        size = self._params.batch_size
        while True:
            entries = await self._after(after, size)
            owners = await self._store.owners(self._params.table, after=after, limit=size)
            # What lies behind the end of a full page is not known yet: the stretch ends where the first of them does.
            ends = [ids[-1] for ids in ([entry["_id"] for entry in entries], owners) if len(ids) == size]
            if ends:
                entries = [entry for entry in entries if entry["_id"] <= min(ends)]
                owners = [owner for owner in owners if owner <= min(ends)]
            yield await self._compared(min(ends, default=after), entries, owners)
            if not ends:
                return
            after = min(ends)

    async def _after(self, after: str, size: int) -> list[Document]:
        # Text only, by the order of its code points, as the vector store's owners are.
        query = {"_id": {"$gt": after}, **INDEXABLE}
        return await self._entries.find(query, LOOKED_AT, sort=[("_id", 1)], limit=size, hint="_id_").to_list(size)

    async def _compared(self, last: str, entries: Sequence[Document], owners: Sequence[str]) -> _Page:
        stamped = {entry["_id"]: entry for entry in entries if entry.get("indexedAt") is not None}
        have: dict[str, list[Stored]] = {owner: [] for owner in owners}
        for vector in await self._store.of_owners(self._params.table, [owner for owner in owners if owner in stamped]):
            have[vector.owner].append(vector)
        orphans = have.keys() - {entry["_id"] for entry in entries}
        return _Page(
            last=last,
            entries=len(entries),
            owners=len(owners),
            orphans=sorted(orphans),
            missing=[each for key, each in stamped.items() if key not in have and each.get("indexedChunks") != 0],
            outdated=[each for key, each in stamped.items() if have.get(key) and self._differs(each, have[key])],
        )

    def _differs(self, entry: Document, vectors: Sequence[Stored]) -> bool:
        group = group_of(entry)
        if len(vectors) != entry.get("indexedChunks", len(vectors)):
            return True
        return any(vector.model != self._model or vector.group != group for vector in vectors)
