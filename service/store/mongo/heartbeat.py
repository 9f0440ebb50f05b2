"""The heartbeat's own link: the synchronous driver, in a thread, so that a blocked event loop cannot lose claims."""

from typing import Any

from pymongo import MongoClient, UpdateOne, timeout
from pymongo.errors import PyMongoError

from service.clock import StoreClock
from service.store.mongo.database import GOODBYE_SECONDS, OPTIONS, Document, translate
from service.store.port import Beat, BeatReply, HeartbeatLink


class MongoHeartbeatLink(HeartbeatLink):
    """One client with one connection."""

    def __init__(self, url: str, name: str, clock: StoreClock) -> None:
        self._url, self._clock = url, clock
        self._client: MongoClient[Document] = MongoClient(url, **OPTIONS, maxPoolSize=2, connect=False)
        database = self._client[name]
        self._tasks, self._workers, self._types = database["tasks"], database["workers"], database["task_types"]

    def beat(self, beat: Beat) -> BeatReply:
        try:
            none = frozenset[str]()
            lost, cancel, forced = self._renew(beat) if beat.claims else (none, none, none)
            if beat.markers:
                self._types.bulk_write(
                    [
                        UpdateOne({"_id": task_type}, {"$max": {"markerSeenAt": at}}, upsert=True)
                        for task_type, at in beat.markers.items()
                    ],
                    ordered=False,
                )
            paused = frozenset(found["_id"] for found in self._types.find({"paused": True}, {"_id": 1}))
            self._note_worker(beat)
        except PyMongoError as error:
            raise translate(error, self._url) from error
        return BeatReply(lost, cancel, paused, forced)

    def _renew(self, beat: Beat) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        ids = list(beat.claims)
        tokens = list(set(beat.claims.values()))
        mine = {"_id": {"$in": ids}, "status": "running", "claimToken": {"$in": tokens}}
        self._tasks.update_many(mine, {"$currentDate": {"processingAt": True}})
        found: dict[str, Any] = {
            task["_id"]: task
            for task in self._tasks.find(
                {"_id": {"$in": ids}}, {"status": 1, "claimToken": 1, "cancelRequestedAt": 1, "cancelForced": 1}
            )
        }
        lost = frozenset(
            task_id
            for task_id, token in beat.claims.items()
            if task_id not in found
            or found[task_id]["status"] != "running"
            or found[task_id].get("claimToken") != token
        )
        cancel = frozenset(
            task_id for task_id, task in found.items() if task_id not in lost and "cancelRequestedAt" in task
        )
        return lost, cancel, frozenset(task_id for task_id in cancel if found[task_id].get("cancelForced"))

    def _note_worker(self, beat: Beat) -> None:
        fields = beat.worker.model_dump(by_alias=True, exclude={"id", "seen_at"})
        asked = self._clock.monotonic()
        # The answer carries the server's time: renewing and looking at the clock are one round trip.
        found = self._workers.find_one_and_update(
            {"_id": beat.worker.id},
            {"$set": fields, "$currentDate": {"seenAt": True}},
            upsert=True,
            projection={"seenAt": 1},
            return_document=True,
        )
        if found is not None:
            self._clock.set_from(found["seenAt"], asked, self._clock.monotonic())

    def close(self) -> None:
        with timeout(GOODBYE_SECONDS):
            self._client.close()
