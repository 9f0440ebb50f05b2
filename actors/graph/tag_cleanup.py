"""``graph.tag_cleanup``: tags that no object carries.

Reads ``tags`` and the ``tags`` of those that carry them; deletes from ``tags``. A tag is carried by its id or by its
name. One that nothing carries gets ``unusedSince``; a run that finds it still so, and still unused, a grace period
later deletes it. So a tag that has just been made, and is about to be attached, has that time too.

Who attaches a tag that exists takes it first, and then has the grace period to attach it::

    taken = await tags.update_one({"_id": tag}, {"$unset": {"unusedSince": ""}})
    if not taken.matched_count:
        await tags.insert_one({"_id": tag, "name": name})

The tag is deleted only if ``unusedSince`` is still what it was: taken before, it stays; taken after, it is made anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import Field

from actors import Context, actor
from actors.graph.collections import Collections
from actors.graph.indexes import FIELDS, UNUSED, tags
from actors.maintenance import guard
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.pages import pages
from actors.maintenance.params import CollectionName, DeletingParams
from actors.maintenance.ranges import OLDEST, keys
from actors.maintenance.sweeper import Sweeper
from schemas.base import Duration

MILLISECOND = timedelta(milliseconds=1)


class TagCleanupParams(DeletingParams):
    """Options of ``graph.tag_cleanup``."""

    grace: Duration = Field(timedelta(minutes=15), description="How long a tag must have been unused.")
    carriers: tuple[CollectionName, ...] = Field(
        ("graph_nodes",), min_length=1, description="Collections whose documents carry tags, in an array `tags`."
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class TagCounts(Counts):
    """What a run did."""

    scanned: int = 0
    carried: int = 0
    condemned: int = 0
    """Seen unused for the first time."""
    pardoned: int = 0
    """Seen unused before, and carried now."""
    deleted: int = 0
    """In a dry run, that would be."""


@actor("graph.tag_cleanup", aliases=["TagCleanupTask"], max_attempts=1, timeout="30m", concurrency=1)
async def clean_tags(params: TagCleanupParams, ctx: Context) -> dict[str, int]:
    """Delete tags that no object carries."""
    await ensure_indexes(ctx.resources["memory"], tags(params.collections, params.carriers))
    run = _Run(params, ctx)
    due = await run.mark()
    guard.check(params, deleting=due, looked_at=run.counts.scanned, what="tags")
    if params.dry_run:
        run.counts.deleted = due
    else:
        await run.sweep()
    return run.counts.result()


class _Run:
    def __init__(self, params: TagCleanupParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._tags = ctx.resources["memory"][params.collections.tags]
        due_until = ctx.now() - params.grace
        self._sweeper = Sweeper(self._tags, "unusedSince", self._carried, due_until=due_until, clock=ctx.now)
        self.counts = TagCounts()

    async def mark(self) -> int:
        """Look at every tag; how many are due."""
        counts, due = self.counts, 0
        total = await self._tags.estimated_document_count()
        async for page in pages(self._tags, {}, size=self._params.batch_size, projection={"unusedSince": 1}):
            marked = await self._sweeper.mark(page, write=not self._params.dry_run)
            counts.scanned += len(page)
            counts.carried += marked.used
            counts.condemned += marked.condemned
            counts.pardoned += marked.pardoned
            due += len(marked.due)
            await self._ctx.progress(counts.scanned, max(total, counts.scanned + 1))
        return due

    async def sweep(self) -> None:
        beyond = (self._sweeper.due_until + MILLISECOND,)
        seen = {"unusedSince": {"$type": "date"}}
        async for page in keys(
            self._tags, UNUSED, FIELDS[UNUSED], (OLDEST,), beyond, size=self._params.batch_size, query=seen
        ):
            self.counts.deleted += len(await self._sweeper.sweep(page))
            await self._ctx.checkpoint()

    async def _carried(self, page: Sequence[Document]) -> set[Any]:
        ids = [tag["_id"] for tag in page]
        return {tag["_id"] async for tag in self._tags.aggregate(carried(ids, self._params.carriers))}


def carried(ids: list[Any], carriers: Sequence[str]) -> list[Document]:
    """Those of these tags that something carries: of each carrier one key of an index is looked at."""
    # Without a name it would be looked for as null, which everything without tags carries.
    known: Document = {"_id": 1, "name": {"$ifNull": ["$name", "$_id"]}}
    looks: list[Document] = []
    found: list[Document] = []
    for number, carrier in enumerate(carriers):
        for key in ("_id", "name"):
            field = f"by{number}{key}"
            looks.append(
                {
                    "$lookup": {
                        "from": carrier,
                        "localField": key,
                        "foreignField": "tags",
                        "pipeline": [{"$limit": 1}, {"$project": {"_id": 1}}],
                        "as": field,
                    }
                }
            )
            found.append({field: {"$ne": []}})
    return [{"$match": {"_id": {"$in": ids}}}, {"$project": known}, *looks, {"$match": {"$or": found}}]
