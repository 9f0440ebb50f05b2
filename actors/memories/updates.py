"""Updates of many memories at once, in which one that the database refuses does not hold up the others."""

from collections.abc import Sequence
from typing import Any

from pymongo.errors import WriteError

from actors import Context
from actors.maintenance.breaker import Breaker
from actors.maintenance.database import Collection, Document
from service.log_events import LogEvent

Change = Document | list[Document]


class Updates:
    """Of one run."""

    def __init__(self, memories: Collection, ctx: Context, max_failures_in_row: int) -> None:
        self._memories, self._ctx = memories, ctx
        self._breaker = Breaker(max_failures_in_row, "memories")
        self.failed = 0

    async def update(self, tenant: str, ids: Sequence[Any], query: Document, change: Change) -> int:
        """Change those of ``ids`` that match ``query``, which they no longer do afterwards; answers how many did.

        Raises CircuitOpen when too many in a row were refused.
        """
        these = {**query, "_id": {"$in": list(ids)}}
        try:
            return (await self._memories.update_many(these, change)).modified_count
        except WriteError:
            left = [each["_id"] async for each in self._memories.find(these, {"_id": 1})]
        changed = len(ids) - len(left)
        for key in left:
            changed += await self._update_one(tenant, {**query, "_id": key}, change)
        return changed

    async def _update_one(self, tenant: str, query: Document, change: Change) -> int:
        try:
            changed = (await self._memories.update_one(query, change)).modified_count
        except WriteError as error:
            self.failed += 1
            self._ctx.log.warning(
                LogEvent.MEMORY_FAILED, tenant=tenant, memory=str(query["_id"]), error=str(error)[:500]
            )
            self._breaker.failed(error)
            return 0
        self._breaker.worked()
        return changed
