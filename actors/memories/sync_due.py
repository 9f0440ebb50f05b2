"""``memories.sync_due``: a ``memories.sync`` for each integration that is due.

Reads ``integrations`` where ``enabled`` is true and ``nextScheduledSync`` is past or missing, tenant by tenant in
turn; writes ``nextScheduledSync``; enqueues tasks; deletes nothing.

A task is named by its integration, so two of one integration never run at once: one that is asked for meanwhile runs
right after. Its id is made from the integration and the time that was due, so a run that was killed before it moved
that time, or two runs at once, make one task. The next time is a whole number of intervals after the last one and lies
ahead of now: after a long pause one sync is due and not many, and the times do not drift.

``syncInterval`` is a number of seconds or a text such as ``"15m"``; without one it is ``defaultInterval``. An
integration with an interval or an id that cannot be used is logged, and looked at again after ``defaultInterval``.
"""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bson import ObjectId
from pydantic import Field

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.params import BatchParams
from actors.memories.collections import Collections
from actors.memories.ids import digest, shown
from actors.memories.indexes import DUE, integrations
from actors.memories.sync import SyncParams
from schemas.base import Duration
from schemas.duration import parse_duration
from schemas.task import Task
from service.log_events import LogEvent

SYNC = "memories.sync"
LONGEST = timedelta(days=366)


class SyncDueParams(BatchParams):
    """Options of ``memories.sync_due``."""

    default_interval: Duration = Field(timedelta(hours=1), description="Of an integration that names none.")
    min_interval: Duration = Field(timedelta(minutes=1), description="Shorter intervals are raised to this.")
    folder_root: Path | None = Field(None, description="`folderRoot` of the syncs.")
    collections: Collections = Field(Collections(), description="Names of the collections, of the syncs too.")


@dataclass(slots=True)
class SyncDueCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """Integrations that were due."""
    dispatched: int = 0
    joined: int = 0
    """A sync of the integration waits or runs already; if it runs, it runs once more."""
    invalid: int = 0
    overtaken: int = 0
    """Somebody else moved their time meanwhile."""


@actor("memories.sync_due", aliases=["process_scheduled_syncs"], max_attempts=1, timeout="10m", concurrency=1)
async def dispatch_syncs(params: SyncDueParams, ctx: Context) -> dict[str, int]:
    """Enqueue a sync for each integration that is due."""
    run = _Run(params, ctx)
    await ensure_indexes(ctx.resources["memory"], integrations(params.collections))
    async for _, batch in in_turn(run.tenants(), run.due):
        for integration in batch:
            await run.dispatch(integration)
        await ctx.progress(run.counts.scanned)
    return run.counts.result()


class _Run:
    def __init__(self, params: SyncDueParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._integrations = ctx.resources["memory"][params.collections.integrations]
        self._now = ctx.now()
        self._due = due_integrations(self._now)
        self.counts = SyncDueCounts()

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._integrations, self._due)

    async def due(self, tenant: str) -> AsyncIterator[list[Document]]:
        """From the head each time: what was dispatched is not due any more."""
        size = self._params.batch_size
        while True:
            found = self._integrations.find(
                {"tenantId": tenant, **self._due},
                {"tenantId": 1, "syncInterval": 1, "nextScheduledSync": 1},
                sort=[("nextScheduledSync", 1), ("_id", 1)],
                limit=size,
                hint=DUE,
            )
            page: list[Document] = await found.to_list(size)
            if page:
                yield page
            if len(page) < size:
                return

    async def dispatch(self, integration: Document) -> None:
        """First the task, then the time: killed in between, it is done again and makes no second task."""
        self.counts.scanned += 1
        due = integration.get("nextScheduledSync")
        if not isinstance(due, datetime):
            # The task's id is made from the time: one that was unset again must make another task.
            if not await self._move(integration, due, self._now):
                return
            due = self._now
        try:
            interval = self._interval(integration)
            if not isinstance(integration["_id"], (str, ObjectId)) or not 0 < len(str(integration["_id"])) <= 200:
                raise ValueError("its id is neither a text of 1 to 200 characters nor an ObjectId")
        except ValueError as error:
            self.counts.invalid += 1
            self._ctx.log.warning(
                LogEvent.INTEGRATION_INVALID,
                tenant=integration["tenantId"],
                integration=str(integration["_id"])[:200],
                problem=str(error),
            )
            interval = self._params.default_interval
        else:
            task_id = f"sync-{digest(integration['_id'], due)}"
            task = await self._enqueue(integration, task_id)
            self.counts.dispatched += task.id == task_id
            self.counts.joined += task.id != task_id
        await self._move(integration, due, next_time(due, interval, self._now))

    async def _move(self, integration: Document, due: Any, following: datetime) -> bool:
        """Unless somebody else moved it."""
        where = {"_id": integration["_id"], "nextScheduledSync": due}
        moved = await self._integrations.update_one(where, {"$set": {"nextScheduledSync": following}})
        self.counts.overtaken += not moved.matched_count
        return bool(moved.matched_count)

    async def _enqueue(self, integration: Document, task_id: str) -> Task:
        tenant = str(integration["tenantId"])
        body = SyncParams(
            integration_id=str(integration["_id"]),
            folder_root=self._params.folder_root,
            collections=self._params.collections,
        )
        return await self._ctx.enqueue(
            SYNC,
            body.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            id=task_id,
            name=f"{SYNC} {shown(integration['_id'])}",
            tenant_id=tenant if len(tenant) <= 200 and tenant.isprintable() else None,
        )

    def _interval(self, integration: Document) -> timedelta:
        """Raises ValueError."""
        return max(read_interval(integration.get("syncInterval"), self._params.default_interval), self._least())

    def _least(self) -> timedelta:
        return max(self._params.min_interval, timedelta(seconds=1))


def due_integrations(now: datetime) -> Document:
    """The query of what is due."""
    # Not $lte: a time that is missing, or none, is due as well.
    return {"enabled": True, "nextScheduledSync": {"$not": {"$gt": now}}}


def read_interval(value: Any, default: timedelta) -> timedelta:
    """Raises ValueError."""
    match value:
        case None:
            return default
        case str():
            span = parse_duration(value)
        case bool():
            raise ValueError("syncInterval is neither a number of seconds nor a text such as 15m")
        case int() | float() if math.isfinite(value) and 0 < value <= LONGEST.total_seconds():
            span = timedelta(seconds=value)
        case _:
            raise ValueError("syncInterval is neither a number of seconds nor a text such as 15m")
    if not timedelta() < span <= LONGEST:
        raise ValueError("syncInterval is not between a second and a year")
    return span


def next_time(due: datetime, interval: timedelta, now: datetime) -> datetime:
    """The first time after now that is a whole number of intervals after ``due``, which is past."""
    return due + ((now - due) // interval + 1) * interval
