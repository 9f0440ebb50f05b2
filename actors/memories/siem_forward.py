"""``memories.siem_forward``: a task for each tenant whose SIEM endpoint has not seen all its audit rows.

Reads ``siem_endpoints`` that are enabled, and whether ``audit_log`` has a row after each ``cursor``; writes and deletes
nothing. Each task is ``memories.siem_forward_tenant``, and has the tenant's name: while one waits or runs, there is no
second one. So a dead endpoint holds up its own rows only.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import Field

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.pages import pages
from actors.maintenance.params import BatchParams
from actors.memories.audit_rows import CODEC, SETTLED, AuditRows, BadCursor, Position
from actors.memories.collections import Collections
from actors.memories.indexes import audit_log
from actors.memories.siem_forward_tenant import TASK_TYPE, ForwardParams, task_name
from schemas.base import Duration
from service.log_events import LogEvent


class DispatchParams(BatchParams):
    """Options of ``memories.siem_forward``."""

    batch_size: int = Field(100, ge=1, le=1000, description="Endpoints looked at side by side.")
    behind: Duration = Field(SETTLED, description="Rows younger than this wait, since an earlier one may come late.")
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class DispatchCounts(Counts):
    """What a run did."""

    endpoints: int = 0
    dispatched: int = 0
    """With new rows; their tasks may have been there already."""
    up_to_date: int = 0
    invalid: int = 0
    """Endpoints whose document is not as it should be."""


@actor("memories.siem_forward", aliases=["siem_forwarding_job"], max_attempts=1, timeout="30m", concurrency=1)
async def forward_siem(params: DispatchParams, ctx: Context) -> dict[str, int]:
    """Start a task for each SIEM endpoint that has new rows to get."""
    database, names = ctx.resources["memory"], params.collections
    await ensure_indexes(database, audit_log(names))
    dispatch = _Dispatch(params, ctx, ctx.now() - params.behind)
    endpoints = database[names.siem_endpoints].with_options(codec_options=CODEC)
    async for page in pages(endpoints, {"enabled": True}, size=params.batch_size, projection={"cursor": 1}):
        for outcome in await asyncio.gather(*map(dispatch.one, page), return_exceptions=True):
            if outcome is not None:
                raise outcome
        await ctx.progress(dispatch.counts.endpoints)
    return dispatch.counts.result()


class _Dispatch:
    def __init__(self, params: DispatchParams, ctx: Context, until: datetime) -> None:
        self._params, self._ctx, self._until = params, ctx, until
        self._audit_log = ctx.resources["memory"][params.collections.audit_log]
        self.counts = DispatchCounts()

    async def one(self, endpoint: Document) -> None:
        self.counts.endpoints += 1
        tenant = endpoint["_id"]
        try:
            body = self._body(tenant)
            new = await AuditRows(self._audit_log, tenant, self._until).any(Position.of(endpoint.get("cursor")))
        except (BadCursor, ValueError) as error:
            self.counts.invalid += 1
            self._ctx.log.warning(LogEvent.ENDPOINT_INVALID, tenant=str(tenant)[:200], problem=str(error)[:300])
            return
        if not new:
            self.counts.up_to_date += 1
            return
        await self._ctx.enqueue(TASK_TYPE, body, name=task_name(tenant), tenant_id=tenant)
        self.counts.dispatched += 1

    def _body(self, tenant: Any) -> ForwardParams:
        """Raises ValueError: it is not the name of a tenant."""
        if not (isinstance(tenant, str) and tenant.isprintable()):
            raise ValueError("its _id is not the name of a tenant")
        return ForwardParams(tenant_id=tenant, behind=self._params.behind, collections=self._params.collections)
