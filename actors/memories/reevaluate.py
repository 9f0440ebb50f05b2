"""``memories.reevaluate``: new scores for memories that were recalled.

Reads ``recall_events``; writes ``score``, ``scoredAt`` and ``lastRecalledAt`` of ``memories``, and a cursor for each
tenant in ``maintenance_state``; deletes nothing. With ``memoryId`` it scores that memory alone and moves no cursor.

The score is between 0 and 1::

    frequency = 1 - 0.5 ** (recalls in the window / halfway)
    recency   = 0.5 ** (time since the last recall / half-life)
    score     = 0.5 * frequency + 0.3 * recency + 0.2 * decayScore

so that a memory which has faded can be hot again: it is, from ``hotScore`` on. Its tier is moved by ``memories.tier``.

The cursor stays 30 seconds behind now, so that events that are committed late are not lost behind it, and it is moved
after the scores of its page are written: what is read twice is scored twice, to the same end. Should it lie ahead of
now, for the clock was set back, it is moved back as well.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from actors import Context, actor
from actors.maintenance.breaker import Breaker
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.params import BatchParams
from actors.memories.collections import Collections
from actors.memories.ids import candidates
from actors.memories.indexes import RECALLED_SINCE, recall_events
from schemas.base import Duration
from service.log_events import LogEvent

TASK_TYPE = "memories.reevaluate"
FREQUENCY, RECENCY, DECAY = 0.5, 0.3, 0.2
DIGITS = 6
"""Of a score: two runs within the same second should agree."""
SCORED = ("active", "archived")
"""Memories on their way out are not scored."""


class ReevaluateParams(BatchParams):
    """Options of ``memories.reevaluate``."""

    memory_id: str | None = Field(None, description="Score this memory alone; null: those that were recalled.")
    window: Duration = Field(timedelta(days=30), description="Recalls that are counted.")
    halfway: int = Field(5, ge=1, le=1000, description="Recalls in the window that make a frequency of one half.")
    half_life: Duration = Field(timedelta(days=7), description="After this long without a recall, recency is one half.")
    hot_score: float = Field(0.7, ge=0, le=1, description="From this score on a memory is hot.")
    count_at_most: int = Field(
        200, ge=10, le=10_000, description="Recalls of one memory that are counted; more make no difference."
    )
    lag: Duration = Field(timedelta(seconds=30), description="How far behind now events are read.")
    max_failures_in_row: int = Field(20, ge=1, description="So many bad memories one after the other end the run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class ReevaluateCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Recall events."""
    scored: int = 0
    became_hot: int = 0
    """They were below ``hotScore`` before."""
    missing: int = 0
    """Recalled memories that are gone, or on their way out."""
    failed: int = 0
    """Memories with values that cannot be reckoned with."""
    rewound: int = 0
    """Tenants whose cursor lay ahead of now."""
    overtaken: int = 0
    """Tenants whose cursor another run moved meanwhile: it goes on there."""


@actor(TASK_TYPE, aliases=["intelligence_reevaluate"], max_attempts=1, timeout="30m", concurrency=1)
async def reevaluate_memories(params: ReevaluateParams, ctx: Context) -> dict[str, int]:
    """Score memories that were recalled since the last run, or one memory."""
    run = _Run(params, ctx)
    await ensure_indexes(ctx.resources["memory"], recall_events(params.collections))
    if params.memory_id is not None:
        await run.score_one(params.memory_id)
        return run.counts.result()
    async for tenant, page in in_turn(run.tenants(), run.events):
        await run.score(tenant, list({event["memoryId"]: None for event in page if event.get("memoryId") is not None}))
        await ctx.progress(run.counts.scanned)
    return run.counts.result()


class _Run:
    def __init__(self, params: ReevaluateParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        database, names = ctx.resources["memory"], params.collections
        self._events, self._memories = database[names.recall_events], database[names.memories]
        self._state = database[names.maintenance_state]
        self._breaker = Breaker(params.max_failures_in_row, "memories")
        self.counts = ReevaluateCounts()

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._events)

    async def events(self, tenant: str) -> AsyncIterator[list[Document]]:
        """Pages after the cursor; it is moved past a page when the next one is asked for."""
        until = self._ctx.now() - self._params.lag
        cursor = await self._cursor(tenant, until)
        size = self._params.batch_size
        while True:
            found = self._events.find(
                events_after(tenant, cursor, until),
                {"memoryId": 1, "at": 1},
                sort=[("at", 1), ("_id", 1)],
                limit=size,
                hint=RECALLED_SINCE,
            )
            page: list[Document] = await found.to_list(size)
            if not page:
                return
            self.counts.scanned += len(page)
            yield page
            after = {"at": page[-1]["at"], "id": page[-1]["_id"]}
            if not await self._move(tenant, cursor, after):
                self.counts.overtaken += 1
                return
            if len(page) < size:
                return
            cursor = after

    async def _cursor(self, tenant: str, until: datetime) -> Document | None:
        state = await self._state.find_one({"_id": _key(tenant)})
        cursor: Document | None = state["after"] if state is not None else None
        if cursor is None or cursor["at"] <= until:
            return cursor
        back = {"at": until, "id": None}
        if await self._move(tenant, cursor, back):
            self.counts.rewound += 1
        return back

    async def _move(self, tenant: str, seen: Document | None, after: Document) -> bool:
        """Unless another run moved it."""
        fields = {"after": after, "updatedAt": self._ctx.now()}
        if seen is None:
            try:
                await self._state.insert_one({"_id": _key(tenant), **fields})
            except DuplicateKeyError:
                return False
            return True
        moved = await self._state.update_one({"_id": _key(tenant), "after": seen}, {"$set": fields})
        return bool(moved.matched_count)

    async def score_one(self, memory_id: str) -> None:
        memory = await self._memories.find_one({"_id": {"$in": candidates(memory_id)}}, {"tenantId": 1})
        if memory is None:
            self.counts.missing += 1
            return
        await self.score(memory["tenantId"], [memory["_id"]])

    async def score(self, tenant: Any, memory_ids: Sequence[Any]) -> None:
        now = self._ctx.now()
        updates = []
        found = 0
        for memory in await self._with_recalls(tenant, memory_ids, now):
            found += 1
            try:
                score = self._score(memory, now)
            except (TypeError, ValueError, OverflowError) as error:
                self.counts.failed += 1
                self._ctx.log.warning(
                    LogEvent.MEMORY_FAILED, tenant=tenant, memory=str(memory["_id"]), error=str(error)[:300]
                )
                self._breaker.failed(error)
                continue
            self._breaker.worked()
            before: Any = memory.get("score") if _is_number(memory.get("score")) else 0.0
            self.counts.became_hot += before < self._params.hot_score <= score
            change: Document = {"$set": {"score": score, "scoredAt": now}}
            if memory["last"] is not None:
                change["$max"] = {"lastRecalledAt": memory["last"]}
            updates.append(UpdateOne({"_id": memory["_id"], "status": memory.get("status")}, change))
        self.counts.missing += len(memory_ids) - found
        if updates:
            done = await self._memories.bulk_write(updates, ordered=False)
            self.counts.scored += done.matched_count
            self.counts.missing += len(updates) - done.matched_count

    async def _with_recalls(self, tenant: Any, memory_ids: Sequence[Any], now: datetime) -> list[Document]:
        pipeline = with_recalls(tenant, memory_ids, now, self._params)
        found: list[Document] = await self._memories.aggregate(pipeline).to_list(None)
        return found

    def _score(self, memory: Document, now: datetime) -> float:
        """Raises TypeError, ValueError, OverflowError."""
        decay = memory.get("decayScore")
        decay = 1.0 if decay is None else decay
        if not _is_number(decay) or not 0 <= decay <= 1:
            raise ValueError(f"decayScore is {decay!r}, not a number between 0 and 1")
        last = max((moment for moment in (memory["last"], memory.get("lastRecalledAt")) if moment), default=None)
        frequency: float = 1 - 0.5 ** (memory["recalls"] / self._params.halfway)
        recency = 0.0
        if last is not None:
            # A recall in the future, by a clock that was ahead, is one of now.
            recency = 0.5 ** (max(now - last, timedelta()) / max(self._params.half_life, timedelta(milliseconds=1)))
        return round(FREQUENCY * frequency + RECENCY * recency + DECAY * float(decay), DIGITS)


def events_after(tenant: str, cursor: Document | None, until: datetime) -> Document:
    """The query of a tenant's recalls after a cursor."""
    if cursor is None:
        return {"tenantId": tenant, "at": {"$lte": until}}
    # The id is compared by $expr, for ids of several types have one order too.
    later_id = {"$expr": {"$gt": ["$_id", {"$literal": cursor["id"]}]}}
    return {
        "tenantId": tenant,
        "at": {"$gte": cursor["at"], "$lte": until},
        "$or": [{"at": {"$gt": cursor["at"]}}, later_id],
    }


def with_recalls(tenant: Any, memory_ids: Sequence[Any], now: datetime, params: ReevaluateParams) -> list[Document]:
    """A pipeline: memories with ``recalls``, how many there are in the window, and ``last``, when the last of those
    was."""
    newest = [
        {"$match": {"tenantId": tenant, "at": {"$gt": now - params.window, "$lte": now}}},
        {"$sort": {"at": -1}},
        {"$limit": params.count_at_most},
        {"$group": {"_id": None, "recalls": {"$sum": 1}, "last": {"$max": "$at"}}},
    ]
    recalls = {
        "from": params.collections.recall_events,
        "localField": "_id",
        "foreignField": "memoryId",
        "pipeline": newest,
        "as": "recalled",
    }
    return [
        {"$match": {"_id": {"$in": list(memory_ids)}, "tenantId": tenant, "status": {"$in": [*SCORED, None]}}},
        {"$project": {"status": 1, "score": 1, "decayScore": 1, "lastRecalledAt": 1}},
        {"$lookup": recalls},
        {
            "$addFields": {
                "recalls": {"$ifNull": [{"$first": "$recalled.recalls"}, 0]},
                "last": {"$ifNull": [{"$first": "$recalled.last"}, None]},
            }
        },
    ]


def _key(tenant: str) -> str:
    return f"{TASK_TYPE} {tenant}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
