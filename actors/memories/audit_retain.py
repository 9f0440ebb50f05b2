"""``memories.audit_retain``: audit rows go when their retention is over and their tenant's SIEM has them.

Reads ``siem_endpoints``; deletes from ``audit_log``. Tenants have their turn after a batch each.

A tenant that has an endpoint keeps every row after the endpoint's ``cursor``, ``{at, id}`` of the last row forwarded,
however old it is: all of its rows while there is no cursor. That holds for a disabled endpoint too, for it may be
enabled again and go on from its cursor; to let the rows go, delete the endpoint. A cursor that cannot be read keeps
the tenant's rows as well, and is logged. A tenant without an endpoint has the retention alone.

A run that is cut short has deleted some rows; the next one deletes the others. Rows without a tenant stay.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.fairness import in_turn, tenants
from actors.maintenance.guard import check
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.moment import moment
from actors.maintenance.params import DeletingParams
from actors.maintenance.ranges import OLDEST, keys
from actors.memories.collections import Collections
from actors.memories.indexes import FIELDS, TENANT, audit_log
from schemas.base import Duration
from service.log_events import LogEvent

MILLISECOND = timedelta(milliseconds=1)


class AuditRetainParams(DeletingParams):
    """Options of ``memories.audit_retain``."""

    retention: Duration = Field(timedelta(days=365), description="How long audit rows are kept.")
    retention_by_tenant: dict[str, Duration] = Field({}, description="Tenants with a retention of their own.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class AuditRetainCounts(Counts):
    """What a run did."""

    scanned: int = 0
    """All audit rows, about."""
    expired: int = 0
    """Rows past their retention that their SIEM has, or that no SIEM waits for."""
    held: int = 0
    """Rows past their retention that are kept, since they were not forwarded."""
    deleted: int = 0
    failed: int = 0
    """Tenants whose cursor cannot be read."""


@actor("memories.audit_retain", aliases=["audit log retention"], max_attempts=1, timeout="30m", concurrency=1)
async def retain_audit_log(params: AuditRetainParams, ctx: Context) -> dict[str, int]:
    """Delete audit rows past their retention, never past the tenant's SIEM cursor."""
    await ensure_indexes(ctx.resources["memory"], audit_log(params.collections))
    run = _Run(params, ctx, await moment(ctx))
    await run.look()
    if params.dry_run:
        return run.counts.result()
    async for tenant, page in in_turn(run.tenants(), run.expired):
        await run.delete(tenant, [key["_id"] for key in page])
        await ctx.progress(run.counts.deleted, run.counts.expired)
    return run.counts.result()


class _Run:
    def __init__(self, params: AuditRetainParams, ctx: Context, now: datetime) -> None:
        self._params, self._ctx, self._now = params, ctx, now
        database, names = ctx.resources["memory"], params.collections
        self._rows, self._endpoints = database[names.audit_log], database[names.siem_endpoints]
        self.counts = AuditRetainCounts()

    def tenants(self) -> AsyncIterator[str]:
        return tenants(self._rows)

    async def look(self) -> None:
        """Count what is to go, before anything does."""
        counts = self.counts
        counts.scanned = await self._rows.estimated_document_count()
        async for tenant in self.tenants():
            old = await self._rows.count_documents(_before(tenant, self._end(tenant)))
            if old:
                gone = await self._count(await self._due(tenant, log=True))
                counts.expired += gone
                counts.held += old - gone
            await self._ctx.checkpoint()
        check(self._params, deleting=counts.expired, looked_at=counts.scanned, what="audit rows")

    async def _count(self, due: "_Due | None") -> int:
        return 0 if due is None else await self._rows.count_documents(due.query)

    async def expired(self, tenant: str) -> AsyncIterator[list[Document]]:
        due = await self._due(tenant)
        if due is not None:
            stretch = (tenant, OLDEST), (tenant, due.end)
            size = self._params.batch_size
            async for page in keys(self._rows, TENANT, FIELDS[TENANT], *stretch, size=size, query=due.query):
                yield page

    async def delete(self, tenant: str, ids: Sequence[Any]) -> None:
        # The endpoint is looked at again: somebody may have set its cursor back, to forward rows once more.
        due = await self._due(tenant)
        if due is not None:
            found = await self._rows.delete_many({**due.query, "_id": {"$in": list(ids)}})
            self.counts.deleted += found.deleted_count

    def _end(self, tenant: str) -> datetime:
        return self._now - self._params.retention_by_tenant.get(tenant, self._params.retention)

    async def _due(self, tenant: str, *, log: bool = False) -> "_Due | None":
        """None: all of the tenant's rows wait for its SIEM."""
        end = self._end(tenant)
        endpoint = await self._endpoints.find_one({"_id": tenant}, {"cursor": 1})
        if endpoint is None:
            return _Due(end, _before(tenant, end))
        cursor = endpoint.get("cursor")
        if cursor is None:
            return None
        if not (isinstance(cursor, dict) and isinstance(cursor.get("at"), datetime) and "id" in cursor):
            if log:
                self.counts.failed += 1
                self._ctx.log.warning(LogEvent.CURSOR_UNREADABLE, tenant=tenant, fix="set it to {at, id} of a row")
            return None
        end = min(end, cursor["at"] + MILLISECOND)
        sent = {"$or": [{"at": {"$lt": cursor["at"]}}, {"_id": {"$lte": cursor["id"]}}]}
        return _Due(end, _before(tenant, end) | sent)


@dataclass(frozen=True, slots=True)
class _Due:
    """A tenant's rows that may go."""

    end: datetime
    """All of them are older."""
    query: Document


def _before(tenant: str, end: datetime) -> Document:
    return {"tenantId": tenant, "at": {"$gte": OLDEST, "$lt": end}}
