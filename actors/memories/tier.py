"""``memories.tier``: memories move between hot, warm and cold.

Reads active ``memories`` and ``recall_events``; writes ``tier``; deletes nothing. Tenants have their turn after a
batch each.

Down by the last recall (the creation, if there was none): after ``warmAfter`` without one, hot becomes warm; after
``coldAfter``, hot and warm become cold. Up by the recalls within ``recallWindow``: with ``hotRecalls`` of them warm
and cold become hot; with fewer, but at least one, cold becomes warm. A memory without a tier gets the one that its
last recall gives it. The window is shorter than the times on the way down: what has just come up stays for the
difference at least, so that nothing flaps. Each memory goes where it belongs at once, so that a second run finds
nothing to do.

Only the keys of an index are read, and of those only the ones of memories that move, or were recalled within the
window. A memory whose dates are no dates stays where it is.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from pydantic import Field, model_validator

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.moment import moment
from actors.maintenance.params import BatchParams
from actors.maintenance.ranges import BEYOND, OLDEST, keys
from actors.memories.collections import Collections
from actors.memories.indexes import FIELDS, RECALLS, TIERS, memories, recall_events
from actors.memories.updates import Updates
from schemas.base import Duration

Stretch = tuple[Sequence[Any], Sequence[Any]]


class TierParams(BatchParams):
    """Options of ``memories.tier``."""

    batch_size: int = Field(2000, ge=1, le=10_000, description="Memories of a tenant that are updated at once.")
    warm_after: Duration = Field(timedelta(days=14), description="Without a recall for this long, hot becomes warm.")
    cold_after: Duration = Field(timedelta(days=90), description="Without a recall for this long, it becomes cold.")
    recall_window: Duration = Field(
        timedelta(days=7), description="Recalls within it bring a memory up; shorter than warmAfter."
    )
    hot_recalls: int = Field(3, ge=1, description="Recalls within the window that make a memory hot.")
    max_failures_in_row: int = Field(20, ge=1, description="So many refused memories one after the other end the run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.recall_window < self.warm_after < self.cold_after:
            raise ValueError("recallWindow is shorter than warmAfter, and that is shorter than coldAfter")
        return self


@dataclass(slots=True)
class TierCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Memories that were idle for long enough, or recalled within the window."""
    hot_to_warm: int = 0
    hot_to_cold: int = 0
    warm_to_cold: int = 0
    warm_to_hot: int = 0
    cold_to_warm: int = 0
    cold_to_hot: int = 0
    placed: int = 0
    """They had no tier."""
    failed: int = 0
    """Refused by the database."""


@actor("memories.tier", aliases=["tier_transition_job"], max_attempts=1, timeout="30m", concurrency=1)
async def tier_memories(params: TierParams, ctx: Context) -> dict[str, int]:
    """Move memories between hot, warm and cold."""
    wanted = {**memories(params.collections), **recall_events(params.collections)}
    await ensure_indexes(ctx.resources["memory"], wanted)
    run = _Run(params, ctx, await moment(ctx))
    async for tenant, moves in in_turn(run.tenants(), run.moves):
        for move in moves:
            await run.move(tenant, move)
        await ctx.progress(run.counts.scanned)
    return run.counts.result()


@dataclass(frozen=True, slots=True)
class _Move:
    source: str | None
    target: str
    ids: Sequence[Any]


class _Run:
    def __init__(self, params: TierParams, ctx: Context, now: datetime) -> None:
        self._params = params
        database, names = ctx.resources["memory"], params.collections
        self._memories, self._recalls = database[names.memories], database[names.recall_events]
        self._updates = Updates(self._memories, ctx, params.max_failures_in_row)
        self._warm, self._cold = now - params.warm_after, now - params.cold_after
        self._window = now - params.recall_window
        self.counts = TierCounts()

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._memories)

    async def moves(self, tenant: str) -> AsyncIterator[list[_Move]]:
        """Page by page: first all that go down, then all that come up."""
        mine = (tenant, "active")
        down: tuple[tuple[str | None, Sequence[Stretch]], ...] = (
            (None, [((*mine, None), (*mine, None, BEYOND))]),
            ("hot", _idle(self._warm, *mine, "hot")),
            ("warm", _idle(self._cold, *mine, "warm")),
        )
        for source, stretches in down:
            for stretch in stretches:
                async for page in self._keys(stretch):
                    yield self._sorted(source, {key["_id"]: self._settled(key) for key in page})
        for source in ("warm", "cold"):
            async for page in self._keys(((*mine, source, self._window), (*mine, source, BEYOND))):
                recalls = await self._count_recalls(tenant, [key["_id"] for key in page])
                yield self._sorted(source, {key["_id"]: self._risen(recalls.get(key["_id"], 0)) for key in page})

    def _keys(self, stretch: Stretch) -> AsyncIterator[list[Document]]:
        return keys(self._memories, TIERS, FIELDS[TIERS], *stretch, size=self._params.batch_size)

    def _settled(self, key: Document) -> str:
        used = _last_use(key)
        if used is None or used >= self._warm:
            return "hot"
        return "warm" if used >= self._cold else "cold"

    def _risen(self, recalls: int) -> str:
        return "hot" if recalls >= self._params.hot_recalls else "warm"

    async def _count_recalls(self, tenant: str, ids: Sequence[Any]) -> dict[Any, int]:
        within = {"tenantId": tenant, "memoryId": {"$in": list(ids)}, "at": {"$gte": self._window}}
        counted = self._recalls.aggregate(
            [{"$match": within}, {"$group": {"_id": "$memoryId", "recalls": {"$sum": 1}}}], hint=RECALLS
        )
        return {each["_id"]: each["recalls"] async for each in counted}

    def _sorted(self, source: str | None, targets: dict[Any, str]) -> list[_Move]:
        self.counts.scanned += len(targets)
        ids: defaultdict[str, list[Any]] = defaultdict(list)
        for key, target in targets.items():
            if target != source:
                ids[target].append(key)
        return [_Move(source, target, found) for target, found in ids.items()]

    async def move(self, tenant: str, move: _Move) -> None:
        still: Document = {"status": "active", "tier": move.source}
        if move.target != "hot" and move.source != "cold":
            # It may have been recalled since it was found.
            still["lastRecalledAt"] = {"$not": {"$gte": self._warm if move.target == "warm" else self._cold}}
        moved = await self._updates.update(tenant, move.ids, still, {"$set": {"tier": move.target}})
        name = f"{move.source}_to_{move.target}" if move.source else "placed"
        setattr(self.counts, name, getattr(self.counts, name) + moved)
        self.counts.failed = self._updates.failed


def _idle(since: datetime, *prefix: str) -> tuple[Stretch, Stretch]:
    """Those not used since then; what was never recalled counts from its creation."""
    never = (*prefix, None, OLDEST), (*prefix, None, since)
    recalled = (*prefix, OLDEST), (*prefix, since)
    return never, recalled


def _last_use(key: Document) -> datetime | None:
    """None: the dates are none."""
    used = key["createdAt"] if key["lastRecalledAt"] is None else key["lastRecalledAt"]
    return used if isinstance(used, datetime) else None
