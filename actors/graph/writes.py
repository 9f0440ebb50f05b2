"""Many updates at once, in which one that the database refuses does not hold up the others."""

from collections.abc import Sequence

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from actors import Context
from actors.maintenance.database import Collection
from service.log_events import LogEvent


async def write(collection: Collection, changes: Sequence[UpdateOne], ctx: Context) -> tuple[int, int]:
    """How many found their document, and how many were refused; each of those is logged."""
    if not changes:
        return 0, 0
    try:
        return (await collection.bulk_write(changes, ordered=False)).matched_count, 0
    except BulkWriteError as error:
        details = error.details or {}
        refused = details.get("writeErrors", [])
        if not refused:
            raise  # not one of them is at fault
        for problem in refused:
            record, why = str(problem["op"]["q"]["_id"]), str(problem["errmsg"])[:500]
            ctx.log.warning(LogEvent.RECORD_FAILED, collection=collection.name, record=record, error=why)
        return int(details["nMatched"]), len(refused)
