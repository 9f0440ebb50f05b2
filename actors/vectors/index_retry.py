"""``vectors.index_retry``: entries that have content and are not indexed.

Reads and stamps ``entries``; replaces their vectors. A run takes one batch, those that are new before those that
failed. If the batch was full, it asks to run again; if some failed, or the embedder or the vector store is down, it is
tried again every 10 minutes, without end. Publish it with the name ``vectors.index_retry``: then one exists, however
many ask for it, and one that is asked for while it runs runs once more.

An entry is stamped after its vectors were written, and only if it still says what was indexed: a run that was stopped
anywhere is made good by the next one. The vectors of an entry that was deleted meanwhile go at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field
from pymongo import UpdateOne

from actors import Context, Retry, actor
from actors.maintenance.chunks import Chunking
from actors.maintenance.counts import Counts
from actors.maintenance.database import Database, Document
from actors.maintenance.embedder.port import EmbedderRefused, EmbedderUnavailable
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.indexing import Indexed, Indexer, Source, portions
from actors.maintenance.vector_store.port import VectorStore, VectorStoreRefused, VectorStoreUnavailable
from actors.vectors.entries import FAILED_AFTER, INDEXABLE, RETRY, StoreParams, group_of, indexes
from service.log_events import LogEvent

MOST_ERROR = 500
PENDING: Document = {**INDEXABLE, "indexedAt": None}
WANTED: Document = {"conversationGroupId": 1, "indexedContent": 1, "indexFailedAt": 1}
OLDEST_FIRST = [("indexFailedAt", 1), ("_id", 1)]


class IndexRetryParams(StoreParams):
    """Options of ``vectors.index_retry``."""

    batch_size: int = Field(100, ge=1, le=10_000, description="Entries indexed in one run.")
    chunking: Chunking = Field(Chunking(), description="How their contents are cut.")


@dataclass(slots=True)
class IndexRetryCounts(Counts):
    """What a run did."""

    found: int = 0
    indexed: int = 0
    vectors: int = 0
    failed: int = 0
    changed: int = 0
    """Got other content meanwhile: they are indexed again."""
    gone: int = 0
    """Deleted meanwhile: their vectors were deleted too."""
    again: int = 0
    """1: there may be more, so it was asked to run again."""


@actor(
    RETRY,
    aliases=["vector_store_index_retry"],
    max_attempts=None,
    delays=[FAILED_AFTER],
    timeout="30m",
)
async def retry_indexing(params: IndexRetryParams, ctx: Context) -> dict[str, int]:
    """Index a batch of entries that are not indexed."""
    run = _Run(params, ctx)
    try:
        return await run.run()
    except (EmbedderUnavailable, EmbedderRefused, VectorStoreUnavailable, VectorStoreRefused) as error:
        raise Retry(str(error), after=FAILED_AFTER) from error


class _Run:
    def __init__(self, params: IndexRetryParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._database: Database = ctx.resources["memory"]
        self._entries = self._database[params.collections.entries]
        self._store: VectorStore = ctx.resources["vector_store"]
        self._indexer = Indexer(ctx.resources["embedder"], self._store, params.table, params.chunking)
        self._counts = IndexRetryCounts()
        self._failed_again = 0

    async def run(self) -> dict[str, int]:
        await ensure_indexes(self._database, indexes(self._params.collections))
        counts, size = self._counts, self._params.batch_size
        found = self._entries.find(PENDING, WANTED, sort=OLDEST_FIRST, limit=size)
        async for portion in portions(found, lambda entry: len(entry["indexedContent"])):
            await self._index(portion)
            await self._ctx.checkpoint()
        if counts.found == size and self._failed_again < size:
            # What failed stands at the end of the queue now: the next batch begins with others.
            counts.again = 1
            await self._ctx.enqueue(RETRY, self._ctx.task.task_body, name=self._params.retry_name)
        elif counts.failed:
            raise Retry(f"{counts.failed} of {counts.found} entries failed", after=FAILED_AFTER)
        return counts.result()

    async def _index(self, entries: Sequence[Document]) -> None:
        self._counts.found += len(entries)
        proper = [entry for entry in entries if isinstance(entry["_id"], str)]
        outcomes = await self._indexer.index([_source(entry) for entry in proper])
        unusable = Indexed(0, VectorStoreRefused("its _id is no text"))
        await self._stamp([(entry, outcomes.get(entry["_id"], unusable)) for entry in entries])

    async def _stamp(self, outcomes: Sequence[tuple[Document, Indexed]]) -> None:
        now = self._ctx.now()
        done = [(entry, each) for entry, each in outcomes if each.error is None]
        for entry, each in outcomes:
            if each.error is not None:
                self._counts.failed += 1
                self._failed_again += "indexFailedAt" in entry
                self._ctx.log.warning(
                    LogEvent.RECORD_FAILED,
                    collection=self._params.collections.entries,
                    record=str(entry["_id"])[:300],
                    error=str(each.error)[:MOST_ERROR],
                )
        writes = [_indexed(entry, each, now) for entry, each in done]
        stamps = [*writes, *(_failed(entry, each, now) for entry, each in outcomes if each.error is not None)]
        await self._entries.bulk_write(stamps, ordered=False)
        stamped = self._entries.find({"_id": {"$in": [entry["_id"] for entry, _ in done]}}, {"indexedAt": 1})
        left = {entry["_id"]: entry.get("indexedAt") async for entry in stamped}
        gone = [entry["_id"] for entry, _ in done if entry["_id"] not in left]
        if gone:
            await self._store.delete(self._params.table, owners=gone)
        self._counts.gone += len(gone)
        self._counts.changed += sum(at is None for at in left.values())
        self._counts.indexed += sum(at is not None for at in left.values())
        self._counts.vectors += sum(each.vectors for entry, each in done if left.get(entry["_id"]) is not None)


def _source(entry: Document) -> Source:
    return Source(entry["_id"], group_of(entry), entry["indexedContent"])


def _indexed(entry: Document, outcome: Indexed, now: datetime) -> UpdateOne:
    return UpdateOne(
        {"_id": entry["_id"], "indexedContent": entry["indexedContent"]},
        {
            "$set": {"indexedAt": now, "indexedChunks": outcome.vectors},
            "$unset": {"indexFailedAt": "", "indexError": ""},
        },
    )


def _failed(entry: Document, outcome: Indexed, now: datetime) -> UpdateOne:
    failure = {"indexFailedAt": now, "indexError": str(outcome.error)[:MOST_ERROR]}
    return UpdateOne({"_id": entry["_id"], "indexedAt": None}, {"$set": failure})
