"""Run-owned writes: claim, settle, save. Rules P1–P8 of docs/protocol.md."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from schemas.task import Progress, Task, TaskStatus
from service.clock import StoreClock
from service.states import Seen
from service.store.mongo.database import UNSTORABLE, Database, Document, is_passing, short
from service.store.mongo.documents import history_push, task_document, task_from
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


class MongoClaims(Claims):
    """Claims are filtered writes; who owns what is known from the answer, or read back by token."""

    def __init__(self, database: Database, clock: StoreClock) -> None:
        self._database, self._tasks, self._clock = database, database.tasks, clock

    # ---- claim -----------------------------------------------------------------------------------------------------------

    async def claim(self, requests: Sequence[ClaimRequest], worker: str) -> list[ClaimAnswer]:
        token = uuid4().hex
        if len(requests) == 1:
            return [await self._claim_one(requests[0], worker, token)]
        operations = [
            UpdateOne(self._claimable(request), self._claim_update(request, worker, token), upsert=request.record is not None)
            for request in requests
        ]
        created: set[int] = set()
        taken: dict[int, Document] = {}
        known = True
        try:
            result = await self._tasks.bulk_write(operations, ordered=False)
            created = set(result.upserted_ids or ())
        except BulkWriteError as error:
            details = error.details or {}
            taken = {problem["index"]: problem for problem in details.get("writeErrors", ())}
            if any(problem["code"] != 11000 for problem in taken.values()):
                return await self._claim_each(requests, worker)
            created = {entry["index"] for entry in details.get("upserted", ())}
            known = not details.get("writeConcernErrors")
        except UNSTORABLE:
            return await self._claim_each(requests, worker)
        except PyMongoError as error:
            if not is_passing(error):
                # One document that the server refuses must not fail its neighbours.
                return await self._claim_each(requests, worker)
            known = False
        if not known:
            created, taken = set(), {}
        return await self._answers(requests, worker, token, created, taken, known)

    async def _answers(
        self,
        requests: Sequence[ClaimRequest],
        worker: str,
        token: str,
        created: set[int],
        taken: dict[int, Document],
        known: bool,
    ) -> list[ClaimAnswer]:
        """Who owns what: created is mine; for the rest that did not err the token is read back (P7, P8)."""
        unsure = [request.id for index, request in enumerate(requests) if index not in created and index not in taken]
        mine = await self._mine(unsure, token) if unsure else {}
        answers: list[ClaimAnswer] = []
        for index, request in enumerate(requests):
            if index in created and request.record is not None:
                answers.append(Claimed(self._as_claimed(request.record, worker, token)))
            elif index in taken:
                answers.append(await self._refused(request, taken[index], worker))
            elif request.id in mine:
                answers.append(Claimed(mine[request.id]))
            elif known or await self._exists(request.id):
                answers.append(Known())
            elif request.record is None:
                answers.append(Known())
            else:
                answers.append(NotDone())
        return answers

    async def _claim_each(self, requests: Sequence[ClaimRequest], worker: str) -> list[ClaimAnswer]:
        return [await self._claim_one(request, worker, uuid4().hex) for request in requests]

    async def _claim_one(self, request: ClaimRequest, worker: str, token: str) -> ClaimAnswer:
        while True:
            try:
                document = await self._tasks.find_one_and_update(
                    self._claimable(request),
                    self._claim_update(request, worker, token),
                    upsert=request.record is not None,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError as error:
                answer = await self._duplicate(request, error.details or {})
                if answer is not None:
                    return answer
                continue  # the live one ended between the two: try again (P4)
            except UNSTORABLE as error:
                return Rejected(short(error))
            except PyMongoError as error:
                if not is_passing(error):
                    return Rejected(short(error))
                answers = await self._answers([request], worker, token, set(), {}, False)
                return answers[0]
            return Claimed(task_from(document)) if document is not None else Known()

    async def _refused(self, request: ClaimRequest, problem: Document, worker: str) -> ClaimAnswer:
        answer = await self._duplicate(request, problem)
        return answer if answer is not None else await self._claim_one(request, worker, uuid4().hex)

    async def _duplicate(self, request: ClaimRequest, problem: Document) -> ClaimAnswer | None:
        """A refused upsert: the id is known, or its live key belongs to another (P4); None: not any more."""
        key = request.record.live_key if request.record else None
        if key is None or "liveKey" not in problem.get("keyPattern", {"_id": 1}):
            return Known()
        return await note_request(self._database, self._clock, key, asked_by=request.id, ask_again=True)

    def _claimable(self, request: ClaimRequest) -> Document:
        return {"_id": request.id, "status": "pending", "retryAt": {"$lte": self._clock.now()}}

    def _claim_update(self, request: ClaimRequest, worker: str, token: str) -> Document:
        # Classic operators only: a pipeline would execute operators in a stranger's body.
        update: Document = {
            "$set": {"status": "running", "claimedBy": worker, "claimToken": token},
            "$currentDate": {"processingAt": True, "startedAt": True},
            "$inc": {"fence": 1, "attempt": 1},
            "$unset": {"relayAt": "", "again": ""},
        }
        if request.record is not None:
            record = task_document(request.record)
            for name in ("_id", "status", "fence", "attempt", "relayAt", "again"):
                record.pop(name, None)
            update["$setOnInsert"] = record
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

    async def _mine(self, ids: Sequence[str], token: str) -> dict[str, Task]:
        async def read() -> dict[str, Task]:
            cursor = self._tasks.find({"_id": {"$in": list(ids)}, "claimToken": token, "status": "running"})
            return {document["_id"]: task_from(document) async for document in cursor}

        return await self._database.repeat(read, _READ_BACK_SECONDS)

    async def _exists(self, task_id: str) -> bool:
        found = await self._database.repeat(lambda: self._tasks.find_one({"_id": task_id}, {"_id": 1}), _READ_BACK_SECONDS)
        return found is not None

    # ---- settle ----------------------------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[SettleAnswer]:
        operations = [UpdateOne(_owned(settlement), self._settle_update(settlement)) for settlement in settlements]
        try:
            result = await self._tasks.bulk_write(operations, ordered=False)
            if result.matched_count == len(settlements):
                return [Settled(settlement.move.status) for settlement in settlements]
        except PyMongoError as error:
            if not is_passing(error):
                return await self._settle_each(settlements, error)
        return await self._read_back(settlements)

    async def _settle_each(self, settlements: Sequence[Settlement], error: PyMongoError) -> list[SettleAnswer]:
        """One write that the server refuses must not fail its neighbours."""
        if len(settlements) == 1:
            raise error
        answers: list[SettleAnswer] = []
        for settlement in settlements:
            answers += await self.settle([settlement])
        return answers

    async def _read_back(self, settlements: Sequence[Settlement]) -> list[SettleAnswer]:
        """A short count, or no answer: the token tells what happened (P7, P8)."""

        async def read() -> dict[str, Document]:
            cursor = self._tasks.find(
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
        await self._database.repeat(lambda: self._tasks.bulk_write(operations, ordered=False))

    def _settle_update(self, settlement: Settlement) -> Document:
        return move_update(settlement, self._clock.now(), keep_token=True)

    async def save(self, task_id: str, token: str, *, progress: Progress | None, checkpoint: Any, keep_checkpoint: bool) -> bool:
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


def _owned(settlement: Settlement) -> Document:
    """The filter of a settle: the claim, and what its outcome assumes (P6)."""
    owned: Document = {
        "_id": settlement.id,
        "status": "running",
        "claimToken": settlement.token,
        "again": True if settlement.seen.again else {"$exists": False},
    }
    if settlement.move.guards_cancel:
        owned["cancelRequestedAt"] = {"$exists": settlement.seen.cancel_requested}
    return owned


def move_update(settlement: Settlement, now: datetime, *, keep_token: bool) -> Document:
    """A ``Move`` as one update. A settled task keeps its token, so that a lost reply can be read back; a rescued one does not."""
    move = settlement.move
    put: Document = {"status": move.status.value}
    drop: Document = {"processingAt": "", "claimedBy": ""}
    update: Document = {"$set": put, "$unset": drop}
    if not keep_token:
        drop["claimToken"] = ""
    if move.error is not None:
        put["lastError"] = move.error.model_dump(by_alias=True, exclude_none=True)
    if move.status is TaskStatus.PENDING:
        put["retryAt"] = settlement.retry_at
        put["relayAt"] = settlement.relay_at
        if move.new_run:
            put.update({"attempt": 0, "retryCount": 0})
            drop.update({"again": "", "cancelRequestedAt": "", "checkpoint": "", "progress": "", "reason": ""})
        elif move.give_back:
            update["$inc"] = {"attempt": -1}
        elif move.failed:
            update["$inc"] = {"retryCount": 1}
    else:
        update["$currentDate"] = {"finishedAt": True}
        drop["again"] = ""
        update["$rename"] = {"liveKey": "endedKey"}
        if move.status is TaskStatus.FAILED:
            put["relayAt"] = settlement.relay_at
        else:
            drop["relayAt"] = ""
        if move.status is not TaskStatus.COMPLETED and move.reason is not None:
            put["reason"] = move.reason
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
    live = await database.repeat(lambda: tasks.find_one({"liveKey": key}, {"status": 1}))
    if live is None:
        await asyncio.sleep(0)
        return None
    if live["_id"] == asked_by:
        return Known()
    if live["status"] == "pending" or not ask_again:
        return Deduplicated(live["_id"], again=False)
    asked = await database.repeat(
        lambda: tasks.update_one(
            {"_id": live["_id"], "liveKey": key, "status": "running"},
            {"$set": {"again": True}, "$push": history_push(clock.now(), "asked again", reason=f"by {asked_by}")},
        )
    )
    return Deduplicated(live["_id"], again=True) if asked.matched_count else None
