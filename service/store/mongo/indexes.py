"""Every index, and why it earns its writes."""

from pymongo import ASCENDING, DESCENDING, IndexModel, timeout

from service.store.mongo.database import Database


def _present(field: str) -> dict[str, dict[str, bool]]:
    # Partial, not sparse: a sparse index takes an explicit null, and two nulls collide in a unique one.
    return {field: {"$exists": True}}


TASKS = [
    # The status is the same in every key; were it not there, the server would fetch each document to compare it.
    IndexModel(
        [("status", ASCENDING), ("taskType", ASCENDING), ("relayAt", ASCENDING), ("_id", ASCENDING)],
        name="relay",
        partialFilterExpression={"status": "pending", **_present("relayAt")},
    ),
    IndexModel(
        [("relayAt", ASCENDING)], name="dead", partialFilterExpression={"status": "failed", **_present("relayAt")}
    ),
    IndexModel(
        [("processingAt", ASCENDING), ("_id", ASCENDING)],
        name="stale",
        partialFilterExpression=_present("processingAt"),
    ),
    IndexModel([("liveKey", ASCENDING)], name="live", unique=True, partialFilterExpression=_present("liveKey")),
    IndexModel(
        [("taskType", ASCENDING), ("status", ASCENDING), ("finishedAt", DESCENDING), ("_id", DESCENDING)],
        name="finished",
        partialFilterExpression=_present("finishedAt"),
    ),
    # Listing without a status. Its key never changes, and new ones come at the right end: the cheapest of all.
    IndexModel([("taskType", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)], name="created"),
    IndexModel(
        [("scheduleId", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)],
        name="schedule",
        partialFilterExpression=_present("scheduleId"),
    ),
    # Dead letters by what went wrong. A traceback is long: groups and counts are read from this index alone. It is
    # written only when a task dies, and when it is replayed, discarded or pruned.
    IndexModel(
        [
            ("status", ASCENDING),
            ("finishedAt", DESCENDING),
            ("_id", DESCENDING),
            ("lastError.fingerprint", ASCENDING),
            ("taskType", ASCENDING),
        ],
        name="deaths",
        partialFilterExpression={"status": "failed"},
    ),
    # An id that was never stored, since another task stood for it. Written only then.
    IndexModel([("askedBy.id", ASCENDING)], name="asked", partialFilterExpression=_present("askedBy")),
]
SCHEDULES = [
    IndexModel([("nextFireAt", ASCENDING)], name="due", partialFilterExpression=_present("nextFireAt")),
    IndexModel([("firing.at", ASCENDING)], name="firing", partialFilterExpression=_present("firing")),
]
WORKERS = [IndexModel([("seenAt", ASCENDING)], name="seen")]


BUILD_SECONDS = 300.0
"""Limit for an index on a collection that has grown large already."""


async def ensure_indexes(database: Database) -> None:
    """Create what is missing; two processes may do it at once."""

    async def create() -> None:
        with timeout(BUILD_SECONDS):
            await database.tasks.create_indexes(TASKS)
            await database.schedules.create_indexes(SCHEDULES)
            await database.workers.create_indexes(WORKERS)

    await database.repeat(create)
