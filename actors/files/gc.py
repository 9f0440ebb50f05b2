"""``files.gc``: blobs that nothing refers to.

Reads ``blobs``, the ``blobs`` of ``files`` and the ``roots`` of ``snapshots``, which hold ids of blobs; deletes from
``blobs`` and GridFS; keeps ``gc_garbage``.

**Mark.** Blobs are walked through in the order of their ids, by an index that holds all that is asked of them; each
page is merged with the references to its ids, which an index holds in the same order. So memory does not grow, nothing
is written about what stays, and there are no marks that a crash could leave behind. A blob that nothing refers to, and
that is older than the grace period, is condemned: ``condemnedAt`` says when. One that something refers to again is
pardoned.

**Sweep.** What was condemned a grace period before this run, thus by an earlier one, is looked at again, page by page,
and deleted if it is still condemned and still nothing refers to it.

**Uploads** lose nothing if they take a blob that is there already before they rely on it::

    taken = await blobs.update_one({"_id": hash}, {"$set": {"createdAt": now}, "$unset": {"condemnedAt": ""}})
    if not taken.matched_count:
        ...  # write its data, to GridFS under a new id, then the blob with createdAt: now

and write the file that refers to it within the grace period. A deletion has the condition that ``condemnedAt`` is as it
was seen: taken before, the blob stays; taken after, it is gone and uploaded anew. Who does not take a blob can lose it
only if it was without a reference for a whole grace period, and got one in the milliseconds between the last look and
the deletion. Two runs at once do not harm each other; bytes that both saw go may be counted by both.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from actors import Context, actor
from actors.files.collections import Collections
from actors.files.garbage import Garbage
from actors.files.indexes import CONDEMNED, FIELDS, INVENTORY, blobs
from actors.files.references import referenced
from actors.maintenance import guard
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.index_state import clear_stale
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.pages import pages
from actors.maintenance.params import DeletingParams
from actors.maintenance.ranges import OLDEST, keys
from actors.maintenance.sweeper import Sweeper
from schemas.base import Duration
from service.log_events import LogEvent

MILLISECOND = timedelta(milliseconds=1)
ASKED = {"createdAt": 1, "condemnedAt": 1, "size": 1}


class GcParams(DeletingParams):
    """Options of ``files.gc``."""

    batch_size: int = Field(5000, ge=1, le=10_000, description="Blobs looked at, or deleted, at once.")
    grace: Duration = Field(
        timedelta(hours=1),
        description="How long after its creation a blob is not condemned, and after that not swept: "
        "what an upload may take from a blob to the file that refers to it.",
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class GcCounts(Counts):
    """What a run did."""

    scanned: int = 0
    marked: int = 0
    """Blobs that something refers to."""
    young: int = 0
    """Blobs that nothing refers to as yet."""
    condemned: int = 0
    """By this run."""
    pardoned: int = 0
    """Condemned before, and referred to now."""
    swept: int = 0
    """Deleted; in a dry run, that would be."""
    bytes_freed: int = 0
    """Their sizes."""


@actor("files.gc", aliases=["gc"], max_attempts=1, timeout="6h", concurrency=1, unique=True)
async def collect_garbage(params: GcParams, ctx: Context) -> dict[str, int]:
    """Delete blobs that no file and no snapshot refers to."""
    begun = time.monotonic()
    memory = ctx.resources["memory"]
    await ensure_indexes(memory, blobs(params.collections))
    await clear_stale(memory[params.collections.index_state])
    run = _Run(params, ctx)
    await run.run()
    counts = run.counts
    ctx.log.info(
        LogEvent.GC_COMPLETED,
        scanned=counts.scanned,
        marked=counts.marked,
        condemned=counts.condemned,
        pardoned=counts.pardoned,
        swept=counts.swept,
        bytes_freed=counts.bytes_freed,
        duration_ms=round((time.monotonic() - begun) * 1000),
        dry=params.dry_run,
    )
    return counts.result()


class _Run:
    """Its checkpoint says as of which moment it works, how far the marking came, and what was counted."""

    def __init__(self, params: GcParams, ctx: Context) -> None:
        memory, names = ctx.resources["memory"], params.collections
        self._params, self._ctx, self._memory = params, ctx, memory
        self._blobs = memory[names.blobs]
        kept: dict[str, Any] = ctx.task.checkpoint or {}
        self._now = datetime.fromisoformat(kept["at"]) if kept else ctx.now()
        self._after: str | None = kept.get("after")
        self._marking: bool = kept.get("marking", True)
        self._due: int = kept.get("due", 0)
        self.counts = GcCounts(**kept.get("counts", {}))
        self._due_until = self._now - params.grace
        self._sweeper = Sweeper(
            self._blobs,
            "condemnedAt",
            self._referenced,
            due_until=self._due_until,
            clock=ctx.now,
            spare=self._is_young,
        )
        self._garbage = Garbage(memory, names, self._due_until)

    async def run(self) -> None:
        if self._marking:
            await self._mark()
            # Whatever becomes of it: what is refused is marked anew when it is replayed.
            await self._ctx.save(None)
            guard.check(self._params, deleting=self._due, looked_at=self.counts.scanned, what="blobs")
        if self._params.dry_run:
            return
        self._marking = False
        await self._save()
        await self._garbage.clear_left_over(self._params.batch_size)
        await self._sweep()

    async def _mark(self) -> None:
        counts, total = self.counts, await self._blobs.estimated_document_count()
        everything = pages(
            self._blobs, {}, size=self._params.batch_size, after=self._after, projection=ASKED, hint=INVENTORY
        )
        async for page in everything:
            await self._mark_page(page)
            counts.scanned += len(page)
            self._after = page[-1]["_id"]
            await self._save()
            await self._ctx.progress(counts.scanned, max(total, counts.scanned + 1), "marking")

    async def _mark_page(self, page: Sequence[Document]) -> None:
        counts = self.counts
        marked = await self._sweeper.mark(page, write=not self._params.dry_run)
        counts.marked += marked.used
        counts.young += marked.spared
        counts.condemned += marked.condemned
        counts.pardoned += marked.pardoned
        self._due += len(marked.due)
        if self._params.dry_run:
            counts.swept += len(marked.due)
            counts.bytes_freed += _bytes(marked.due)

    def _is_young(self, blob: Document) -> bool:
        created = blob.get("createdAt")
        return created is not None and created > self._due_until

    async def _sweep(self) -> None:
        beyond, condemned = (self._due_until + MILLISECOND,), {"condemnedAt": {"$type": "date"}}
        size = self._params.batch_size
        async for page in keys(
            self._blobs, CONDEMNED, FIELDS[CONDEMNED], (OLDEST,), beyond, size=size, query=condemned
        ):
            due = {"_id": {"$in": [key["_id"] for key in page]}, "condemnedAt": {"$lte": self._due_until}}
            found = await self._blobs.find(due, {"size": 1, "gridfs": 1}).to_list(None)
            notes = await self._garbage.note(found)
            swept = await self._sweeper.sweep(found)
            await self._garbage.clear(notes)
            self.counts.swept += len(swept)
            self.counts.bytes_freed += _bytes(swept)
            await self._save()
            await self._ctx.progress(self.counts.swept, max(self._due, self.counts.swept + 1), "sweeping")

    async def _referenced(self, page: Sequence[Document]) -> set[Any]:
        hashes = [blob["_id"] for blob in page]
        return set(await referenced(self._memory, self._params.collections, hashes))

    async def _save(self) -> None:
        await self._ctx.save(
            {
                "at": self._now.isoformat(),
                "marking": self._marking,
                "after": self._after,
                "due": self._due,
                "counts": self.counts.result(),
            }
        )


def _bytes(blobs: Sequence[Document]) -> int:
    return sum(size for blob in blobs if isinstance(size := blob.get("size"), int))
