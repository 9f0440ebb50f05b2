"""``memories.sync``: what an integration has found since becomes candidates of the capture queue.

Reads one document of ``integrations`` ``{_id, tenantId, kind, enabled, config, cursor, …}`` and what its connector
gives; inserts into ``capture_queue``; writes ``cursor``, ``lastSyncAt`` and ``lastSyncError`` of the integration;
deletes nothing. ``memories.capture`` decides what becomes of the candidates.

The id of a candidate is made from the integration, the item's id and its content, and the insert changes nothing where
that id exists. The cursor is moved after each page. So what a killed run has read is read again, and doubles nothing;
and an item that has changed is a new candidate. The cursor is moved only from where the run saw it: should somebody
else move it, the run ends. A busy side is not asked again before the time that its ``Retry-After`` names.

Kinds are ``http_json`` and ``folder``. A connector whose cursors go round in a circle is refused; one that has no end
is cut off after ``maxPages``, and the next run goes on. An HTTP connector asks only where ``VERGER_HTTP_ALLOW`` lets
it, and sends only secrets whose names begin with ``connector-``: not the keys of webhooks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field
from pymongo.errors import BulkWriteError

from actors import Context, Discard, Retry, actor
from actors.maintenance.breaker import Breaker
from actors.maintenance.counts import Counts
from actors.maintenance.database import Document
from actors.maintenance.http.retry_after import no_sooner
from actors.maintenance.secrets import SecretMissing, read_secret
from actors.memories.collections import Collections
from actors.memories.connectors import CONNECTORS
from actors.memories.connectors.port import (
    Connector,
    ConnectorRefused,
    ConnectorUnavailable,
    Item,
    Malformed,
    Page,
    Source,
)
from actors.memories.ids import candidates, digest
from schemas.base import Duration, Model
from service.errors import PayloadRefused, VergerError
from service.log_events import LogEvent
from service.payload import check_storable

DUPLICATE_KEY = 11000
SECRETS = "connector-"
DELAYS = ("1m", "5m")
MOST_ERROR = 500


class SyncParams(Model):
    """Options of ``memories.sync``."""

    integration_id: str = Field(min_length=1, max_length=200, description="Which integration.")
    page_size: int = Field(100, ge=1, le=1000, description="Items asked for, and candidates inserted, at once.")
    max_pages: int = Field(1000, ge=1, le=100_000, description="Pages read in one run; the next goes on.")
    max_page_bytes: int = Field(4_194_304, ge=1024, le=67_108_864, description="Bytes of a page; a longer one fails.")
    max_item_bytes: int = Field(65_536, ge=1024, le=4_194_304, description="A larger item is skipped.")
    request_timeout: Duration = Field(timedelta(seconds=30), description="Of one request.")
    max_logged: int = Field(10, ge=0, description="Skipped items that are logged one by one in a run.")
    max_failures_in_row: int = Field(
        100, ge=1, description="So many skipped items one after the other end the run: the answer is rubbish."
    )
    folder_root: Path | None = Field(
        None, description="Folder of all `folder` connectors; null: `connectors` in VERGER_DATA_DIR."
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


@dataclass(slots=True)
class SyncCounts(Counts):
    """What a run did."""

    pages: int = 0
    items: int = 0
    inserted: int = 0
    known: int = 0
    """They are in the queue already."""
    skipped: int = 0
    """They are no candidates: without an id or a text, or too large."""
    cut_off: int = 0
    """1: there is more; the next run goes on."""
    overtaken: int = 0
    """1: somebody else moved the cursor."""


@actor("memories.sync", max_attempts=3, delays=DELAYS, timeout="1h", concurrency=8, non_retryable=[ConnectorRefused])
async def synchronise(params: SyncParams, ctx: Context) -> dict[str, int]:
    """Pull what an integration has found since into the capture queue."""
    integrations = ctx.resources["memory"][params.collections.integrations]
    integration = await integrations.find_one({"_id": {"$in": candidates(params.integration_id)}})
    if integration is None or integration.get("enabled") is not True:
        raise Discard("the integration is not there, or not enabled")
    run = _Run(params, ctx, integration)
    try:
        await run.pull(await _connector(params, ctx, integration))
    except VergerError as error:
        await run.note(str(error)[:MOST_ERROR])
        if isinstance(error, ConnectorUnavailable) and error.after:
            raise Retry(str(error), after=no_sooner(error.after, DELAYS, ctx.task.retry_count)) from error
        raise
    await run.note(None)
    return run.counts.result()


async def _connector(params: SyncParams, ctx: Context, integration: Document) -> Connector:
    """Raises ConnectorRefused."""
    kind, config = integration.get("kind"), integration.get("config")
    if not isinstance(kind, str) or kind not in CONNECTORS:
        raise ConnectorRefused(f"there is no connector {kind!r}; known: {', '.join(CONNECTORS)}")
    if not isinstance(config, dict):
        raise ConnectorRefused("config is not an object")
    if not isinstance(integration.get("tenantId"), str) or not integration["tenantId"]:
        raise ConnectorRefused("tenantId is not a text")
    return CONNECTORS[kind](
        Source(
            config=config,
            http=ctx.resources["http"],
            secret=await _secret(ctx, config),
            root=params.folder_root or ctx.settings.data_dir / "connectors",
            timeout=params.request_timeout,
            max_page_bytes=params.max_page_bytes,
            max_item_bytes=params.max_item_bytes,
        )
    )


async def _secret(ctx: Context, config: Mapping[str, Any]) -> str | None:
    reference = config.get("secretRef")
    if reference is None:
        return None
    if not isinstance(reference, str) or not reference.startswith(SECRETS):
        raise ConnectorRefused(f"config.secretRef: the name of a connector's secret begins with {SECRETS!r}")
    try:
        return await read_secret(ctx.settings, reference)
    except SecretMissing as error:
        raise ConnectorRefused(str(error)) from error


class _Run:
    def __init__(self, params: SyncParams, ctx: Context, integration: Document) -> None:
        self._params, self._ctx, self._integration = params, ctx, integration
        database, names = ctx.resources["memory"], params.collections
        self._queue, self._integrations = database[names.capture_queue], database[names.integrations]
        self._breaker = Breaker(params.max_failures_in_row, "items")
        self._created_at = ctx.now()
        self.counts = SyncCounts()

    async def pull(self, connector: Connector) -> None:
        cursor = self._integration.get("cursor")
        seen = {digest(_canonical(cursor))}
        while True:
            page = await connector.pull(cursor, limit=self._params.page_size)
            self.counts.pages += 1
            self._check(page, seen)
            await self._insert(page)
            if not await self._move(cursor, page.cursor):
                self.counts.overtaken = 1
                return
            cursor = page.cursor
            await self._ctx.progress(self.counts.items)
            if not page.more:
                return
            if self.counts.pages >= self._params.max_pages:
                self.counts.cut_off = 1
                return

    def _check(self, page: Page, seen: set[str]) -> None:
        """Raises ConnectorRefused."""
        told = digest(_canonical(page.cursor))
        if told not in seen:
            try:
                check_storable(page.cursor, "cursor")
            except PayloadRefused as error:
                raise ConnectorRefused(str(error)) from error
            seen.add(told)
        elif page.more:
            raise ConnectorRefused("the other side's cursors go round in a circle")

    async def _insert(self, page: Page) -> None:
        for malformed in page.malformed:
            self._skip(malformed)
        documents = []
        for item in page.items:
            try:
                documents.append(self._candidate(item))
            except ValueError as error:
                self._skip(Malformed(item.id, str(error)))
            else:
                self._breaker.worked()
        self.counts.items += len(documents)
        known = await self._insert_new(documents)
        self.counts.known += known
        self.counts.inserted += len(documents) - known

    async def _insert_new(self, documents: Sequence[Document]) -> int:
        """Answers how many were there already."""
        if not documents:
            return 0
        try:
            await self._queue.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            problems = details.get("writeErrors") or []
            if details.get("writeConcernErrors") or any(each["code"] != DUPLICATE_KEY for each in problems):
                raise
            return len(problems)
        return 0

    def _candidate(self, item: Item) -> Document:
        """Raises ValueError."""
        try:
            check_storable(item.candidate, "candidate")
        except PayloadRefused as error:
            raise ValueError(str(error)) from error
        content = _canonical(item.candidate)
        if len(content.encode()) > self._params.max_item_bytes:
            raise ValueError(f"is larger than {self._params.max_item_bytes} bytes")
        # A millisecond apart: candidates are taken in the order of time, which so is the source's.
        self._created_at = max(self._ctx.now(), self._created_at + timedelta(milliseconds=1))
        source = self._integration["_id"]
        return {
            "_id": f"c-{digest(source, item.id, content)}",
            "tenantId": self._integration["tenantId"],
            "source": {"integrationId": source, "kind": self._integration["kind"], "itemId": item.id},
            "candidate": dict(item.candidate),
            "status": "pending",
            "reason": None,
            "createdAt": self._created_at,
        }

    def _skip(self, malformed: Malformed) -> None:
        """Raises CircuitOpen."""
        self.counts.skipped += 1
        if self.counts.skipped <= self._params.max_logged:
            self._ctx.log.warning(
                LogEvent.ITEM_SKIPPED,
                integration=str(self._integration["_id"]),
                item=malformed.id[:200],
                problem=malformed.problem[:300],
            )
        self._breaker.failed(ConnectorRefused(f"{malformed.id[:200]} {malformed.problem[:300]}"))

    async def _move(self, seen: Any, cursor: Any) -> bool:
        """Unless somebody else moved it."""
        where = {"_id": self._integration["_id"], "cursor": seen}
        done = await self._integrations.update_one(where, {"$set": {"cursor": cursor}})
        return bool(done.matched_count)

    async def note(self, error: str | None) -> None:
        fields: dict[str, str | datetime | None] = {"lastSyncError": error}
        if error is None:
            fields["lastSyncAt"] = self._ctx.now()
        await self._integrations.update_one({"_id": self._integration["_id"]}, {"$set": fields})


def _canonical(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str).decode()
