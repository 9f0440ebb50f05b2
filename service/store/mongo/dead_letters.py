"""Dead letters as a heap: found, counted and grouped by one index that holds nothing else."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from schemas.dead_letter import DeadGroup, DeadGroups
from service.clock import StoreClock
from service.payload import safe_text
from service.store.mongo.database import Database, Document
from service.store.mongo.documents import history_push, tasks_from
from service.store.mongo.tasks import read_cursor, write_cursor
from service.store.port import DeadFilter, DeadLetters, Page

DISCARDED = "discarded"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INDEX = "deaths"


class MongoDeadLetters(DeadLetters):
    """What is looked through is keys, newest first; a task is fetched only to be shown."""

    def __init__(self, database: Database, clock: StoreClock) -> None:
        self._database, self._tasks, self._clock = database, database.tasks, clock

    async def find(self, which: DeadFilter, *, limit: int, cursor: str | None = None) -> Page:
        query = _query(which)
        if cursor is not None:
            at, task_id = read_cursor(cursor)
            query["finishedAt"]["$lte"] = min(at, which.until or at)
            query["$or"] = [{"finishedAt": {"$lt": at}}, {"_id": {"$lt": task_id}}]

        async def read() -> list[Document]:
            found = self._tasks.find(query).sort([("finishedAt", -1), ("_id", -1)]).limit(limit + 1)
            return await found.hint(_INDEX).to_list(limit + 1)

        documents = await self._database.repeat(read)
        last = documents[limit - 1] if len(documents) > limit else None
        return Page(tasks_from(documents[:limit]), write_cursor(last["finishedAt"], last["_id"]) if last else None)

    async def count(self, which: DeadFilter, most: int) -> int:
        return await self._database.repeat(lambda: self._tasks.count_documents(_query(which), limit=most, hint=_INDEX))

    async def groups(self, which: DeadFilter, *, newest: int, most: int) -> DeadGroups:
        # Read from the index alone; in its order, so that the first of a group is the newest.
        steps: list[Document] = [
            {"$match": _query(which)},
            {"$sort": {"finishedAt": -1, "_id": -1}},
            {"$limit": newest},
            {
                "$group": {
                    "_id": {"fingerprint": "$lastError.fingerprint", "type": "$taskType"},
                    "count": {"$sum": 1},
                    "last": {"$first": "$finishedAt"},
                    "first": {"$last": "$finishedAt"},
                    "sample": {"$first": "$_id"},
                }
            },
            {"$sort": {"count": -1, "last": -1}},
        ]

        async def read() -> list[Document]:
            return await self._tasks.aggregate(steps, hint=_INDEX).to_list(None)

        found = await self._database.repeat(read)
        counted = sum(group["count"] for group in found)
        errors = await self._errors([group["sample"] for group in found[:most]])
        return DeadGroups(
            groups=[_group(group, errors.get(group["sample"], {})) for group in found[:most]],
            counted=counted,
            complete=counted < newest and len(found) <= most,
        )

    async def _errors(self, task_ids: Collection[str]) -> dict[str, Any]:
        async def read() -> dict[str, Any]:
            fields = {"lastError.type": 1, "lastError.place": 1, "lastError.message": 1}
            cursor = self._tasks.find({"_id": {"$in": list(task_ids)}}, fields)
            return {document["_id"]: document.get("lastError", {}) async for document in cursor}

        return await self._database.repeat(read) if task_ids else {}

    async def discard(self, task_ids: Collection[str], reason: str) -> set[str]:
        ids = list(task_ids)
        if not ids:
            return set()
        now = self._clock.now()
        update: Document = {
            "$set": {"status": "cancelled", "reason": DISCARDED},
            "$currentDate": {"finishedAt": True},
            "$push": history_push(now, DISCARDED, reason=safe_text(reason)),
        }
        # As with a replay: not before it is on the dead-letter exchange (P13).
        dead = {"_id": {"$in": ids}, "status": "failed", "relayAt": {"$exists": False}}
        found = await self._database.repeat(lambda: self._ids(dead))
        await self._database.repeat(lambda: self._tasks.update_many({**dead, "_id": {"$in": found}}, update))
        done = {"_id": {"$in": found}, "status": "cancelled", "reason": DISCARDED}
        return set(await self._database.repeat(lambda: self._ids(done)))

    async def _ids(self, query: Document) -> list[str]:
        return [document["_id"] async for document in self._tasks.find(query, {"_id": 1})]


def _query(which: DeadFilter) -> Document:
    query: Document = {"status": "failed", "finishedAt": {"$gt": _EPOCH}}
    if which.until is not None:
        query["finishedAt"]["$lte"] = which.until
    if which.fingerprint is not None:
        query["lastError.fingerprint"] = which.fingerprint
    if which.task_type is not None:
        query["taskType"] = which.task_type
    return query


def _group(found: Document, error: Document) -> DeadGroup:
    return DeadGroup(
        fingerprint=found["_id"].get("fingerprint"),
        task_type=found["_id"]["type"],
        error_type=error.get("type"),
        place=error.get("place"),
        count=found["count"],
        first_seen=found["first"],
        last_seen=found["last"],
        sample_id=found["sample"],
        sample_message=error.get("message"),
    )
