"""What is being reindexed: ``index_state {_id: path, reindexing, progress, …}``, for query services and the admin API.

A run says so every ten seconds, by the server's clock, in ``heartbeatAt``: one that was killed falls silent. A reader
takes ``reindexing`` for true only while that is fresh::

    await index_state.find_one({"_id": path, "reindexing": True, "$expr": ALIVE})

and each run that begins, here or of the garbage collector, clears what others left behind. A marker belongs to one run:
of two on the same path the last to begin has it, and when that ends the other takes it over.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pymongo import DESCENDING, IndexModel
from pymongo.errors import PyMongoError

from actors.maintenance.database import Collection, Database, Document
from schemas.base import Instant, Model
from service.errors import StoreUnavailable

COLLECTION = "index_state"
BEAT = timedelta(seconds=10)
SILENCE = timedelta(minutes=1)
"""A run that was silent for so long is gone."""
ALIVE = {"$gt": ["$heartbeatAt", {"$subtract": ["$$NOW", round(SILENCE.total_seconds() * 1000)]}]}
INDEX = IndexModel([("reindexing", DESCENDING), ("startedAt", DESCENDING)], name="latest")
MOST_ERROR = 500
T = TypeVar("T")


class IndexState(Model):
    """How the last reindexing of a path went, or how far this one is."""

    path: str
    reindexing: bool
    """Whether it is under way: its run was heard of within the last minute."""
    progress: float
    """0 to 1."""
    done: int
    total: int
    task_id: str | None
    started_at: Instant | None
    heartbeat_at: Instant | None
    """When the run was last heard of."""
    finished_at: Instant | None
    error: str | None
    """Why it ended early."""


class Marker:
    """Of one run, from its beginning to its end."""

    def __init__(self, states: Collection, path: str, task_id: str, fence: int) -> None:
        self._states, self._path = states, path
        self._mine = {"taskId": task_id, "fence": fence}
        self._done = self._total = 0

    async def take(self) -> None:
        begun: Document = {"finishedAt": None, "error": None, **self._state()}
        update = {"$set": begun, "$currentDate": {"heartbeatAt": True, "startedAt": True}}
        await self._states.update_one({"_id": self._path}, update, upsert=True)

    async def tell(self, done: int, total: int) -> None:
        """How far the run is."""
        self._done, self._total = done, total
        # Unless another run has it, which is alive.
        free: list[Document] = [self._mine, {"reindexing": {"$ne": True}}, {"$expr": {"$not": [ALIVE]}}]
        update = {"$set": {"finishedAt": None, "error": None, **self._state()}, "$currentDate": {"heartbeatAt": True}}
        await self._states.update_one({"_id": self._path, "$or": free}, update)

    async def beat(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(BEAT.total_seconds())
            try:
                await self.tell(self._done, self._total)
            except PyMongoError:
                continue  # the run itself meets it, too

    async def end(self, error: str | None) -> None:
        ended: Document = {"reindexing": False, "error": error}
        await self._states.update_one(
            {"_id": self._path, **self._mine}, {"$set": ended, "$currentDate": {"finishedAt": True}}
        )

    def _state(self) -> Document:
        share = min(1.0, self._done / self._total) if self._total else 0.0
        return {"reindexing": True, "progress": share, "done": self._done, "total": self._total, **self._mine}


@asynccontextmanager
async def marked(states: Collection, path: str, *, task_id: str, fence: int) -> AsyncIterator[Marker]:
    """Inside, the path is being reindexed by this run."""
    await states.create_indexes([INDEX])
    await clear_stale(states)
    marker = Marker(states, path, task_id, fence)
    await marker.take()
    beating = asyncio.create_task(marker.beat(), name="index state")
    try:
        yield marker
    except BaseException as error:
        why = "stopped" if isinstance(error, asyncio.CancelledError) else str(error) or type(error).__name__
        await _stop(beating)
        await marker.end(why[:MOST_ERROR])
        raise
    else:
        await _stop(beating)
        await marker.end(None)


async def _stop(beating: "asyncio.Task[None]") -> None:
    beating.cancel()
    await asyncio.wait([beating])


async def clear_stale(states: Collection) -> None:
    """End what runs left behind that were killed."""
    left = {"reindexing": True, "$expr": {"$not": [ALIVE]}}
    update = {"$set": {"reindexing": False, "error": "interrupted"}}
    await states.update_many(left, update)


async def index_states(memory: Database, *, limit: int) -> list[IndexState]:
    """Those under way first, then those that began last. Raises StoreUnavailable."""
    alive = {"$and": [{"$eq": ["$reindexing", True]}, ALIVE]}
    latest: list[dict[str, Any]] = [
        {"$sort": {"reindexing": -1, "startedAt": -1}},
        {"$limit": limit},
        {"$set": {"reindexing": alive}},
    ]
    try:
        return [_read(state) async for state in memory[COLLECTION].aggregate(latest)]
    except PyMongoError as error:
        raise StoreUnavailable(f"the memory database does not answer: {str(error)[:300]}") from error


def _read(state: Document) -> IndexState:
    """What does not fit, whoever wrote it, is left out."""

    def value(name: str, kind: type[T]) -> T | None:
        found = state.get(name)
        return found if isinstance(found, kind) else None

    return IndexState(
        path=str(state["_id"]),
        reindexing=state["reindexing"],
        progress=value("progress", float) or 0.0,
        done=value("done", int) or 0,
        total=value("total", int) or 0,
        task_id=value("taskId", str),
        started_at=value("startedAt", datetime),
        heartbeat_at=value("heartbeatAt", datetime),
        finished_at=value("finishedAt", datetime),
        error=value("error", str),
    )
