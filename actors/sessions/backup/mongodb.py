"""Copy a MongoDB database: documents as the server stores them, options and indexes in the form of ``mongodump``.

Everything is read by commands, since drivers refuse names that servers allow (``a..b``), and raw, since decoding would
lose what Python has no type for.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from bson import Timestamp, json_util
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError

from actors.maintenance.blocking import in_thread
from actors.maintenance.database import Database, Document
from actors.sessions.backup.manifest import COMPRESSED, CollectionEntry, DatabaseEntry, Snapshot
from actors.sessions.backup.members import Draft
from actors.sessions.backup.names import escape

RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)
"""Decodes only what is asked for, and that without fail: dates beyond Python's, texts that are no UTF-8."""

EXACT: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)
"""Extended JSON that keeps every type of BSON."""

BATCH_BYTES = 4 * 1024 * 1024
"""Read at once, about; the server by itself would send 16 MiB."""
BUCKETS = "system.buckets."
FOLDER = "mongodb"
SNAPSHOT_TRIES = 3
PAUSE_SECONDS = 0.5

NAMESPACE_NOT_FOUND = 26
TOO_OLD = 239
UNAVAILABLE = 246
NO_SNAPSHOTS = frozenset({20, 72, 123, 263})
"""IllegalOperation, InvalidOptions, NotAReplicaSet, OperationNotSupportedInTransaction: this server has none."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A collection as the server lists it."""

    name: str
    type: Literal["collection", "view", "timeseries"]
    options: Document
    uuid: str | None

    @property
    def data(self) -> str | None:
        """The collection that holds its documents."""
        return {"view": None, "timeseries": BUCKETS + self.name}.get(self.type, self.name)


@dataclass(slots=True)
class _Instant:
    """The one time at which collections are read; the first read sets it."""

    wanted: bool
    cluster_time: Timestamp | None = None
    reason: str | None = None

    def read_concern(self) -> Document:
        if not self.wanted:
            return {"level": "majority"}
        if self.cluster_time is None:
            return {"level": "snapshot"}
        return {"level": "snapshot", "atClusterTime": self.cluster_time}


class _Moved(Exception):
    """Collections came, went or were rebuilt: the snapshot does not show them as they are listed."""


async def list_collections(database: Database) -> list[Listed]:
    """All that is worth keeping: collections, time series and views, in order of their names.

    Without what belongs to the server: ``system.*`` but ``system.js``, and the buckets and views that others stand for.
    """
    found = []
    cursor = await database.with_options(codec_options=EXACT).list_collections()
    async for each in cursor:
        name = each["name"]
        if name.startswith("system.") and name != "system.js":
            continue
        uuid = each.get("info", {}).get("uuid", b"").hex() or None
        found.append(Listed(name, each.get("type", "collection"), each.get("options", {}), uuid))
    return sorted(found, key=lambda each: each.name)


async def size_of(database: Database) -> int:
    """Bytes of all documents, before compression."""
    return int((await database.command("dbStats"))["dataSize"])


async def copy_database(database: Database, draft: Draft) -> DatabaseEntry:
    """Add a database to the draft, all collections at one time if the server can look back that far.

    It is read twice more when collections change meanwhile (one that was dropped reads as empty, without an error), and
    then as it is, collection after collection. The entry says which.
    """
    count = len(draft.members)
    for _ in range(SNAPSHOT_TRIES):
        instant = _Instant(wanted=True)
        listed = await list_collections(database)
        try:
            entries = await _copy_all(database, draft, listed, instant)
            if instant.wanted and _shapes(await list_collections(database)) != _shapes(listed):
                raise _Moved
        except _Moved:
            await draft.drop_after(count)
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        return _entry(database, entries, instant)
    instant = _Instant(wanted=False, reason="collections changed while they were read")
    return _entry(database, await _copy_all(database, draft, await list_collections(database), instant), instant)


def _shapes(listed: Sequence[Listed]) -> set[tuple[str, str | None]]:
    return {(each.name, each.uuid) for each in listed}


def _entry(database: Database, entries: Sequence[CollectionEntry], instant: _Instant) -> DatabaseEntry:
    moment = instant.cluster_time
    mode: Literal["snapshot", "mixed", "live"] = "snapshot"
    if not instant.wanted:
        mode = "mixed" if any(entry.data and entry.at_snapshot for entry in entries) else "live"
    if mode == "live":
        moment = None
    snapshot = Snapshot(
        mode=mode,
        at=datetime.fromtimestamp(moment.time, UTC) if moment else None,
        cluster_time=f"{moment.time}.{moment.inc}" if moment else None,
        reason=instant.reason,
    )
    return DatabaseEntry(name=database.name, snapshot=snapshot, collections=tuple(entries))


@dataclass(frozen=True, slots=True)
class _Copied:
    """A collection whose documents lie in the spool."""

    listed: Listed
    metadata: str
    spool: Path | None
    documents: int
    at_snapshot: bool


async def _copy_all(
    database: Database, draft: Draft, listed: Sequence[Listed], instant: _Instant
) -> list[CollectionEntry]:
    """First copy all, then compress: the copies are what has to be made while the server remembers."""
    copied = [await _copy(database, draft, each, instant) for each in listed]
    return [await _add(database.name, draft, each) for each in copied]


async def _copy(database: Database, draft: Draft, listed: Listed, instant: _Instant) -> _Copied:
    metadata = await _metadata(database, listed)
    if listed.data is None:
        return _Copied(listed, metadata, None, 0, at_snapshot=instant.wanted)
    spool = draft.spool()
    while True:
        try:
            documents = await _copy_documents(database, listed.data, spool, instant, draft)
            return _Copied(listed, metadata, spool, documents, at_snapshot=instant.wanted)
        except OperationFailure as error:
            if not instant.wanted:
                raise
            if error.code == UNAVAILABLE:
                raise _Moved from error
            if error.code != TOO_OLD and error.code not in NO_SNAPSHOTS:
                raise
            # This one again from its beginning, and the rest, as they are now.
            instant.wanted = False
            instant.reason = str(error).partition(", full error")[0][:300]


async def _copy_documents(database: Database, name: str, spool: Path, instant: _Instant, draft: Draft) -> int:
    """Write the documents one after the other, as they are; answers how many."""
    documents, written, cursor_id = 0, 0, 0
    find: Document = {"find": name, "readConcern": instant.read_concern()}
    out = await in_thread(spool.open, "wb")
    try:
        async with await database.client.start_session(causal_consistency=False) as session:
            try:
                reply, batch = await database.command(find, codec_options=RAW, session=session), "firstBatch"
                if instant.wanted and instant.cluster_time is None:
                    instant.cluster_time = reply["cursor"].get("atClusterTime")
                while True:
                    cursor_id = reply["cursor"]["id"]
                    count, size = await in_thread(_write_documents, out, reply["cursor"], batch)
                    documents, written = documents + count, written + size
                    await draft.advance(size)
                    if not cursor_id:
                        return documents
                    wanted = max(1, BATCH_BYTES * documents // max(1, written))
                    more = {"getMore": cursor_id, "collection": name, "batchSize": wanted}
                    reply, batch = await database.command(more, codec_options=RAW, session=session), "nextBatch"
            finally:
                if cursor_id:
                    with contextlib.suppress(PyMongoError):
                        await database.command({"killCursors": name, "cursors": [cursor_id]}, session=session)
    finally:
        await in_thread(out.close)


def _write_documents(out: IO[bytes], cursor: RawBSONDocument, batch: str) -> tuple[int, int]:
    raw = [document.raw for document in cursor[batch]]
    out.writelines(raw)
    return len(raw), sum(map(len, raw))


async def _metadata(database: Database, listed: Listed) -> str:
    """What ``mongodump`` writes beside the documents."""
    indexes: list[Document] = []
    if listed.type != "view":
        try:
            reply = await database.command({"listIndexes": listed.name}, codec_options=EXACT)
        except OperationFailure as error:
            if error.code == NAMESPACE_NOT_FOUND:
                raise _Moved from error
            raise
        indexes = reply["cursor"]["firstBatch"]
    metadata: Document = {"options": listed.options, "indexes": indexes}
    if listed.uuid:
        metadata["uuid"] = listed.uuid
    metadata |= {"collectionName": listed.name, "type": listed.type}
    return json_util.dumps(metadata, json_options=JSON)


async def _add(database: str, draft: Draft, copied: _Copied) -> CollectionEntry:
    listed, source = copied.listed, f"{database}.{copied.listed.name}"
    data = None
    if copied.spool is not None and listed.data is not None:
        data = f"{FOLDER}/{database}/{escape(listed.data)}.bson{COMPRESSED}"
        await draft.add(copied.spool, data, "collection", source, documents=copied.documents)
    metadata = f"{FOLDER}/{database}/{escape(listed.name)}.metadata.json"
    spool = draft.spool()
    await in_thread(spool.write_text, copied.metadata, encoding="utf-8")
    await draft.add(spool, metadata, "metadata", source)
    return CollectionEntry(
        name=listed.name,
        type=listed.type,
        documents=copied.documents,
        at_snapshot=copied.at_snapshot,
        data=data,
        metadata=metadata,
    )
