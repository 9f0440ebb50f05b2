"""``graph.revision_counts``: the number of revisions that each node caches.

Reads ``node_revisions``; writes ``revisionCount`` of ``graph_nodes``; keeps its cursor in ``maintenance_state``;
deletes nothing. Only nodes with revisions since the last run are counted, and they are counted afresh: the number is
exact, whatever it was. It is written only if it is still what it was before the count, so that of two runs at once the
older count does not win. A revision that was deleted is noticed when its node gets the next one.

The cursor stays behind now, and a stretch before it is read again: revisions that were committed late, or while the
clock was set back a little, are not lost behind it. A cursor that lies ahead of now is worth nothing: then all nodes
are counted. A run that was cut short leaves the place where it stopped beside the cursor; the next one goes on there.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field
from pymongo import UpdateOne

from actors import Context, actor
from actors.graph.collections import Collections
from actors.graph.indexes import NODE, RECENT, revisions
from actors.graph.writes import write
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.params import BatchParams
from schemas.base import Duration
from service.log_events import LogEvent

TASK_TYPE = "graph.revision_counts"


class RevisionCountsParams(BatchParams):
    """Options of ``graph.revision_counts``."""

    behind: Duration = Field(timedelta(seconds=30), description="How far the cursor stays behind now.")
    overlap: Duration = Field(timedelta(minutes=10), description="How far before the cursor is read again.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class RevisionCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Nodes with recent revisions."""
    updated: int = 0
    unchanged: int = 0
    gone: int = 0
    """Nodes that were deleted, and left revisions."""
    raced: int = 0
    """Nodes that another run counted at the same time; its number stands."""
    failed: int = 0
    """Nodes that the database refused to change."""


@actor(TASK_TYPE, aliases=["RevisionCountRefreshTask"], max_attempts=1, timeout="30m", concurrency=1)
async def refresh_revision_counts(params: RevisionCountsParams, ctx: Context) -> dict[str, int]:
    """Refresh the revision counts of nodes that have new revisions."""
    await ensure_indexes(ctx.resources["memory"], revisions(params.collections))
    run = _Run(params, ctx)
    await run.run()
    return run.counts.result()


class _Run:
    def __init__(self, params: RevisionCountsParams, ctx: Context) -> None:
        memory, names = ctx.resources["memory"], params.collections
        self._params, self._ctx = params, ctx
        self._nodes, self._revisions = memory[names.graph_nodes], memory[names.node_revisions]
        self._state = memory[names.maintenance_state]
        self.counts = RevisionCounts()

    async def run(self) -> None:
        now = self._ctx.now()
        kept: Document = await self._state.find_one({"_id": TASK_TYPE}) or {}
        cursor: datetime | None = kept.get("cursor")
        if cursor is not None and cursor > now:
            self._ctx.log.warning(LogEvent.CURSOR_REWOUND, cursor=cursor.isoformat())
            kept, cursor = {}, None
        if (left := kept.get("left")) is not None and left["until"] <= now:
            await self._count(cursor, left["until"], left["after"])
            cursor = left["until"]
        until = now - self._params.behind
        if cursor is None or cursor < until:
            await self._count(cursor, until)

    async def _count(self, cursor: datetime | None, until: datetime, after: Any = None) -> None:
        """Every node with a revision up to ``until``; those whose ids come after ``after``."""
        async for batch in self._ctx.batches(self._recent(cursor, until, after), size=self._params.batch_size):
            await self._refresh(batch)
            await self._keep({"cursor": cursor, "left": {"until": until, "after": batch[-1]}})
        await self._keep({"cursor": until, "left": None})

    async def _keep(self, state: Document) -> None:
        await self._state.update_one({"_id": TASK_TYPE}, {"$set": state}, upsert=True)

    async def _recent(self, cursor: datetime | None, until: datetime, after: Any) -> AsyncIterator[Any]:
        async for group in self._revisions.aggregate(
            recent(None if cursor is None else cursor - self._params.overlap, until, after),
            hint=RECENT,
            batchSize=self._params.batch_size,
        ):
            yield group["_id"]

    async def _refresh(self, ids: list[Any]) -> None:
        counts = self.counts
        nodes = {
            node["_id"]: node.get("revisionCount")
            async for node in self._nodes.find({"_id": {"$in": ids}}, {"revisionCount": 1})
        }
        counted = {each["_id"]: each["count"] async for each in self._revisions.aggregate(by_node(ids), hint=NODE)}
        changes = [
            UpdateOne({"_id": node, "revisionCount": before}, {"$set": {"revisionCount": counted.get(node, 0)}})
            for node, before in nodes.items()
            if before != counted.get(node, 0)
        ]
        updated, failed = await write(self._nodes, changes, self._ctx)
        counts.scanned += len(ids)
        counts.gone += len(ids) - len(nodes)
        counts.unchanged += len(nodes) - len(changes)
        counts.updated += updated
        counts.failed += failed
        counts.raced += len(changes) - updated - failed


def recent(since: datetime | None, until: datetime, after: Any = None) -> list[Document]:
    """The nodes with revisions after ``since`` up to ``until``, by id."""
    lower = {} if since is None else {"$gt": since}
    # Not a plain $gt, which would leave out ids of another type than ``after``.
    beyond = [{"$match": {"$expr": {"$gt": ["$_id", {"$literal": after}]}}}] if after is not None else []
    return [
        {"$match": {"at": {**lower, "$lte": until}}},
        {"$group": {"_id": "$nodeId"}},
        *beyond,
        {"$sort": {"_id": 1}},
    ]


def by_node(ids: list[Any]) -> list[Document]:
    """How many revisions each of these nodes has."""
    return [{"$match": {"nodeId": {"$in": ids}}}, {"$group": {"_id": "$nodeId", "count": {"$sum": 1}}}]
