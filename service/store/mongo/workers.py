"""Who is there."""

from datetime import datetime

from schemas.worker import Worker
from service.store.mongo.database import Database, Document
from service.store.port import Workers


class MongoWorkers(Workers):
    """Written by the heartbeat; read and tidied here."""

    def __init__(self, database: Database) -> None:
        self._database, self._workers = database, database.workers

    async def alive(self, seen_since: datetime) -> list[Worker]:
        async def read() -> list[Document]:
            return await self._workers.find({"seenAt": {"$gte": seen_since}}).sort("seenAt", -1).to_list(None)

        workers = []
        for found in await self._database.repeat(read):
            found["id"] = found.pop("_id")
            workers.append(Worker.model_validate(found))
        return workers

    async def forget(self, worker_id: str) -> None:
        await self._database.repeat(lambda: self._workers.delete_one({"_id": worker_id}))

    async def prune(self, seen_before: datetime) -> int:
        result = await self._database.repeat(lambda: self._workers.delete_many({"seenAt": {"$lt": seen_before}}))
        return result.deleted_count
