"""Run-owned writes: claim, settle, save. Rules P1–P8 of docs/protocol.md."""

import asyncio
from collections.abc import Awaitable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from schemas.task import Progress, Task, TaskStatus
from service.clock import StoreClock
from service.errors import StoreUnavailable
from service.payload import safe_text
from service.states import Seen
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

    # ---- claim -------------------------------------------------------------------------------------------------------

    async def claim(self, requests: Sequence[ClaimRequest], worker: str) -> list[ClaimAnswer]:
        if len({request.id for request in requests}) != len(requests):
            raise ValueError("the ids of one claim batch must be distinct")
        if len(requests) <= 1:
            return [await self._claim_one(request, worker) for request in requests]
        token = uuid4().hex
        operations = [
            UpdateOne(
                self._claimable(request), self._claim_update(request, worker, token), upsert=request.record is not None
            )
            for request in requests
        ]
        created: set[int] = set()
        taken: dict[int, Document] = {}
        alone: set[int] = set()
        sure = True
        try:
            result = await self._tasks.bulk_write(operations, ordered=False)
            created = set(result.upserted_ids or ())
        except BulkWriteError as error:
            details = error.details or {}
            problems = {problem["index"]: problem for problem in details.get("writeErrors", ())}
            sure = not details.get("writeConcernErrors")
            if sure:
                created = {entry["index"] for entry in details.get("upserted", ())}
                taken = {index: problem for index, problem in problems.items() if problem["code"] == DUPLICATE_KEY}
            alone = problems.keys() - taken.keys()
        except (PyMongoError, *UNSTORABLE) as error:
            if isinstance(error, PyMongoError) and is_passing(error):
                sure = False
            else:
                # One document that cannot be encoded, or that the server refuses, must not fail its neighbours.
                alone = set(range(len(requests)))
        return await self._answers(requests, worker, token, created, taken, alone, sure)

    async def _answers(
        self,
        requests: Sequence[ClaimRequest],
        worker: str,
        token: str,
        created: Container[int],
        taken: Mapping[int, Document],
        alone: Container[int],
        sure: bool,
    ) -> list[ClaimAnswer]:
        """Who owns what. Created is mine; ``taken`` is not; of the rest, what bears the token is mine (P7, P8).

        ``alone``: failed in the batch for reasons of its own; tried again by itself. Not ``sure``: the reply was lost.
        """
        unclear = [request.id for index, request in enumerate(requests) if index not in created and index not in taken]
        tasks = self._tasks if sure else self._database.settled_tasks
        mine = await self._mine(tasks, unclear, token)
        unsure = [] if sure else [task_id for task_id in unclear if task_id not in mine]
        known = await self._known(tasks, unsure)
        answers: dict[int, ClaimAnswer] = {}
        asking: dict[int, Awaitable[ClaimAnswer]] = {}
        for index, request in enumerate(requests):
            if index in created and request.record is not None:
                answers[index] = Claimed(self._as_claimed(request.record, worker, token))
            elif request.id in mine:
                answers[index] = Claimed(mine[request.id])
            elif index in taken:
                asking[index] = self._surely(self._refused(request, taken[index], worker))
            elif index in alone:
                asking[index] = self._surely(self._claim_one(request, worker))
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

    async def _claim_one(self, request: ClaimRequest, worker: str) -> ClaimAnswer:
        while True:
            token = uuid4().hex
            try:
                document = await change(
                    self._tasks,
                    self._claimable(request),
                    self._claim_update(request, worker, token),
                    upsert=request.record is not None,
                )
            except DuplicateKeyError as error:
                answer = await self._duplicate(request, error.details or {})
                if answer is not None:
                    return answer
                continue  # the live one ended between the two: try again (P4)
            except (PyMongoError, *UNSTORABLE) as error:
                if isinstance(error, PyMongoError) and is_passing(error):
                    return (await self._answers([request], worker, token, (), {}, (), sure=False))[0]
                if request.record is not None and is_unstorable(error):
                    return Rejected(short(error))
                raise translate(error, self._database.url) from error
            return Claimed(task_from(document)) if document is not None else Known()

    async def _refused(self, request: ClaimRequest, problem: Document, worker: str) -> ClaimAnswer:
        answer = await self._duplicate(request, problem)
        return answer if answer is not None else await self._claim_one(request, worker)

    async def _duplicate(self, request: ClaimRequest, problem: Mapping[str, Any]) -> ClaimAnswer | None:
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
            cursor = tasks.find({"_id": {"$in": ids}, "claimToken": token, "status": "running"})
            return {document["_id"]: task_from(document) async for document in cursor}

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
            operations = [
                UpdateOne(_owned(settlement), move_update(settlement, now, keep_token=True))
                for settlement in settlements
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
    live = await database.repeat(lambda: tasks.find_one({"liveKey": key}, {"status": 1}))
    if live is None:
        await asyncio.sleep(0.01)  # its end may not be visible everywhere yet: the caller tries again
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
