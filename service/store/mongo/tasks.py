"""Creation, cancellation, replay, reading."""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection as Many, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import CodecOptions
from pymongo.errors import BulkWriteError, DuplicateKeyError

from schemas.base import to_instant
from schemas.task import HistoryEntry, Task, TaskStatus
from service.clock import StoreClock
from service.errors import Conflict, InvalidInput, NotFound
from service.payload import BODY_KEY, live_key
from service.store.mongo.claims import note_request
from service.store.mongo.database import (
    DUPLICATE_KEY,
    UNSTORABLE,
    Collection,
    Database,
    Document,
    change,
    translate,
)
from service.store.mongo.documents import asked_push, history_push, task_document, task_from, tasks_from
from service.store.port import SCANNED, Created, Deduplicated, Page, TaskFilter, Tasks

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MongoTasks(Tasks):
    """Inserts are idempotent by id, so they are repeated while the store is away."""

    def __init__(self, database: Database, clock: StoreClock) -> None:
        self._database, self._tasks, self._clock = database, database.tasks, clock

    async def create(
        self, tasks: Sequence[Task], *, ask_again: bool = True, repeat: bool = True, transaction: Any = None
    ) -> list[Created]:
        if transaction is not None:
            return [await self._create_inside(task, transaction, ask_again) for task in tasks]
        refused, repeated = await self._insert([task_document(task) for task in tasks], repeat)
        answers: list[Created] = []
        new: set[str] = set()
        for index, task in enumerate(tasks):
            by = refused.get(index)
            if by is None:
                answer = Created(task, created=True)
            else:
                answer = await self._not_created(task, by, ask_again, repeat)
                if repeated and task.id not in new and _is_that(answer.task, task):
                    answer = Created(answer.task, created=True)
            if answer.created:
                new.add(task.id)
            answers.append(answer)
        return answers

    async def _insert(self, documents: list[Document], repeat: bool) -> tuple[dict[int, str], bool]:
        """Insert what is new; index → the key that refused it, for the others, and whether it took several tries."""
        if not documents:
            return {}, False
        tries = 0

        async def insert() -> dict[int, str]:
            nonlocal tries
            tries += 1
            try:
                await self._tasks.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                details = error.details or {}
                problems = details.get("writeErrors", [])
                if details.get("writeConcernErrors") or any(problem["code"] != DUPLICATE_KEY for problem in problems):
                    raise
                return {problem["index"]: next(iter(problem["keyPattern"])) for problem in problems}
            return {}

        refused = await (self._database.repeat(insert) if repeat else self._database.once(insert))
        return refused, tries > 1

    async def _not_created(self, task: Task, by: str, ask_again: bool, repeat: bool) -> Created:
        while True:
            if by == "_id":
                stored = await self.get(task.id)
                if stored is not None:
                    return Created(stored, created=False, by="id")
            elif task.live_key is not None:
                noted = await note_request(
                    self._database, self._clock, task.live_key, asked_by=task.id, ask_again=ask_again
                )
                stored = await self.get(noted.by if isinstance(noted, Deduplicated) else task.id)
                if noted is not None and stored is not None:
                    return Created(stored, created=False, by="live_key")
            # What refused it is gone: try again (P4).
            refused, _ = await self._insert([task_document(task)], repeat)
            if not refused:
                return Created(task, created=True)
            by = refused[0]

    async def _create_inside(self, task: Task, session: Any, ask_again: bool) -> Created:
        """In the caller's transaction, where a duplicate key would abort everything: look first, then insert."""
        # A session belongs to its client, which is the caller's own and may read dates without a time zone.
        database = session.client.get_database(self._database.name, codec_options=CodecOptions(tz_aware=True))
        tasks: Collection = database["tasks"]
        document = task_document(task)
        try:
            stored = await tasks.find_one({"_id": task.id}, session=session)
            if stored is not None:
                return Created(task_from(stored), created=False, by="id")
            if task.live_key is not None:
                live = await tasks.find_one({"liveKey": task.live_key}, session=session)
                if live is not None and live["status"] == "running" and ask_again:
                    now = self._clock.now()
                    line = history_push(now, "asked again", reason=f"by {task.id}") | asked_push(now, task.id)
                    asked: Document = {"$set": {"again": True}, "$push": line}
                    await tasks.update_one({"_id": live["_id"]}, asked, session=session)
                    live["again"] = True
                if live is not None:
                    return Created(task_from(live), created=False, by="live_key")
            await tasks.insert_one(document, session=session)
        except DuplicateKeyError as error:
            raise Conflict(f"another transaction created {task.id} or its live key; repeat yours") from error
        except UNSTORABLE as error:
            raise translate(error, self._database.url) from error
        # Other errors carry labels that the caller's with_transaction needs: they pass as they are.
        return Created(task, created=True)

    async def get(self, task_id: str) -> Task | None:
        document = await self._database.repeat(lambda: self._tasks.find_one({"_id": task_id}))
        return task_from(document) if document is not None else None

    async def get_many(self, task_ids: Many[str]) -> dict[str, Task]:
        async def read() -> dict[str, Task]:
            cursor = self._tasks.find({"_id": {"$in": list(task_ids)}})
            return {document["_id"]: task_from(document) async for document in cursor}

        return await self._database.repeat(read)

    async def cancel(self, task_id: str, reason: str, *, force: bool = False) -> Task:
        now = self._clock.now()
        push = history_push(now, "cancel requested", reason=reason)
        while True:
            # Still pending: ends here.
            document = await self._change(
                {"_id": task_id, "status": "pending"},
                {
                    "$set": {"status": "cancelled", "reason": reason},
                    "$currentDate": {"finishedAt": True},
                    "$unset": {"relayAt": "", "again": ""},
                    "$rename": {"liveKey": "endedKey"},
                    "$push": push,
                },
            )
            if document is None:
                # Running: it is told. A request made before this one is withdrawn with it (P5).
                told: Document = {"$currentDate": {"cancelRequestedAt": True}, "$unset": {"again": ""}, "$push": push}
                if force:
                    told["$set"] = {"cancelForced": True}
                document = await self._change({"_id": task_id, "status": "running"}, told)
            if document is not None:
                return task_from(document)
            stored = await self.get(task_id)
            if stored is None:
                raise NotFound(f"there is no task {task_id!r}")
            if stored.status is TaskStatus.CANCELLED and stored.history[-1:] == _lines(push):
                return stored  # by an earlier try, whose reply was lost
            if stored.status.finished:
                raise Conflict(f"task {task_id!r} is {stored.status} already: it cannot be cancelled")

    async def replay(
        self, task_id: str, relay_at: datetime, *, body: dict[str, Any] | None = None, note: str | None = None
    ) -> Task:
        now, relay_at = self._clock.now(), to_instant(relay_at)
        # Not before it is on the dead-letter exchange: a late clear of relayAt would hit the replayed task.
        which: Document = {"_id": task_id, "status": "failed", "relayAt": {"$exists": False}}
        gone = ("finishedAt", "again", "cancelRequestedAt", "cancelForced", "reason", "progress")
        update: Document = {
            "$set": {"status": "pending", "attempt": 0, "retryCount": 0, "retryAt": now, "relayAt": relay_at},
            "$unset": dict.fromkeys(gone, ""),
            "$rename": {"endedKey": "liveKey"},
            "$push": history_push(now, "replayed", reason=note),
        }
        if body is not None:
            await self._edit(which, update, body)
        try:
            document = await self._change(which, update)
        except DuplicateKeyError:
            raise Conflict(
                f"task {task_id!r} cannot be replayed: another one with its live key is pending or running"
            ) from None
        if document is not None:
            return task_from(document)
        stored = await self.get(task_id)
        if stored is None:
            raise NotFound(f"there is no task {task_id!r}")
        if stored.status is TaskStatus.PENDING and (stored.relay_at, stored.retry_at) == (relay_at, now):
            return stored  # by an earlier try, whose reply was lost
        if stored.status is TaskStatus.FAILED:
            raise Conflict(f"task {task_id!r} is not on the dead-letter exchange yet; try again in a few seconds")
        raise Conflict(f"task {task_id!r} is {stored.status}; only a failed one can be replayed")

    async def _edit(self, which: Document, update: Document, body: dict[str, Any]) -> None:
        """Let a replay change the body: the checkpoint and a live key that belong to the old one go with it."""
        stored = await self.get(which["_id"])
        update["$set"]["taskBody"] = body
        update["$unset"]["checkpoint"] = ""
        key = stored.ended_key if stored is not None else None
        if stored is not None and key is not None and key.startswith(BODY_KEY):
            update["$set"]["liveKey"] = live_key(stored.task_type, body, name=None, unique=True)
            update["$unset"]["endedKey"] = ""
            del update["$rename"]

    async def owner(self, live_key: str) -> Task | None:
        document = await self._database.repeat(lambda: self._tasks.find_one({"liveKey": live_key}))
        return task_from(document) if document is not None else None

    async def standing_for(self, task_id: str) -> Task | None:
        async def read() -> list[Document]:
            found = self._tasks.find({"askedBy.id": task_id, "askedBy": {"$exists": True}}).hint("asked")
            return await found.to_list(10)

        standing = tasks_from(await self._database.repeat(read))
        return max(standing, key=lambda task: task.created_at, default=None)

    async def _change(self, which: Document, update: Document) -> Document | None:
        """A compare-and-set whose repetition is harmless."""
        return await self._database.repeat(lambda: change(self._tasks, which, update))

    # ---- reading -----------------------------------------------------------------------------------------------------

    async def find(self, which: TaskFilter, *, limit: int, cursor: str | None = None) -> Page:
        listed = await self._listing(which)
        key, indexed = listed.key, listed.indexed
        parts = [indexed]
        if cursor is not None:
            at, task_id = read_cursor(cursor)
            # A range for the index; what is left to compare are ties.
            parts += [{key: {"$lte": at}}, {"$or": [{key: {"$lt": at}}, {"_id": {"$lt": task_id}}]}]
        edge = None
        if listed.rest:
            edge = await self._edge(listed, {"$and": parts})
            if edge is not None:
                at, task_id = edge
                parts += [{key: {"$gte": at}}, {"$or": [{key: {"$gt": at}}, {"_id": {"$gte": task_id}}]}]
            parts += listed.rest

        async def read() -> list[Document]:
            found = self._tasks.find({"$and": parts}).sort([(key, -1), ("_id", -1)]).limit(limit + 1)
            return await found.hint(listed.index).to_list(limit + 1)

        documents = await self._database.repeat(read)
        if len(documents) > limit:
            last = documents[limit - 1]
            edge = last[key], last["_id"]
        return Page(tasks_from(documents[:limit]), write_cursor(*edge) if edge is not None else None)

    async def _edge(self, listed: "_Listing", query: Document) -> tuple[datetime, str] | None:
        """The last task that this page may look at; None: there are not so many. Read from the index alone, and before
        the page: what is new meanwhile comes before it."""

        async def read() -> list[Document]:
            found = self._tasks.find(query, {listed.key: 1, "_id": 1}).sort([(listed.key, -1), ("_id", -1)])
            return await found.skip(SCANNED - 1).limit(1).hint(listed.index).to_list(1)

        documents = await self._database.repeat(read)
        return (documents[0][listed.key], documents[0]["_id"]) if documents else None

    async def _listing(self, which: TaskFilter) -> "_Listing":
        status, created = which.status, _between(which.created_from, which.created_to)
        finished = _between(which.finished_from, which.finished_to)
        rest: list[Document] = []
        if which.tenant_id is not None:
            rest.append({"tenantId": which.tenant_id})
        if which.error is not None:
            text = {"$regex": re.escape(which.error), "$options": "i"}
            rest.append({"$or": [{"lastError.message": text}, {"lastError.type": text}]})
        if which.schedule_id is not None:
            rest += [{"status": status.value}] if status is not None else []
            rest += [{"taskType": which.task_type}] if which.task_type is not None else []
            rest += [{"finishedAt": finished}] if finished else []
            indexed: Document = {"scheduleId": which.schedule_id, "createdAt": {"$gt": _EPOCH, **created}}
            return _Listing(indexed, rest, "createdAt", "schedule")
        # Each type is a stretch of the index that is in order already; the server merges them.
        types = which.task_type if which.task_type is not None else {"$in": await self._types()}
        if status is None and not finished:
            return _Listing({"taskType": types, "createdAt": {"$gt": _EPOCH, **created}}, rest, "createdAt", "created")
        rest += [{"createdAt": created}] if created else []
        if status is TaskStatus.RUNNING:
            # The index holds what runs and nothing else; that is never much.
            rest += [{"taskType": which.task_type}] if which.task_type is not None else []
            rest += [{"finishedAt": finished}] if finished else []
            return _Listing({"processingAt": {"$gt": _EPOCH}}, rest, "processingAt", "stale")
        if status is TaskStatus.PENDING:
            rest += [{"finishedAt": finished}] if finished else []
            indexed = {"status": "pending", "taskType": types, "relayAt": {"$gt": _EPOCH}}
            return _Listing(indexed, rest, "relayAt", "relay")
        ends = [each.value for each in TaskStatus if each.finished] if status is None else [status.value]
        indexed = {"taskType": types, "status": {"$in": ends}, "finishedAt": {"$gt": _EPOCH, **finished}}
        return _Listing(indexed, rest, "finishedAt", "finished")

    async def _types(self) -> list[str]:
        """Every task type there is a task of: one index key for each."""
        return await self._database.repeat(lambda: self._tasks.distinct("taskType"))

    async def counts(self) -> dict[str, dict[TaskStatus, int]]:
        async def count(match: Document, hint: str) -> list[Document]:
            cursor = self._tasks.aggregate(
                [
                    {"$match": match},
                    {"$group": {"_id": {"type": "$taskType", "status": "$status"}, "count": {"$sum": 1}}},
                ],
                hint=hint,
            )
            return await cursor.to_list(None)

        # A range for each field of the index: so it is the index alone that is read, but for what runs.
        anything, epoch = {"$gt": ""}, {"$gt": _EPOCH}
        ended = {"taskType": anything, "status": anything, "finishedAt": epoch}
        pending = {"status": "pending", "taskType": anything, "relayAt": epoch}
        found = await self._database.repeat(lambda: count(ended, "finished"))
        found += await self._database.repeat(lambda: count({"processingAt": epoch}, "stale"))
        found += await self._database.repeat(lambda: count(pending, "relay"))
        counts: dict[str, dict[TaskStatus, int]] = {}
        for group in found:
            of_type = counts.setdefault(group["_id"]["type"], {})
            status = TaskStatus(group["_id"]["status"])
            of_type[status] = of_type.get(status, 0) + int(group["count"])
        return counts


def _lines(push: Document) -> list[HistoryEntry]:
    """What a push adds to a history."""
    return [HistoryEntry.model_validate(line) for line in push["history"]["$each"]]


def _is_that(stored: Task, task: Task) -> bool:
    """Whether it was this insert that stored it: one whose reply is lost is refused, when it comes again, by itself."""
    return (stored.id, stored.created_at) == (task.id, task.created_at)


@dataclass(frozen=True)
class _Listing:
    """A filter as an index serves it."""

    indexed: Document
    """What the index answers."""
    rest: list[Document]
    """What each task must be looked at for."""
    key: str
    """The field that orders the list."""
    index: str


def _between(start: datetime | None, end: datetime | None) -> Document:
    """Not before the one, and before the other."""
    return {name: at for name, at in (("$gte", start), ("$lt", end)) if at is not None}


def write_cursor(at: datetime, task_id: str) -> str:
    return urlsafe_b64encode(json.dumps([at.isoformat(), task_id]).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        at, task_id = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return to_instant(datetime.fromisoformat(at)), str(task_id).encode().decode()
    except (ValueError, TypeError, RecursionError):
        raise InvalidInput("cursor", cursor, "is no cursor", "use the one that the last page gave") from None
