"""``files.reindex``: the indexing pipeline, once more, on every file under a path.

Reads ``files``, ``blobs`` and GridFS; writes ``file_index``, the table of vectors, ``indexedAt`` and ``indexError`` of
``files``, and ``index_state``; deletes what is indexed of files that have gone, or hold no text any more.

Each file is read piece by piece, up to limits; its text is extracted (plain text, Markdown, JSON, HTML), its most
frequent terms are kept, and its chunks are embedded. Each vector has the file's path as owner and the file's folder as
group. Files of other types are counted as unsupported, and say so in ``indexError``. A file that changes meanwhile is
indexed again.

``/data/`` is what lies below that folder; ``/data`` is that, and the file ``/data``; neither is ``/data2``.

``index_state`` says of the path ``reindexing: true`` and how far it is, until the run ends; one that was killed is
known by its silence (see ``actors/maintenance/index_state.py``).

A file that cannot be read is counted and logged, and keeps the reason in ``indexError``. Many in a row, or an embedder
or vector store that stays away, end the run; its checkpoint is kept, and the next attempt goes on from there.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import Field

from actors import Context, actor
from actors.files.collections import Collections
from actors.files.contents import Unreadable
from actors.files.entries import ASKED, Entries, Entry, Limits
from actors.maintenance.breaker import Breaker
from actors.maintenance.chunks import Chunking
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.embedder.port import EmbedderRefused, EmbedderUnavailable
from actors.maintenance.index_state import Marker, marked
from actors.maintenance.pages import pages
from actors.maintenance.params import BatchParams
from actors.maintenance.vector_store.port import VectorStoreRefused, VectorStoreUnavailable
from schemas.base import Duration
from service.log_events import LogEvent

MIB = 1024 * 1024
AT_ONCE = 512
"""Chunks that are embedded and written at once, or those of one file."""
TRIES = 3
"""How often a file that changes while it is indexed is indexed again."""


class ReindexParams(BatchParams):
    """Options of ``files.reindex``."""

    path: str = Field(min_length=1, max_length=1000, description="The folder, or the file, that is reindexed.")
    batch_size: int = Field(50, ge=1, le=10_000, description="Files between two checkpoints.")
    skip_unchanged: bool = Field(
        False, description="Pass over files that are indexed with the same hash and the same embedding model."
    )
    max_file_bytes: int = Field(8 * MIB, ge=1024, le=256 * MIB, description="Bytes read of a file at most.")
    max_characters: int = Field(500_000, ge=100, le=10_000_000, description="Characters of its text at most.")
    max_terms: int = Field(1000, ge=0, le=100_000, description="Terms of a file that are kept, the most frequent.")
    max_chunks: int = Field(1000, ge=0, le=10_000, description="Chunks of a file that are embedded.")
    chunking: Chunking = Field(Chunking(), description="How texts are cut.")
    table: str = Field("files", min_length=1, max_length=100, description="Table of the vectors.")
    max_failures_in_row: int = Field(20, ge=1, description="So many failures one after the other end the run.")
    pause: Duration = Field(
        timedelta(seconds=2), description="Wait before an embedder or vector store that was away is asked again."
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class ReindexCounts(Counts):
    """What a run did, with what earlier attempts of the same task did."""

    files: int = 0
    indexed: int = 0
    unchanged: int = 0
    """Passed over, if that was asked for."""
    unsupported: int = 0
    failed: int = 0
    gone: int = 0
    """Deleted while they were indexed."""
    truncated: int = 0
    """Of those indexed: files with more text than the limits allow."""
    chunks: int = 0


@actor(
    "files.reindex",
    aliases=["reindex"],
    max_attempts=5,
    timeout="24h",
    concurrency=2,
    unique=True,
    delays=["30s", "2m", "10m", "30m"],
)
async def reindex(params: ReindexParams, ctx: Context) -> dict[str, int]:
    """Index every file under a path again."""
    run = _Run(params, ctx)
    states = ctx.resources["memory"][params.collections.index_state]
    async with marked(states, params.path, task_id=ctx.task.id, fence=ctx.fence) as marker:
        await run.run(marker)
    return run.counts.result()


class _Run:
    """Its checkpoint says after which path it goes on, and what was counted."""

    def __init__(self, params: ReindexParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        memory, names = ctx.resources["memory"], params.collections
        self._files = memory[names.files]
        limits = Limits(
            params.max_file_bytes, params.max_characters, params.max_terms, params.max_chunks, params.chunking
        )
        embedder, store = ctx.resources["embedder"], ctx.resources["vector_store"]
        self._entries = Entries(memory, names, embedder, store, params.table, limits)
        # Two, for a file that can be read says nothing about the embedder.
        self._reading = Breaker(params.max_failures_in_row, "files")
        self._writing = Breaker(params.max_failures_in_row, "files")
        self._failing = False
        kept: dict[str, Any] = ctx.task.checkpoint or {}
        self._after: str | None = kept.get("after")
        self.counts = ReindexCounts(**kept.get("counts", {}))

    async def run(self, marker: Marker) -> None:
        total = await self._total()
        await self._tell(marker, total)
        async for page in self._pages():
            await self._index(page)
            self.counts.files += len(page)
            if not self._failing:
                # Else what failed last is tried again, should this run end early: the fault may not have been theirs.
                await self._ctx.save({"after": page[-1]["_id"], "counts": self.counts.result()})
            await self._tell(marker, max(total, self.counts.files))

    async def _tell(self, marker: Marker, total: int) -> None:
        done = self.counts.files
        await marker.tell(done, total)
        await self._ctx.progress(done, total, f"indexed {done}/{total} files")

    async def _total(self) -> int:
        return sum([await self._files.count_documents(query) for query in under(self._params.path)])

    async def _pages(self) -> AsyncIterator[list[Document]]:
        size = self._params.batch_size
        for query in under(self._params.path):
            async for page in pages(self._files, query, size=size, after=self._after, projection=ASKED):
                yield page

    # ---- a page of files -------------------------------------------------------------------------

    async def _index(self, files: Sequence[Document]) -> None:
        """All of them; those that change meanwhile a few times."""
        for _ in range(TRIES):
            files = await self._index_once(files)
            if not files:
                return
        for file in files:
            await self._fail(file["_id"], file.get("hash"), "it changes faster than it can be indexed")

    async def _index_once(self, files: Sequence[Document]) -> list[Document]:
        """Answers those that have changed meanwhile."""
        passed = await self._entries.unchanged(files) if self._params.skip_unchanged else set()
        self.counts.unchanged += len(passed)
        waiting: list[Entry] = []
        changed: list[Document] = []
        for file in files:
            if file["_id"] in passed:
                continue
            entry = await self._read(file)
            if entry is not None:
                waiting.append(entry)
            if sum(len(each.chunks) for each in waiting) >= AT_ONCE:
                changed += await self._write(waiting)
                waiting = []
        return changed + await self._write(waiting)

    async def _read(self, file: Document) -> Entry | None:
        try:
            entry = await self._entries.read(file)
        except Unreadable as error:
            await self._fail(file["_id"], file.get("hash"), str(error))
            self._reading.failed(error)
            return None
        self._reading.worked()
        return entry

    async def _write(self, entries: Sequence[Entry]) -> list[Document]:
        """Answers the files that have changed meanwhile."""
        while entries:
            try:
                written = await self._entries.write(entries, self._ctx.now())
            except (EmbedderUnavailable, VectorStoreUnavailable) as error:
                self._failing = True
                self._writing.failed(error)
                await self._ctx.checkpoint()
                await asyncio.sleep(self._params.pause.total_seconds())
            except (EmbedderRefused, VectorStoreRefused) as error:
                if len(entries) > 1:
                    # One of them, or each: told apart one by one.
                    return [changed for entry in entries for changed in await self._write([entry])]
                await self._fail(entries[0].path, entries[0].hash, str(error))
                self._writing.failed(error)
                return []
            else:
                self._writing.worked()
                self._failing = False
                self._count(entries, set(written.current))
                self.counts.gone += len(written.gone)
                return written.changed
        return []

    def _count(self, entries: Sequence[Entry], current: set[str]) -> None:
        counts = self.counts
        for entry in entries:
            if entry.path not in current:
                continue
            if entry.unsupported is not None:
                counts.unsupported += 1
                continue
            counts.indexed += 1
            counts.truncated += entry.truncated
            counts.chunks += len(entry.chunks)

    async def _fail(self, path: str, content: Any, error: str) -> None:
        self._failing = True
        self.counts.failed += 1
        self._ctx.log.warning(LogEvent.RECORD_FAILED, collection=self._files.name, record=path, error=error[:500])
        await self._entries.fail(path, content, error[:500])


def under(path: str) -> list[Document]:
    """The files under a path as ranges of ``_id``, in order: what follows ``/`` is ``0``."""
    folder = path.rstrip("/")
    below: Document = {"_id": {"$gt": f"{folder}/", "$lt": f"{folder}0"}}
    return [below] if path.endswith("/") else [{"_id": path}, below]
