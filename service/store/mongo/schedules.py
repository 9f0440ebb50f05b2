"""Schedules and their fires. Rules P17–P19 of docs/protocol.md."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pymongo import DeleteOne, InsertOne, ReturnDocument, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from schemas.schedule import RECENT, Firing, RecentRun, Schedule, Skip
from schemas.task import TaskStatus
from service.clock import StoreClock
from service.errors import Conflict
from service.store.mongo.database import DUPLICATE_KEY, REPEAT_SECONDS, Database, Document, change, translate
from service.store.mongo.documents import schedule_document, schedule_from
from service.store.port import Edit, FireClaim, FireEnd, RunEnd, Schedules

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENGINE_FIELDS = frozenset(
    {
        "firing",
        "lastFireAt",
        "lastTaskId",
        "lastStatus",
        "lastEndedAt",
        "lastSuccessAt",
        "lastDurationMs",
        "skipped",
        "recentSkips",
        "recentRuns",
        "overdueSince",
        "createdAt",
    }
)
"""What the engine keeps of a schedule: an edit leaves it alone."""
_BRIEF = {"recentSkips": 0, "recentRuns": 0}
"""Most of a record, and of no use to whoever reads all that are due."""
_SET = "schedules"
"""The whole set, among the revisions."""


class MongoSchedules(Schedules):
    """Compare-and-set everywhere; no lock, no leader."""

    def __init__(self, database: Database, clock: StoreClock) -> None:
        self._database, self._schedules, self._clock = database, database.schedules, clock

    async def all(self, *, recent: bool = False) -> list[Schedule]:
        return await self._read({}, "_id", 0, None if recent else _BRIEF)

    async def get(self, schedule_id: str) -> Schedule | None:
        document = await self._database.repeat(lambda: self._schedules.find_one({"_id": schedule_id}))
        return schedule_from(document) if document is not None else None

    async def upcoming(self, limit: int) -> list[Schedule]:
        return await self._read(
            {"nextFireAt": {"$gt": _EPOCH}, "firing": {"$exists": False}, "enabled": True}, "nextFireAt", limit
        )

    async def open_fires(self) -> list[Schedule]:
        return await self._read({"firing": {"$exists": True}}, "firing.at", 0)

    async def _read(self, query: Document, order: str, limit: int, fields: Document | None = _BRIEF) -> list[Schedule]:
        async def read() -> list[Document]:
            return await self._schedules.find(query, fields).sort(order, 1).limit(limit).to_list(None)

        return [schedule_from(document) for document in await self._database.repeat(read)]

    async def revision(self) -> int:
        document = await self._database.repeat(lambda: self._database.revisions.find_one({"_id": _SET}))
        return document["revision"] if document is not None else 0

    async def write(
        self,
        create: Sequence[Schedule] = (),
        edit: Sequence[Edit] = (),
        delete: Sequence[Schedule] = (),
        *,
        revision: int | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + REPEAT_SECONDS
        while True:
            try:
                return await self._database.once(lambda: self._transact(create, edit, delete, revision))
            except _Undone as error:
                if loop.time() > until:
                    raise translate(error.reason, self._database.url) from error
                await asyncio.sleep(0.05)

    async def _transact(
        self, create: Sequence[Schedule], edit: Sequence[Edit], delete: Sequence[Schedule], revision: int | None
    ) -> None:
        async with await self._database.client.start_session() as session:
            try:
                async with session.start_transaction():
                    highest = await self._count(revision, delete, session)
                    edits = await self._current(edit, delete, session)
                    operations: list[InsertOne[Document] | UpdateOne | DeleteOne] = [
                        *(self._create(schedule, highest + 1) for schedule in create),
                        *map(self._edit, edits),
                        *(DeleteOne(_as_read(schedule)) for schedule in delete),
                    ]
                    if operations:
                        done = await self._schedules.bulk_write(operations, session=session)
                        if done.matched_count + done.deleted_count != len(edits) + len(delete):
                            raise Conflict("a schedule is written twice at once; name each once")
            except BulkWriteError as error:
                if any(problem["code"] == DUPLICATE_KEY for problem in error.details["writeErrors"]):
                    raise Conflict("a schedule of that id exists already; look again") from error
                raise
            except PyMongoError as error:
                # Nothing happened, says the server: another transaction was quicker, or the primary changed.
                if error.has_error_label("TransientTransactionError"):
                    raise _Undone(error) from error
                raise

    async def _count(self, revision: int | None, delete: Sequence[Schedule], session: Any) -> int:
        """Two transactions that write one document conflict, whatever else they write: no replacement misses a
        schedule that appears beside it.

        The document keeps the highest revision that a deleted schedule had, which is returned: a new one of its id
        begins above it, so that who has read the old one does not take it for the same.
        """
        document: Document = await self._database.revisions.find_one_and_update(
            {"_id": _SET},
            {"$inc": {"revision": 1}, "$max": {"deleted": max((each.revision for each in delete), default=0)}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if revision is not None and revision != document["revision"] - 1:
            raise Conflict("the schedules were changed meanwhile; look again")
        highest: int = document["deleted"]
        return highest

    async def _current(self, edits: Sequence[Edit], delete: Sequence[Schedule], session: Any) -> list[Edit]:
        """The edits of what is as it was read, or has only fired since. It stays so: else the transaction would fail.
        Raises Conflict."""
        read = [*(edit.before for edit in edits), *delete]
        if not read:
            return []
        found = self._schedules.find({"_id": {"$in": [schedule.id for schedule in read]}}, _BRIEF, session=session)
        present = {document["_id"]: schedule_from(document) for document in await found.to_list(None)}
        for schedule in read:
            if schedule.id not in present or present[schedule.id].revision != schedule.revision:
                raise Conflict(f"schedule {schedule.id!r} was changed meanwhile; look again")
        return [_rebased(edit, present[edit.before.id]) for edit in edits]

    def _create(self, schedule: Schedule, revision: int) -> InsertOne[Document]:
        now = self._clock.now()
        return InsertOne(schedule_document(schedule) | {"revision": revision, "updatedAt": now, "createdAt": now})

    def _edit(self, edit: Edit) -> UpdateOne:
        document = schedule_document(edit.after) | {
            "revision": edit.before.revision + 1,
            "updatedAt": self._clock.now(),
        }
        untouched = {"_id"} | _ENGINE_FIELDS
        if not edit.times_changed:
            # A fire since the reading has moved it on.
            untouched.add("nextFireAt")
        update: Document = {"$set": {name: value for name, value in document.items() if name not in untouched}}
        names = {info.alias or name for name, info in Schedule.model_fields.items() if name != "id"}
        if gone := names - document.keys() - untouched:
            update["$unset"] = dict.fromkeys(gone, "")
        return UpdateOne(_as_read(edit.before), update)

    # ---- fires -------------------------------------------------------------------------------------------------------

    async def begin_fires(self, fires: Sequence[FireClaim], by: str) -> list[Schedule]:
        now = self._clock.now()
        # Unique to this call: a fire of ours whose reply was lost is not mistaken for one of this batch.
        owner = f"{by}/{uuid4().hex[:12]}"
        # Many are due in the same second, to the same next one: one update of all of them costs a fraction of one each.
        alike: dict[object, list[FireClaim]] = {}
        for fire in fires:
            due = fire.schedule.next_fire_at
            if due is not None and due <= now:
                same = (fire.schedule.revision, due, fire.fire_at, fire.next_fire_at)
                alike.setdefault(same if fire.skip is None else fire.schedule.id, []).append(fire)
        operations = [
            UpdateMany(
                {
                    "_id": {"$in": [fire.schedule.id for fire in group]},
                    "revision": group[0].schedule.revision,
                    "enabled": True,
                    "nextFireAt": group[0].schedule.next_fire_at,
                    "firing": {"$exists": False},
                },
                self._begin_update(group[0], now, owner),
            )
            for group in alike.values()
        ]
        if not operations:
            return []
        # A lost reply is left to take-over: `firing` tells whoever looks in 5 s.
        await self._database.once(lambda: self._schedules.bulk_write(operations, ordered=False))
        ids = [fire.schedule.id for fire in fires]
        return await self._read({"_id": {"$in": ids}, "firing.by": owner}, "_id", 0)

    @staticmethod
    def _begin_update(fire: FireClaim, now: datetime, owner: str) -> Document:
        put: Document = {}
        update: Document = {"$set": put}
        if fire.next_fire_at is not None:
            put["nextFireAt"] = fire.next_fire_at
        else:
            update["$unset"] = {"nextFireAt": ""}
        if fire.fire_at is not None:
            put["firing"] = {"fireAt": fire.fire_at, "at": now, "by": owner}
        update.update(_skipping(fire.skip))
        if not put:
            del update["$set"]
        return update

    async def take_over(self, schedule: Schedule, by: str) -> Schedule | None:
        firing = schedule.firing
        if firing is None:
            return None
        document = await self._database.once(
            lambda: change(
                self._schedules,
                _held(schedule.id, firing),
                {"$set": {"firing.at": self._clock.now(), "firing.by": f"{by}/{uuid4().hex[:12]}"}},
            )
        )
        return schedule_from(document) if document is not None else None

    async def end_fires(self, ends: Sequence[FireEnd]) -> None:
        operations = [self._end(end) for end in ends if end.schedule.firing is not None]
        if operations:
            await self._database.repeat(lambda: self._schedules.bulk_write(operations, ordered=False))

    @staticmethod
    def _end(end: FireEnd) -> UpdateOne:
        firing = end.schedule.firing
        assert firing is not None
        update: Document = {"$unset": {"firing": ""}}
        if end.task_id is not None:
            update["$set"] = {"lastFireAt": firing.fire_at, "lastTaskId": end.task_id}
        return UpdateOne(_held(end.schedule.id, firing), update | _skipping(end.skip))

    async def record_runs(self, ends: Sequence[RunEnd]) -> None:
        operations = []
        for end in ends:
            last: Document = {"lastStatus": end.status.value, "lastDurationMs": end.duration_ms, "lastEndedAt": end.at}
            older = {"$or": [{"lastEndedAt": {"$exists": False}}, {"lastEndedAt": {"$lte": end.at}}]}
            operations.append(UpdateOne({"_id": end.schedule_id, **older}, {"$set": last}))
            operations.append(self._remember(end))
        if operations:
            await self._database.repeat(lambda: self._schedules.bulk_write(operations))

    @staticmethod
    def _remember(end: RunEnd) -> UpdateOne:
        """By itself: what is noted late takes its place among the others, and a late success still counts, although
        a later run has failed. Repeated, it changes nothing."""
        run = RecentRun(task_id=end.task_id, status=end.status, at=end.at, duration_ms=end.duration_ms)
        known = {"$elemMatch": {"taskId": end.task_id, "at": end.at}}
        entry = run.model_dump(by_alias=True) | {"status": end.status.value}
        update: Document = {"$push": {"recentRuns": {"$each": [entry], "$sort": {"at": 1}, "$slice": -RECENT}}}
        if end.status is TaskStatus.COMPLETED:
            update["$max"] = {"lastSuccessAt": end.at}
        return UpdateOne({"_id": end.schedule_id, "recentRuns": {"$not": known}}, update)

    async def mark_overdue(self, schedule: Schedule, since: datetime | None) -> bool:
        as_read = {
            "_id": schedule.id,
            "revision": schedule.revision,
            "lastSuccessAt": schedule.last_success_at,
            "overdueSince": schedule.overdue_since,
        }
        update = {"$set": {"overdueSince": since}} if since is not None else {"$unset": {"overdueSince": ""}}
        result = await self._database.once(lambda: self._schedules.update_one(as_read, update))
        return result.matched_count == 1


def _rebased(edit: Edit, present: Schedule) -> Edit:
    """An instant that has fired since it was read must not come again with times that were computed before. Raises
    Conflict."""
    if not edit.times_changed or present.next_fire_at == edit.before.next_fire_at:
        return edit
    if edit.rebased is None:
        raise Conflict(f"schedule {edit.before.id!r} has fired meanwhile; look again")
    return Edit(present, edit.rebased(present))


def _as_read(schedule: Schedule) -> Document:
    return {"_id": schedule.id, "revision": schedule.revision}


def _skipping(skip: Skip | None) -> Document:
    """The part of an update that counts due instants without a task, and says why."""
    if skip is None:
        return {}
    entry = skip.model_dump(by_alias=True, exclude_none=True) | {"reason": skip.reason.value}
    return {
        "$inc": {f"skipped.{skip.reason.value}": skip.count},
        "$push": {"recentSkips": {"$each": [entry], "$slice": -RECENT}},
    }


def _held(schedule_id: str, firing: Firing) -> Document:
    """A fire as one holder knows it: whoever takes it over changes the time and the name (P18)."""
    return {"_id": schedule_id, "firing.fireAt": firing.fire_at, "firing.at": firing.at, "firing.by": firing.by}


class _Undone(Exception):
    """A transaction of which nothing is left; it may be tried again."""

    def __init__(self, reason: PyMongoError) -> None:
        self.reason = reason
