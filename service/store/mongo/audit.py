"""The audit. Ids sort as time does, so that the index of ids is the only one it needs."""

from datetime import datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from schemas.access import AuditEntry, AuditPage
from service.errors import InvalidInput
from service.store.mongo.database import Database, Document
from service.store.mongo.documents import plain
from service.store.port import Audit


class MongoAudit(Audit):
    """Entries are written once and never changed."""

    def __init__(self, database: Database) -> None:
        self._database, self._audit = database, database.audit

    async def note(self, entry: AuditEntry) -> None:
        document = entry.model_dump(by_alias=True, exclude={"id"})

        async def insert() -> None:
            try:
                await self._audit.insert_one({"_id": entry.id, **document})
            except DuplicateKeyError:
                return  # by an earlier try, whose reply was lost

        await self._database.repeat(insert)

    async def find(self, *, limit: int, cursor: str | None = None) -> AuditPage:
        query: Document = {}
        if cursor is not None:
            if not (cursor.isascii() and cursor.isprintable()):
                raise InvalidInput("cursor", cursor, "is no cursor", "use the one that the last page gave")
            query["_id"] = {"$lt": cursor}

        async def read() -> list[Document]:
            return await self._audit.find(query).sort("_id", -1).limit(limit + 1).hint("_id_").to_list(limit + 1)

        found = [_entry(document) for document in await self._database.repeat(read)]
        entries = found[:limit]
        return AuditPage(entries=entries, cursor=entries[-1].id if len(found) > limit else None)

    async def prune(self, before: datetime, limit: int) -> int:
        query: Document = {"_id": {"$lt": f"{int(before.timestamp() * 1000):012x}"}}

        async def read() -> list[Any]:
            found = self._audit.find(query, {"_id": 1}).sort("_id", 1).limit(limit).hint("_id_")
            return [document["_id"] async for document in found]

        ids = await self._database.repeat(read)
        if not ids:
            return 0
        deleted = await self._database.repeat(lambda: self._audit.delete_many({"_id": {"$in": ids}}))
        return deleted.deleted_count


def _entry(document: Document) -> AuditEntry:
    return AuditEntry.model_validate({"id": document.pop("_id"), **plain(document)})
