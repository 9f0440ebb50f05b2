"""``memories.siem_forward_tenant``: a tenant's audit rows go to its SIEM endpoint, and none is lost.

Reads ``audit_log`` of the tenant after the ``cursor`` of its document in ``siem_endpoints``, in the order of ``at`` and
``_id``, up to 30 seconds before now, and the secret that ``secretRef`` names; sends them by POST in batches, while the
next one is read; writes ``cursor``; deletes nothing.

The cursor ``{at, id}`` advances after each batch that was answered with 2xx, from what it was to that batch's last row,
and not otherwise. So a run that was cut short, or an endpoint that takes a batch and drops the connection, means that
the batch is sent again: each row carries its ``id``. Two runs at once may send rows twice, and lose none; the one that
is behind stops.

``format`` of the endpoint is ``jsonl`` (a JSON object a line) or ``cef``. Its secret, if it names one, is sent as a
bearer token. After a failure it is tried again after 10 s, 1 m, 5 m, 15 m and 1 h, and not before what ``Retry-After``
says; then it is a dead letter, and the next dispatch makes a new task. A run sends ``maxRows`` at most, and asks to run
again for more.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field

from actors import Context, Discard, Retry, actor
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.http import Http
from actors.maintenance.http.retry_after import no_sooner, retry_after
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.secrets import read_secret
from actors.memories.audit_formats import FORMATS
from actors.memories.audit_rows import CODEC, SETTLED, AuditRows, Position, Row
from actors.memories.collections import Collections
from actors.memories.ids import shown
from actors.memories.indexes import audit_log
from schemas.base import Duration, Model
from service.errors import VergerError

TASK_TYPE = "memories.siem_forward_tenant"
DELAYS = ("10s", "1m", "5m", "15m", "1h")
MOST_ANSWER = 65_536
"""Bytes of an answer that are read, so that its connection can be used again; nobody looks at them."""


class ForwardParams(Model):
    """Body of ``memories.siem_forward_tenant``."""

    tenant_id: str = Field(min_length=1, max_length=200, description="Whose rows; `_id` of the endpoint.")
    batch_size: int = Field(100, ge=1, le=1000, description="Rows in one request.")
    max_rows: int = Field(100_000, ge=1, description="Rows sent in one run; it asks to run again for more.")
    max_batch_bytes: int = Field(
        1_048_576, ge=1024, le=16_777_216, description="Of one request; a row that is longer goes alone."
    )
    max_row_bytes: int = Field(
        65_536, ge=1024, le=1_048_576, description="Of a larger row (BSON) only who, what and when is sent."
    )
    behind: Duration = Field(SETTLED, description="Rows younger than this wait, since an earlier one may come late.")
    timeout: Duration = Field(
        timedelta(seconds=30), ge=timedelta(seconds=1), le=timedelta(minutes=5), description="Of one request."
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class ForwardCounts(Counts):
    """What a run did."""

    rows: int = 0
    batches: int = 0
    bytes: int = 0
    """Of the requests' bodies."""
    shortened: int = 0
    """Rows that were too large."""
    overtaken: int = 0
    """1: another run, or a person, moved the cursor; this one stopped."""
    more: int = 0
    """1: there is more; it was asked to run again."""


class ForwardFailed(VergerError):
    """The endpoint did not take a batch, or is not one that can be asked."""


def task_name(tenant: str) -> str:
    """One run at a time for each tenant."""
    return f"{TASK_TYPE}:{shown(tenant)}"


@actor(TASK_TYPE, max_attempts=len(DELAYS) + 1, timeout="30m", delays=DELAYS, concurrency=32)
async def forward_siem_tenant(params: ForwardParams, ctx: Context) -> dict[str, int]:
    """Send a tenant's new audit rows to its SIEM endpoint."""
    await ensure_indexes(ctx.resources["memory"], audit_log(params.collections))
    forward = await _Forward.begin(params, ctx)
    await forward.all()
    return forward.counts.result()


class _Forward:
    def __init__(self, params: ForwardParams, ctx: Context, endpoint: Document, headers: dict[str, str]) -> None:
        self._params, self._ctx, self._headers = params, ctx, headers
        database, names = ctx.resources["memory"], params.collections
        self._endpoints = database[names.siem_endpoints].with_options(codec_options=CODEC)
        self._rows = AuditRows(database[names.audit_log], params.tenant_id, ctx.now() - params.behind)
        self._url: str = endpoint["url"]
        self._write = FORMATS[endpoint["format"]][1]
        self._cursor = endpoint.get("cursor")
        self.counts = ForwardCounts()

    @classmethod
    async def begin(cls, params: ForwardParams, ctx: Context) -> "_Forward":
        """Raises Discard: there is no endpoint, or it is disabled. ForwardFailed: it is not as it should be."""
        tenant = params.tenant_id
        endpoints = ctx.resources["memory"][params.collections.siem_endpoints].with_options(codec_options=CODEC)
        endpoint = await endpoints.find_one({"_id": tenant})
        if endpoint is None or endpoint.get("enabled") is not True:
            raise Discard(f"the tenant {tenant!r} has no SIEM endpoint that is enabled")
        if not isinstance(endpoint.get("url"), str):
            raise ForwardFailed(f"the SIEM endpoint of {tenant!r} has no url")
        if endpoint.get("format") not in FORMATS:
            raise ForwardFailed(f"the format of the SIEM endpoint of {tenant!r} is none of {', '.join(FORMATS)}")
        headers = {"Content-Type": FORMATS[endpoint["format"]][0]}
        if endpoint.get("secretRef") is not None:
            headers["Authorization"] = f"Bearer {await read_secret(ctx.settings, str(endpoint['secretRef']))}"
        return cls(params, ctx, endpoint, headers)

    async def all(self) -> None:
        """Batch by batch; each is read while the one before is under way."""
        reading = asyncio.create_task(self._read(Position.of(self._cursor)))
        try:
            while rows := await reading:
                if self.counts.rows >= self._params.max_rows:
                    await self._ask_again()
                    return
                reading = asyncio.create_task(self._read(rows[-1].position))
                for part, body in self._requests(rows):
                    await self._send(part, body)
                    if not await self._advance(part[-1].position):
                        self.counts.overtaken = 1
                        return
                    await self._ctx.progress(self.counts.rows)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading

    async def _read(self, after: Position | None) -> list[Row]:
        return await self._rows.read(after, limit=self._params.batch_size, max_bytes=self._params.max_row_bytes)

    def _requests(self, rows: list[Row]) -> Iterator[tuple[list[Row], bytes]]:
        """One, or more where it would become too large."""
        part: list[Row] = []
        body = b""
        for row in rows:
            line = f"{self._write(row)}\n".encode()
            if part and len(body) + len(line) > self._params.max_batch_bytes:
                yield part, body
                part, body = [], b""
            part.append(row)
            body += line
        yield part, body

    async def _send(self, rows: list[Row], body: bytes) -> None:
        """Raises ForwardFailed, HttpRefused, HttpUnavailable, Retry."""
        client: Http = self._ctx.resources["http"]
        answer = await client.request(
            "POST",
            self._url,
            headers=self._headers,
            body=body,
            timeout=self._params.timeout,
            max_bytes=MOST_ANSWER,
            whole=False,
        )
        if not 200 <= answer.status < 300:
            said = f"the SIEM endpoint of {self._params.tenant_id!r} answered {answer.status}"
            if wanted := retry_after(answer.headers, self._ctx.now()):
                raise Retry(said, after=no_sooner(wanted, DELAYS, self._ctx.task.retry_count))
            raise ForwardFailed(said)
        self.counts.rows += len(rows)
        self.counts.batches += 1
        self.counts.bytes += len(body)
        self.counts.shortened += sum(row.left_out > 0 for row in rows)

    async def _advance(self, to: Position) -> bool:
        """From what it was when it was read: it never goes backwards."""
        cursor = to.cursor()
        moved = await self._endpoints.update_one(
            {"_id": self._params.tenant_id, "enabled": True, "cursor": self._cursor}, {"$set": {"cursor": cursor}}
        )
        self._cursor = cursor
        return bool(moved.matched_count)

    async def _ask_again(self) -> None:
        self.counts.more = 1
        tenant = self._params.tenant_id
        await self._ctx.enqueue(TASK_TYPE, self._params, name=task_name(tenant), tenant_id=self._ctx.task.tenant_id)
