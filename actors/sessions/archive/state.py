"""When the job last worked, and what was wrong when it did not: one document, for people and dashboards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pymongo.errors import PyMongoError

from actors import Context
from actors.maintenance.counts import Counts
from actors.maintenance.database import Collection

ID = "sessions.archive"


class State:
    """``{_id, lastSuccessAt, counts, lastErrorAt, lastError}``; a success leaves no ``lastError``."""

    def __init__(self, collection: Collection, ctx: Context) -> None:
        self._collection, self._ctx = collection, ctx

    @asynccontextmanager
    async def noted(self, counts: Counts) -> AsyncIterator[None]:
        """Note how what is inside ends. A cancellation is neither."""
        try:
            yield
        except Exception as error:
            with suppress(PyMongoError):  # the error itself is what matters
                await self._note({"lastErrorAt": self._ctx.now(), "lastError": str(error)[:2000] or repr(error)})
            raise
        await self._note({"lastSuccessAt": self._ctx.now(), "counts": counts.result(), "lastError": None})

    async def _note(self, fields: dict[str, object]) -> None:
        await self._collection.update_one({"_id": ID}, {"$set": fields}, upsert=True)
