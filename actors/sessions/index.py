"""``sessions.index``: messages become vectors, so that they are found by what they say.

Reads and stamps ``messages``; replaces their vectors in the vector store, where a message is the owner and its session
the group. A message that the embedder refuses is tried again in later runs, five times in all, and then keeps its
``indexError``; while the embedder or the vector store is down nothing counts against a message. ``indexedModel`` says
which embedding model indexed a message: those of another one are indexed again after the rest. A message is stamped
after its vectors were written: a run that was stopped anywhere, or two at once, double nothing.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import Field
from pymongo import UpdateOne

from actors import Context, actor
from actors.maintenance.breaker import Breaker
from actors.maintenance.chunks import Chunking
from actors.maintenance.counts import Counts
from actors.maintenance.database import Database, Document
from actors.maintenance.fairness import tenants
from actors.maintenance.indexing import Indexed, Indexer, Source, portions
from actors.maintenance.pages import pages
from actors.maintenance.vector_store.port import TableName
from actors.sessions.indexes import Collections, ensure_indexes
from schemas.base import Model
from service.log_events import LogEvent

MOST_ERROR = 500
WANTED: Document = {"sessionId": 1, "content": 1, "indexedAt": 1, "indexAttempts": 1}
SPOKEN = ("text", "thinking", "content", "input")
"""Fields of a block that hold what was said, or asked of a tool; others, such as an image's data, are no text."""


class IndexParams(Model):
    """Options of ``sessions.index``."""

    batch_size: int = Field(100, ge=1, le=10_000, description="Messages read, indexed and stamped at once.")
    max_messages: int = Field(20_000, ge=1, description="Messages indexed in one run; the next goes on.")
    max_attempts: int = Field(5, ge=1, le=100, description="How often a message is tried that the embedder refuses.")
    max_failures_in_row: int = Field(50, ge=1, description="So many refused messages one after the other end the run.")
    chunking: Chunking = Field(Chunking(), description="How messages are cut.")
    table: TableName = Field("messages", description="Table of the vector store.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class IndexCounts(Counts):
    """What a run did."""

    pending: int = 0
    """Messages that were not indexed when it began."""
    indexed: int = 0
    empty: int = 0
    """Those among them without a text."""
    vectors: int = 0
    failed: int = 0
    """Refused by the embedder in this run."""
    given_up: int = 0
    """Those among them that were tried often enough."""
    renewed: int = 0
    """Indexed again, since another model had indexed them."""


@actor("sessions.index", aliases=["index_pending"], max_attempts=1, timeout="1h", concurrency=1)
async def index_messages(params: IndexParams, ctx: Context) -> dict[str, int]:
    """Index messages that are not indexed."""
    run = _Run(params, ctx)
    await run.run()
    return run.counts.result()


@dataclass(frozen=True, slots=True)
class _Message:
    source: Source
    attempts: int
    """Failed ones."""
    renewed: bool


class _Run:
    def __init__(self, params: IndexParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._database: Database = ctx.resources["memory"]
        self._messages = self._database[params.collections.messages]
        self._indexer = Indexer(ctx.resources["embedder"], ctx.resources["vector_store"], params.table, params.chunking)
        self._breaker = Breaker(params.max_failures_in_row, "messages")
        self._done = 0
        self.counts = IndexCounts()

    async def run(self) -> None:
        await ensure_indexes(self._database, self._params.collections)
        levels = [_tried(attempts) for attempts in range(self._params.max_attempts)]
        for level in levels:
            self.counts.pending += await self._messages.count_documents(level)
        # Those that failed most often first: one that fails again rises to a level that is done with in this run.
        for level in reversed(levels):
            await self._all(level)
        async for model in tenants(self._messages, field="indexedModel"):
            if model != self._indexer.model:
                await self._all({"indexedModel": model})

    async def _all(self, query: Document) -> None:
        async for page in pages(self._messages, query, size=self._params.batch_size, projection={"_id": 1}):
            if self._done >= self._params.max_messages:
                return
            messages = self._messages.find({"_id": {"$in": [each["_id"] for each in page]}}, WANTED)
            async for portion in portions(_read(messages), lambda message: len(message.source.text)):
                await self._index(portion)
            self._done += len(page)
            await self._ctx.progress(self._done, max(self.counts.pending, self._done))

    async def _index(self, messages: Sequence[_Message]) -> None:
        outcomes = await self._indexer.index([message.source for message in messages])
        now, model = self._ctx.now(), self._indexer.model
        stamps = []
        for message in messages:
            outcome = outcomes[message.source.owner]
            stamps.append(_indexed(message, now, model) if outcome.error is None else _failed(message, outcome))
            self._note(message, outcome)
        await self._messages.bulk_write(stamps, ordered=False)
        # Only now that it is noted which of them failed: the next run begins behind them.
        for message in messages:
            error = outcomes[message.source.owner].error
            if error is None:
                self._breaker.worked()
            else:
                self._breaker.failed(error)

    def _note(self, message: _Message, outcome: Indexed) -> None:
        counts = self.counts
        if outcome.error is None:
            counts.indexed += 1
            counts.empty += outcome.vectors == 0
            counts.vectors += outcome.vectors
            counts.renewed += message.renewed
            return
        counts.failed += 1
        counts.given_up += message.attempts + 1 >= self._params.max_attempts
        self._ctx.log.warning(
            LogEvent.RECORD_FAILED,
            collection=self._params.collections.messages,
            record=message.source.owner,
            error=str(outcome.error)[:MOST_ERROR],
        )


async def _read(documents: AsyncIterable[Document]) -> AsyncIterator[_Message]:
    async for document in documents:
        text = "\n\n".join(spoken(document.get("content")))
        source = Source(document["_id"], str(document.get("sessionId") or ""), text)
        yield _Message(source, int(document.get("indexAttempts") or 0), document.get("indexedAt") is not None)


def spoken(content: Any) -> Iterator[str]:
    """What a message says: a text, or that of its blocks."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for each in content:
            yield from spoken(each)
    elif isinstance(content, dict):
        for field in SPOKEN:
            value = content.get(field)
            yield from spoken(list(value.values()) if field == "input" and isinstance(value, dict) else value)


def _tried(attempts: int) -> Document:
    """Messages that are not indexed and were tried so often."""
    return {"indexedAt": None, "indexAttempts": attempts if attempts else {"$in": [None, 0]}}


def _indexed(message: _Message, now: datetime, model: str) -> UpdateOne:
    stamp = {"indexedAt": now, "indexedModel": model, "indexAttempts": 0, "indexError": None}
    return UpdateOne({"_id": message.source.owner}, {"$set": stamp})


def _failed(message: _Message, outcome: Indexed) -> UpdateOne:
    # Set, not added to: two runs that fail on it at once count as one.
    error = {"indexedAt": None, "indexAttempts": message.attempts + 1, "indexError": str(outcome.error)[:MOST_ERROR]}
    return UpdateOne({"_id": message.source.owner}, {"$set": error, "$unset": {"indexedModel": ""}})
