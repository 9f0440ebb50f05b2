"""Relay, rescue, prune and type states. Rules P9 and P11–P14 of docs/protocol.md."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from schemas.task import Task, TaskError, TaskStatus
from schemas.worker import TaskTypeState
from service.clock import StoreClock
from service.payload import safe_text
from service.states import Move, Seen
from service.store.mongo.claims import move_update
from service.store.mongo.database import Database, Document
from service.store.mongo.documents import history_push, task_document, tasks_from
from service.store.port import RelayMove, Retention, Settlement, Upkeep

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MARKER_LIFE = timedelta(minutes=1)
_STATE_NAMES = frozenset(info.alias or name for name, info in TaskTypeState.model_fields.items())


def _finished(task_type: str, status: TaskStatus, age: Document) -> Document:
    return {"taskType": task_type, "status": status.value, "finishedAt": age}


class MongoUpkeep(Upkeep):
    """Every write compares what was read: any number of schedulers may do the same at once."""

    def __init__(self, database: Database, clock: StoreClock) -> None:
        self._database, self._tasks, self._types, self._clock = database, database.tasks, database.types, clock

    # ---- relay -------------------------------------------------------------------------------------------------------

    async def relay_heads(self) -> dict[str, datetime]:
        async def read() -> dict[str, datetime]:
            # A distinct scan, one key for each type, as long as the index alone answers everything.
            cursor = self._tasks.aggregate(
                [
                    {"$match": {"status": "pending", "relayAt": {"$gt": _EPOCH}}},
                    {"$sort": {"taskType": 1, "relayAt": 1}},
                    {"$group": {"_id": "$taskType", "at": {"$first": "$relayAt"}}},
                ],
                hint="relay",
            )
            return {group["_id"]: group["at"] async for group in cursor}

        return await self._database.repeat(read)

    async def relay_due(self, task_type: str, now: datetime, limit: int) -> list[Task]:
        return await self._due({"status": "pending", "taskType": task_type, "relayAt": {"$lte": now}}, "relay", limit)

    async def dead_due(self, now: datetime, limit: int) -> list[Task]:
        return await self._due({"status": "failed", "relayAt": {"$lte": now}}, "dead", limit)

    async def _due(self, query: Document, index: str, limit: int) -> list[Task]:
        async def read() -> list[Document]:
            return await self._tasks.find(query).sort("relayAt", 1).limit(limit).hint(index).to_list(limit)

        return tasks_from(await self._database.repeat(read))

    async def relay_move(self, moves: Sequence[RelayMove]) -> list[bool]:
        if not moves:
            return []
        operations = [
            UpdateOne(
                {"_id": move.task.id, "status": move.task.status.value, "relayAt": move.task.relay_at},
                {"$set": {"relayAt": move.relay_at}} if move.relay_at is not None else {"$unset": {"relayAt": ""}},
            )
            for move in moves
        ]
        result = await self._database.once(lambda: self._tasks.bulk_write(operations, ordered=False))
        if result.matched_count == len(moves):
            return [True] * len(moves)

        async def read() -> dict[str, Document]:
            ids = [move.task.id for move in moves]
            cursor = self._tasks.find({"_id": {"$in": ids}}, {"status": 1, "relayAt": 1})
            return {document["_id"]: document async for document in cursor}

        found = await self._database.repeat(read)
        # Another scheduler may have moved one to the very same instant: both publish, which is harmless.
        return [
            found.get(move.task.id, {}).get("status") == move.task.status.value
            and found[move.task.id].get("relayAt") == move.relay_at
            for move in moves
        ]

    async def give_up(self, task: Task, reason: str, message: str, relay_at: datetime) -> bool:
        now = self._clock.now()
        error = TaskError(type="GivenUp", message=safe_text(message), fingerprint=reason, at=now)
        result = await self._database.repeat(
            lambda: self._tasks.update_one(
                {"_id": task.id, "status": "pending", "relayAt": task.relay_at},
                {
                    "$set": {
                        "status": "failed",
                        "reason": reason,
                        "relayAt": relay_at,
                        "lastError": error.model_dump(by_alias=True, exclude_none=True),
                    },
                    "$currentDate": {"finishedAt": True},
                    "$unset": {"again": ""},
                    "$rename": {"liveKey": "endedKey"},
                    "$push": history_push(now, "failed", reason=reason),
                },
            )
        )
        return result.matched_count == 1

    async def put_dead(self, task: Task) -> bool:
        now = self._clock.now()
        document = task_document(task)
        document |= {
            "status": "failed",
            "finishedAt": task.finished_at or now,
            "relayAt": task.relay_at or now,
        }

        async def insert() -> bool:
            try:
                await self._tasks.insert_one(document)
            except DuplicateKeyError:
                return False
            return True

        return await self._database.repeat(insert)

    # ---- rescue ------------------------------------------------------------------------------------------------------

    async def stale_claims(self, stale_after: timedelta, limit: int) -> tuple[list[Task], datetime | None]:
        async def read(age: Document, most: int) -> list[Document]:
            found = self._tasks.find({"processingAt": age}).sort("processingAt", 1).limit(most)
            return await found.hint("stale").to_list(most)

        cutoff = self._clock.now() - stale_after
        stale = tasks_from(await self._database.repeat(lambda: read({"$gt": _EPOCH, "$lt": cutoff}, limit)))
        if len(stale) == limit:
            return stale, self._clock.now()
        fresh = await self._database.repeat(lambda: read({"$gte": cutoff}, 1))
        return stale, fresh[0]["processingAt"] + stale_after if fresh else None

    async def rescue(self, task: Task, move: Move, stale_after: timedelta, relay_at: datetime | None) -> bool:
        cancelled = task.cancel_requested_at is not None
        settlement = Settlement(
            id=task.id,
            token=task.claim_token or "",
            move=move,
            seen=Seen(task.again, cancelled),
            retry_at=move.retry_at,
            relay_at=relay_at,
            worker=task.claimed_by or "",
            fence=task.fence,
        )
        milliseconds = int(stale_after.total_seconds() * 1000)
        result = await self._database.repeat(
            lambda: self._tasks.update_one(
                {
                    "_id": task.id,
                    "status": "running",
                    "claimToken": task.claim_token,
                    "attempt": task.attempt,
                    "again": True if task.again else {"$exists": False},
                    "cancelRequestedAt": {"$exists": cancelled},
                    # The server compares with its own clock at the moment of the write: no clock of ours is trusted.
                    "$expr": {"$lt": ["$processingAt", {"$subtract": ["$$NOW", milliseconds]}]},
                },
                move_update(settlement, self._clock.now(), keep_token=False),
            )
        )
        return result.matched_count == 1

    async def rescue_workers(self, dead: Collection[str]) -> int:
        result = await self._database.repeat(
            lambda: self._tasks.update_many(
                {"processingAt": {"$gt": _EPOCH}, "claimedBy": {"$in": list(dead)}},
                {"$set": {"processingAt": _EPOCH + timedelta(seconds=1)}},
            )
        )
        return result.modified_count

    # ---- prune -------------------------------------------------------------------------------------------------------

    async def prune(self, retention: Retention, now: datetime, limit: int) -> dict[str, int]:
        open_fires = await self._database.repeat(self._open_fires)
        types: list[str] = await self._database.repeat(lambda: self._tasks.distinct("taskType"))
        ages = {
            TaskStatus.COMPLETED: max(retention.completed, retention.window),
            TaskStatus.CANCELLED: max(retention.completed, retention.window),
            TaskStatus.FAILED: max(retention.dead, retention.window),
        }
        pruned: dict[str, int] = {}
        for task_type in types:
            for status, age in ages.items():
                count = await self._prune_older(task_type, status, now - age, open_fires, limit)
                if status is TaskStatus.COMPLETED:
                    count += await self._prune_beyond(task_type, retention, now, open_fires, limit)
                if count:
                    pruned[status.value] = pruned.get(status.value, 0) + count
        return pruned

    async def _open_fires(self) -> list[str]:
        found = self._database.schedules.find({"firing": {"$exists": True}}, {"_id": 1}).hint("firing")
        return [schedule["_id"] async for schedule in found]

    async def _prune_older(
        self, task_type: str, status: TaskStatus, before: datetime, spared: list[str], limit: int
    ) -> int:
        query = _finished(task_type, status, {"$gt": _EPOCH, "$lt": before})

        async def read() -> list[Document]:
            found = self._tasks.find(query, {"_id": 1}).sort("finishedAt", 1).limit(limit)
            return await found.hint("finished").to_list(limit)

        return await self._delete([found["_id"] for found in await self._database.repeat(read)], query, spared)

    async def _prune_beyond(
        self, task_type: str, retention: Retention, now: datetime, spared: list[str], limit: int
    ) -> int:
        """What the newest ``keep_completed`` leave over, outside the window."""
        edge = now - retention.window
        query = _finished(task_type, TaskStatus.COMPLETED, {"$gt": _EPOCH, "$lt": edge})
        inside = _finished(task_type, TaskStatus.COMPLETED, {"$gte": edge})

        async def read() -> list[Document]:
            kept = 0
            if retention.keep_completed:
                kept = await self._tasks.count_documents(inside, limit=retention.keep_completed, hint="finished")
            found = self._tasks.find(query, {"_id": 1}).sort([("finishedAt", -1), ("_id", -1)])
            return await found.skip(retention.keep_completed - kept).limit(limit).hint("finished").to_list(limit)

        return await self._delete([found["_id"] for found in await self._database.repeat(read)], query, spared)

    async def _delete(self, ids: list[str], query: Document, spared: list[str]) -> int:
        """Delete by id, repeating what was read: one that was replayed or ran again meanwhile stays (P14)."""
        if not ids:
            return 0
        guard: Document = {**query, "_id": {"$in": ids}, "relayAt": {"$exists": False}}
        if spared:
            guard["scheduleId"] = {"$nin": spared}
        result = await self._database.repeat(lambda: self._tasks.delete_many(guard))
        return result.deleted_count

    # ---- task types --------------------------------------------------------------------------------------------------

    async def type_states(self) -> dict[str, TaskTypeState]:
        async def read() -> list[Document]:
            return await self._types.find({}).to_list(None)

        states = {}
        for found in await self._database.repeat(read):
            known = {name: value for name, value in found.items() if name in _STATE_NAMES}
            states[found["_id"]] = TaskTypeState.model_validate({"id": found["_id"], **known})
        return states

    async def take_marker(self, task_type: str, now: datetime) -> bool:
        state = (await self.type_states()).get(task_type)
        sent = state.marker_sent_at if state else None
        seen = state.marker_seen_at if state else None
        outstanding = sent is not None and (seen is None or seen < sent) and sent > now - _MARKER_LIFE
        if outstanding or (sent is not None and sent >= now):
            return False
        as_read: object = {"$exists": False} if sent is None else sent
        try:
            result = await self._database.once(
                lambda: self._types.update_one(
                    {"_id": task_type, "markerSentAt": as_read}, {"$set": {"markerSentAt": now}}, upsert=True
                )
            )
        except DuplicateKeyError:
            return False
        return result.matched_count == 1 or result.upserted_id is not None

    async def set_paused(self, task_type: str, paused: bool, *, by: str | None = None) -> None:
        if paused:
            who = {"pausedBy": safe_text(by)} if by is not None else {}
            which: Document = {"_id": task_type, "paused": {"$ne": True}}
            update: Document = {"$set": {"paused": True, **who}, "$currentDate": {"pausedAt": True}}
        else:
            which = {"_id": task_type}
            update = {"$set": {"paused": False}, "$unset": {"pausedAt": "", "pausedBy": ""}}

        async def write() -> None:
            # One that is paused already does not match, and its id is taken: all is well. But a marker may have made
            # the document just now: so once more.
            for _ in range(2):
                with suppress(DuplicateKeyError):
                    await self._types.update_one(which, update, upsert=True)
                    return

        await self._database.repeat(write)
