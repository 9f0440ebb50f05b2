"""Run-owned writes: claim, settle, save. Rules P1–P8 of docs/protocol.md."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from pymongo import UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from schemas.task import Progress, Task, TaskStatus
from service.clock import StoreClock
from service.errors import StoreUnavailable
from service.payload import safe_text
from service.states import COMPLETED, Seen
from service.store.mongo.database import (
    DUPLICATE_KEY,
    UNSTORABLE,
    Collection,
    Database,
    Document,
    change,
    is_passing,
    is_unstorable,
    short,
    translate,
)
from service.store.mongo.documents import asked_push, history_push, task_document, task_from
from service.store.mongo.heartbeat import MongoHeartbeatLink
from service.store.port import (
    Changed,
    ClaimAnswer,
    Claimed,
    ClaimRequest,
    Claims,
    Deduplicated,
    HeartbeatLink,
    Known,
    NotDone,
    Refused,
    Rejected,
    SettleAnswer,
    Settled,
    Settlement,
)

_READ_BACK_SECONDS = 20.0
"""Below the 30 s a delivery may be held (P10)."""
_NOTE_EVERY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class _Inserted:
    """What became of the new records of a batch, by index."""

    created: frozenset[int] = frozenset()
    taken: Mapping[int, Document] = field(default_factory=dict)
    """Their live key belongs to another."""
    alone: frozenset[int] = frozenset()
    """Failed for reasons of their own; tried again each by itself."""
    sure: bool = True
    """The reply came."""


class MongoClaims(Claims):
    """Claims are filtered writes; who owns what is known from the answer, or read back by token."""

    def __init__(self, database: Database, clock: StoreClock) -> None:
        self._database, self._tasks, self._clock = database, database.tasks, clock

    # ---- claim -------------------------------------------------------------------------------------------------------

    async def claim(self, requests: Sequence[ClaimRequest], worker: str, token: str | None = None) -> list[ClaimAnswer]:
        if len({request.id for request in requests}) != len(requests):
            raise ValueError("the ids of one claim batch must be distinct")
        token = token or uuid4().hex
        if len(requests) <= 1:
            return [await self._claim_one(request, worker, token) for request in requests]
        fresh = {
            index: self._as_claimed(request.record, worker, token)
            for index, request in enumerate(requests)
            if request.record is not None
        }
        inserted = await self._insert(fresh)
        rest = [
            request.id
            for index, request in enumerate(requests)
            if not (index in inserted.created or index in inserted.taken or index in inserted.alone)
        ]
        touched, sure = await self._take(rest, worker, token)
        return await self._answers(requests, fresh, token, worker, inserted, touched, sure and inserted.sure)

    async def _insert(self, fresh: Mapping[int, Task]) -> "_Inserted":
        """Most foreign messages are new: an insert costs the server a sixth of an upsert. What is known is taken as
        stored."""
        if not fresh:
            return _Inserted()
        indexes = list(fresh)
        try:
            await self._tasks.insert_many([task_document(task) for task in fresh.values()], ordered=False)
            return _Inserted(created=frozenset(indexes))
        except BulkWriteError as error:
            details = error.details or {}
            if details.get("writeConcernErrors"):
                return _Inserted(sure=False)
            problems = {indexes[problem["index"]]: problem for problem in details.get("writeErrors", ())}
            duplicates = {index: problem for index, problem in problems.items() if problem["code"] == DUPLICATE_KEY}
            return _Inserted(
                created=frozenset(indexes) - problems.keys(),
                taken={index: problem for index, problem in duplicates.items() if _is_live_key(problem)},
                alone=frozenset(problems.keys() - duplicates.keys()),
            )
        except (PyMongoError, *UNSTORABLE) as error:
            if isinstance(error, PyMongoError) and is_passing(error):
                return _Inserted(sure=False)
            # One document that cannot be encoded, or that the server refuses, must not fail its neighbours.
            return _Inserted(alone=frozenset(indexes))

    async def _take(self, ids: Sequence[str], worker: str, token: str) -> tuple[bool, bool]:
        """Claim what is stored, in one write; whether it may have met any, and whether its reply came.

        One update of many costs the server a third of many updates, each of which it would also note for a retry.
        """
        if not ids:
            return False, True
        try:
            which = {"_id": {"$in": ids}, **self._eligible()}
            result = await self._tasks.update_many(which, _claim_update(worker, token))
        except PyMongoError as error:
            if not is_passing(error):
                raise translate(error, self._database.url) from error
            return True, False
        return result.matched_count > 0, True

    async def _answers(
        self,
        requests: Sequence[ClaimRequest],
        fresh: Mapping[int, Task],
        token: str,
        worker: str,
        inserted: "_Inserted",
        touched: bool,
        sure: bool,
    ) -> list[ClaimAnswer]:
        """Who owns what. Created is mine, taken is not; of the rest, what bears the token is mine (P7, P8).

        Not ``touched``: none of the rest bears it. Not ``sure``: a reply was lost.
        """
        created, taken, alone = inserted.created, inserted.taken, inserted.alone
        unclear = [request.id for index, request in enumerate(requests) if index not in created and index not in taken]
        tasks = self._tasks if sure else self._database.settled_tasks
        mine = await self._mine(tasks, unclear, token) if touched or alone or not sure else {}
        unsure = [] if sure else [task_id for task_id in unclear if task_id not in mine]
        known = await self._known(tasks, unsure)
        answers: dict[int, ClaimAnswer] = {}
        asking: dict[int, Awaitable[ClaimAnswer]] = {}
        for index, request in enumerate(requests):
            if index in created:
                answers[index] = Claimed(fresh[index])
            elif request.id in mine:
                answers[index] = Claimed(mine[request.id])
            elif index in taken:
                asking[index] = self._surely(self._refused(request, taken[index], worker, token))
            elif index in alone:
                asking[index] = self._surely(self._claim_one(request, worker, token))
            elif sure or request.record is None or request.id in known:
                answers[index] = Known()
            else:
                answers[index] = NotDone()
        answers.update(zip(asking, await asyncio.gather(*asking.values()), strict=True))
        return [answers[index] for index in range(len(requests))]

    async def _surely(self, answer: Awaitable[ClaimAnswer]) -> ClaimAnswer:
        """One cannot cost its neighbours their answers: what is not known by now is left to the next delivery."""
        try:
            return await answer
        except StoreUnavailable:
            return NotDone()

    async def _claim_one(self, request: ClaimRequest, worker: str, token: str) -> ClaimAnswer:
        while True:
            try:
                document = await change(
                    self._tasks,
                    {"_id": request.id, **self._eligible()},
                    self._upsert(request, worker, token),
                    upsert=request.record is not None,
                )
            except DuplicateKeyError as error:
                answer = await self._duplicate(request, error.details or {})
                if answer is not None:
                    return answer
                continue  # the live one ended between the two: try again (P4)
            except (PyMongoError, *UNSTORABLE) as error:
                if isinstance(error, PyMongoError) and is_passing(error):
                    lost = _Inserted(sure=False)
                    return (await self._answers([request], {}, token, worker, lost, touched=True, sure=False))[0]
                if request.record is not None and is_unstorable(error):
                    return Rejected(short(error))
                raise translate(error, self._database.url) from error
            return Claimed(task_from(document)) if document is not None else Known()

    async def _refused(self, request: ClaimRequest, problem: Document, worker: str, token: str) -> ClaimAnswer:
        answer = await self._duplicate(request, problem)
        return answer if answer is not None else await self._claim_one(request, worker, token)

    async def _duplicate(self, request: ClaimRequest, problem: Mapping[str, Any]) -> ClaimAnswer | None:
        """A refused upsert: the id is known, or its live key belongs to another (P4); None: not any more."""
        key = request.record.live_key if request.record else None
        if key is None or not _is_live_key(problem):
            return Known()
        return await note_request(self._database, self._clock, key, asked_by=request.id, ask_again=True)

    def _eligible(self) -> Document:
        return {"status": "pending", "retryAt": {"$lte": self._clock.now()}}

    def _upsert(self, request: ClaimRequest, worker: str, token: str) -> Document:
        update = _claim_update(worker, token)
        if request.record is not None:
            written = {"_id", *(name for part in update.values() for name in part)}
            record = task_document(request.record)
            update["$setOnInsert"] = {name: value for name, value in record.items() if name not in written}
        return update

    def _as_claimed(self, record: Task, worker: str, token: str) -> Task:
        now = self._clock.now()
        return record.model_copy(
            update={
                "status": TaskStatus.RUNNING,
                "claimed_by": worker,
                "claim_token": token,
                "processing_at": now,
                "started_at": now,
                "fence": 1,
                "attempt": 1,
                "relay_at": None,
            }
        )

    async def _mine(self, tasks: Collection, ids: Sequence[str], token: str) -> dict[str, Task]:
        async def read() -> dict[str, Task]:
            mine = {"_id": {"$in": ids}, "claimToken": token, "status": "running"}
            documents = await tasks.find(mine, batch_size=len(ids) + 1).to_list(None)
            return {document["_id"]: task_from(document) for document in documents}

        return await self._database.repeat(read, _READ_BACK_SECONDS) if ids else {}

    async def _known(self, tasks: Collection, ids: Sequence[str]) -> set[str]:
        async def read() -> set[str]:
            return {document["_id"] async for document in tasks.find({"_id": {"$in": ids}}, {"_id": 1})}

        return await self._database.repeat(read, _READ_BACK_SECONDS) if ids else set()

    # ---- settle ------------------------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[SettleAnswer]:
        if not settlements:
            return []
        now = self._clock.now()
        try:
            # An update of many is never noted by the server for a retry, which costs as much as the update; a lost
            # reply is read back by token anyway.
            operations = [
                UpdateMany(
                    {"_id": {"$in": [settlement.id for settlement in alike]}, **_owned(alike[0])},
                    move_update(alike[0], now, keep_token=True),
                )
                for alike in _alike(settlements)
            ]
            result = await self._tasks.bulk_write(operations, ordered=False)
            if result.matched_count == len(settlements):
                return [Settled(settlement.move.status) for settlement in settlements]
        except (PyMongoError, *UNSTORABLE) as error:
            if is_unstorable(error):
                return await self._settle_each(settlements, error)
            if not isinstance(error, PyMongoError) or not is_passing(error):
                raise translate(error, self._database.url) from error
        return await self._read_back(settlements)

    async def _settle_each(self, settlements: Sequence[Settlement], error: Exception) -> list[SettleAnswer]:
        """One result that cannot be kept must not fail its neighbours, nor keep its own run from ending."""
        if len(settlements) > 1:
            return [(await self.settle([settlement]))[0] for settlement in settlements]
        settlement = settlements[0]
        if settlement.result is None:
            raise translate(error, self._database.url) from error
        note = replace(
            settlement.move, event=settlement.move.event or "note", reason=f"the result was not kept: {short(error)}"
        )
        return await self.settle([replace(settlement, result=None, move=note)])

    async def _read_back(self, settlements: Sequence[Settlement]) -> list[SettleAnswer]:
        """A short count, or no reply: the token tells what happened (P7, P8)."""

        async def read() -> dict[str, Document]:
            cursor = self._database.settled_tasks.find(
                {"_id": {"$in": [settlement.id for settlement in settlements]}},
                {"status": 1, "claimToken": 1, "again": 1, "cancelRequestedAt": 1},
            )
            return {document["_id"]: document async for document in cursor}

        found = await self._database.repeat(read, _READ_BACK_SECONDS)
        answers: list[SettleAnswer] = []
        refused = []
        for settlement in settlements:
            document = found.get(settlement.id)
            if document is None or document.get("claimToken") != settlement.token:
                refused.append(settlement)
                answers.append(Refused())
            elif document["status"] == "running":
                answers.append(Changed(Seen(document.get("again", False), "cancelRequestedAt" in document)))
            else:
                answers.append(Settled(TaskStatus(document["status"])))
        await self._note_refused(refused)
        return answers

    async def _note_refused(self, refused: Sequence[Settlement]) -> None:
        if not refused:
            return
        now = self._clock.now()
        operations = [
            UpdateOne(
                {"_id": item.id},
                {
                    "$push": history_push(
                        now,
                        "refused",
                        reason=f"{item.move.event or item.move.status}: the claim was lost",
                        worker=item.worker,
                        fence=item.fence,
                    )
                },
            )
            for item in refused
        ]
        # Only a line of history: what is known of the settlements is worth more.
        with suppress(StoreUnavailable):
            await self._database.once(lambda: self._tasks.bulk_write(operations, ordered=False))

    async def save(
        self, task_id: str, token: str, *, progress: Progress | None, checkpoint: Any, keep_checkpoint: bool
    ) -> bool:
        fields: Document = {}
        if progress is not None:
            fields["progress"] = progress.model_dump(by_alias=True, exclude_none=True)
        if keep_checkpoint:
            fields["checkpoint"] = checkpoint
        if not fields:
            return True
        result = await self._database.repeat(
            lambda: self._tasks.update_one({"_id": task_id, "status": "running", "claimToken": token}, {"$set": fields})
        )
        return result.matched_count == 1

    def heartbeat(self) -> HeartbeatLink:
        return MongoHeartbeatLink(self._database.url, self._database.name, self._clock)


def _is_live_key(problem: Mapping[str, Any]) -> bool:
    """Whether a duplicate key is a live key, and not an id."""
    return "liveKey" in problem.get("keyPattern", {"_id": 1})


def _claim_update(worker: str, token: str) -> Document:
    # Classic operators only: a pipeline would execute operators in a stranger's body.
    return {
        "$set": {"status": "running", "claimedBy": worker, "claimToken": token},
        "$currentDate": {"processingAt": True, "startedAt": True},
        "$inc": {"fence": 1, "attempt": 1},
        "$unset": {"relayAt": "", "again": ""},
    }


def _alike(settlements: Sequence[Settlement]) -> list[list[Settlement]]:
    """Those that one update can write: what a batch claimed and completed without more to say differs in its ids
    only."""
    groups: dict[object, list[Settlement]] = {}
    for settlement in settlements:
        plain = settlement.move == COMPLETED and settlement.result is None
        key = (settlement.token, settlement.seen) if plain else (settlement.id, settlement.token)
        groups.setdefault(key, []).append(settlement)
    return list(groups.values())


def _owned(settlement: Settlement) -> Document:
    """The filter of a settle: the claim, and what its outcome assumes (P6)."""
    owned: Document = {
        "status": "running",
        "claimToken": settlement.token,
        "again": True if settlement.seen.again else {"$exists": False},
    }
    if settlement.move.guards_cancel:
        owned["cancelRequestedAt"] = {"$exists": settlement.seen.cancel_requested}
    return owned


def move_update(settlement: Settlement, now: datetime, *, keep_token: bool) -> Document:
    """A ``Move`` as one update.

    A settled task keeps its token, so that a lost reply can be read back; a rescued one does not.
    """
    move = settlement.move
    put: Document = {"status": move.status.value}
    drop: Document = {"processingAt": "", "claimedBy": ""}
    update: Document = {"$set": put, "$unset": drop}
    if not keep_token:
        drop["claimToken"] = ""
    if move.error is not None:
        put["lastError"] = move.error.model_dump(by_alias=True, exclude_none=True)
    if move.status is TaskStatus.PENDING:
        # Never without either: a pending task that relay does not see could wait for ever.
        put["retryAt"] = settlement.retry_at or move.retry_at or now
        put["relayAt"] = settlement.relay_at or put["retryAt"]
        if move.new_run:
            put.update({"attempt": 0, "retryCount": 0})
            drop.update(
                {
                    "cancelForced": "",
                    "again": "",
                    "cancelRequestedAt": "",
                    "checkpoint": "",
                    "progress": "",
                    "reason": "",
                }
            )
        elif move.give_back:
            update["$inc"] = {"attempt": -1}
        elif move.failed:
            update["$inc"] = {"retryCount": 1}
    else:
        update["$currentDate"] = {"finishedAt": True}
        drop["again"] = ""
        update["$rename"] = {"liveKey": "endedKey"}
        if move.status is TaskStatus.FAILED:
            put["relayAt"] = settlement.relay_at or now
        else:
            drop["relayAt"] = ""
        if move.status is not TaskStatus.COMPLETED and move.reason is not None:
            put["reason"] = safe_text(move.reason)
        if move.status is TaskStatus.COMPLETED and settlement.result is not None:
            put["result"] = settlement.result
        if move.failed:
            update["$inc"] = {"retryCount": 1}
    if move.event is not None:
        update["$push"] = history_push(
            now, move.event, reason=move.reason, worker=settlement.worker, fence=settlement.fence
        )
    return update


async def note_request(
    database: Database, clock: StoreClock, key: str, *, asked_by: str, ask_again: bool
) -> Deduplicated | Known | None:
    """A request whose live key is taken: noted on the live task (P4, P5). None: the live one has ended meanwhile."""
    tasks = database.tasks
    live = await database.repeat(lambda: tasks.find_one({"liveKey": key}, {"status": 1, "askedBy": {"$slice": -1}}))
    if live is None:
        await asyncio.sleep(0.01)  # its end may not be visible everywhere yet: the caller tries again
        return None
    if live["_id"] == asked_by:
        return Known()
    now = clock.now()
    if live["status"] == "pending" or not ask_again:
        if ask_again and _may_note(live, now):
            # For whoever asks why that id never ran: nothing depends on it.
            with suppress(StoreUnavailable):
                note = {"$push": asked_push(now, asked_by)}
                await database.once(lambda: tasks.update_one({"_id": live["_id"], "liveKey": key}, note))
        return Deduplicated(live["_id"], again=False)
    push = history_push(now, "asked again", reason=f"by {asked_by}") | asked_push(now, asked_by)
    asked = await database.repeat(
        lambda: tasks.update_one(
            {"_id": live["_id"], "liveKey": key, "status": "running"}, {"$set": {"again": True}, "$push": push}
        )
    )
    return Deduplicated(live["_id"], again=True) if asked.matched_count else None


def _may_note(live: Document, now: datetime) -> bool:
    """At most once a second: a name that is asked for again and again must not cost a write each time."""
    last = live.get("askedBy")
    return not last or now - last[-1]["at"] >= _NOTE_EVERY
