"""Bring a database back from a backup, under a name that the caller gives."""

import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import bson
from bson import Timestamp, json_util
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError

from actors.maintenance.blocking import Advance, in_thread
from actors.maintenance.database import Client, Database, Document
from actors.sessions.backup.manifest import Backup, BackupDamaged, CollectionEntry, DatabaseEntry, Member
from actors.sessions.backup.mongodb import BUCKETS, JSON, NAMESPACE_NOT_FOUND, RAW, list_collections
from actors.sessions.backup.names import names_database
from actors.sessions.backup.verify import Splitter, contents, verify_members
from service.errors import Conflict, InvalidInput, NotFound, StoreUnavailable, VergerError

BATCH_BYTES = 8 * 1024 * 1024
"""Of documents in one insert; one alone may have 16 MiB."""
BATCH_DOCUMENTS = 10_000
MOST_METADATA = 64 * 1024 * 1024
"""Bytes of options and indexes, which are read into memory: far more than any collection has."""
SERVERS_OWN = frozenset({"admin", "local", "config"})
DURABLE = {"w": "majority"}
_NO_TIME = Timestamp(0, 0)


class RestoreFailed(VergerError):
    """The database could not be made what was backed up."""


@dataclass(slots=True)
class Restored:
    """What was brought back."""

    database: str
    collections: int = 0
    documents: int = 0
    indexes: int = 0
    bytes: int = 0


async def restore_database(
    backup: Backup, name: str, client: Client, into: str, *, force: bool = False, advance: Advance
) -> Restored:
    """Restore the database ``name`` of a backup into the database ``into``: documents, options, indexes, views.

    All its members are verified before anything is written, or dropped.

    Args:
        force: drop ``into`` first, if there is something in it.

    Raises:
        NotFound: the backup does not hold that database.
        InvalidInput: no database can be called ``into``.
        Conflict: ``into`` is not empty and ``force`` is not set, or it is one of the server's own.
        BackupDamaged: a member is not what was written.
        StoreUnavailable: the server does not answer; nothing was changed.
        RestoreFailed: the server refused something, or went away; ``into`` is incomplete.
    """
    found = next((each for each in backup.manifest.databases if each.name == name), None)
    if found is None:
        held = ", ".join(each.name for each in backup.manifest.databases) or "none"
        raise NotFound(f"backup {backup.manifest.id} holds no database {name!r}; it holds {held}")
    if not names_database(into):
        raise InvalidInput("into", into, "is not the name of a MongoDB database", "choose another one")
    if into in SERVERS_OWN:
        raise Conflict(f"{into!r} belongs to the server; restore into another database")
    target = client[into]
    try:
        existing = await list_collections(target)
    except PyMongoError as error:
        raise StoreUnavailable(
            f"database {into!r} cannot be looked at, nothing was changed: {_short(error)}"
        ) from error
    if existing and not force:
        raise Conflict(f"database {into!r} is not empty: it has {len(existing)} collections; use --force to replace it")
    problems = await verify_members(backup.folder, _members(backup, found), advance)
    if problems:
        listed = "; ".join(f"{problem.file}: {problem.problem}" for problem in problems[:10])
        raise BackupDamaged(f"backup {backup.manifest.id} is damaged, nothing was restored: {listed}")
    for entry in found.collections:
        await in_thread(_metadata, backup, entry)
    try:
        if existing:
            await client.drop_database(into)
        return await _Restore(backup, found, target, advance).run()
    except PyMongoError as error:
        raise RestoreFailed(f"database {into!r} is incomplete: {_short(error)}") from error


def _short(error: PyMongoError) -> str:
    return str(error).partition(", full error")[0].partition(", Timeout:")[0][:500]


def _members(backup: Backup, database: DatabaseEntry) -> list[Member]:
    files = [file for entry in database.collections for file in (entry.metadata, entry.data) if file is not None]
    return [backup.manifest.member(file) for file in files]


def _metadata(backup: Backup, entry: CollectionEntry) -> Document:
    """Options and indexes of a collection, in a form that the server can be told. Raises BackupDamaged."""
    member = backup.manifest.member(entry.metadata)
    if member.bytes > MOST_METADATA:
        raise BackupDamaged(f"{member.file} has more than {MOST_METADATA} bytes")
    text = b"".join(contents(backup.folder, member))
    try:
        metadata: Document = json_util.loads(text.decode(), json_options=JSON)
        bson.encode(metadata)
        options, indexes = metadata["options"], metadata["indexes"]
        if not (isinstance(options, dict) and all(isinstance(index["name"], str) for index in indexes)):
            raise TypeError("options or indexes of another kind")
    except Exception as error:  # extended JSON that is none raises whatever its parts raise
        problem = f"{type(error).__name__}: {error}"[:300]
        raise BackupDamaged(f"{member.file} does not say how the collection is made: {problem}") from error
    return metadata


class _Restore:
    def __init__(self, backup: Backup, database: DatabaseEntry, target: Database, advance: Advance) -> None:
        self._backup, self._database, self._target = backup, database, target
        self._advance = advance
        self._restored = Restored(target.name)

    async def run(self) -> Restored:
        for entry in self._database.collections:
            await self._collection(entry)
        return self._restored

    async def _collection(self, entry: CollectionEntry) -> None:
        metadata = await in_thread(_metadata, self._backup, entry)
        await self._create(entry.name, metadata["options"])
        if entry.data is not None:
            await self._documents(entry, self._backup.manifest.member(entry.data))
        # After the documents: to build an index once is cheaper than to keep it up to date.
        await self._indexes(entry.name, metadata["indexes"])
        self._restored.collections += 1

    async def _create(self, name: str, options: Document) -> None:
        # The server lists an option that it does not take back as it says it.
        wanted = {key: value for key, value in options.items() if key not in ("autoIndexId", "uuid")}
        await self._target.command({"create": name, **wanted, "writeConcern": DURABLE})

    async def _documents(self, entry: CollectionEntry, member: Member) -> None:
        name = BUCKETS + entry.name if entry.type == "timeseries" else entry.name
        batches = _batches(self._backup, member)
        try:
            while batch := await in_thread(next, batches, None):
                await self._insert(name, batch)
                size = sum(len(document.raw) for document in batch)
                self._restored.documents += len(batch)
                self._restored.bytes += size
                await self._advance(size)
        except (lzma.LZMAError, BSONError) as error:
            raise BackupDamaged(f"{member.file}: {error}") from error
        count = await self._count(name)
        if count != entry.documents:
            raise RestoreFailed(f"{self._target.name}.{entry.name} has {count} documents, not {entry.documents}")

    async def _insert(self, name: str, documents: Sequence[RawBSONDocument]) -> None:
        stamped = [document for document in documents if _has_empty_timestamp(document)]
        apart = set(map(id, stamped))
        plain = [document for document in documents if id(document) not in apart] if stamped else documents
        if plain:
            reply = await self._target.command(
                {
                    "insert": name,
                    "documents": plain,
                    "ordered": True,
                    # The rules may be younger than the documents.
                    "bypassDocumentValidation": True,
                    "writeConcern": DURABLE,
                }
            )
            self._refuse(name, reply)
        for document in stamped:
            await self._put(name, document)

    async def _put(self, name: str, document: RawBSONDocument) -> None:
        # An insert would fill in the server's time; what a pipeline computes is taken as it is.
        update = {
            "q": {"_id": {"$eq": document["_id"]}},
            "u": [{"$replaceWith": {"$literal": document}}],
            "upsert": True,
        }
        command = {"update": name, "updates": [update], "bypassDocumentValidation": True, "writeConcern": DURABLE}
        self._refuse(name, await self._target.command(command))

    def _refuse(self, name: str, reply: Document) -> None:
        problems = [*reply.get("writeErrors", ()), *filter(None, [reply.get("writeConcernError")])]
        if problems:
            raise RestoreFailed(f"{self._target.name}.{name}: {str(problems[0].get('errmsg'))[:300]}")

    async def _indexes(self, name: str, indexes: Sequence[Document]) -> None:
        wanted = [
            {key: value for key, value in index.items() if key != "ns"} for index in indexes if index["name"] != "_id_"
        ]
        if wanted:
            await self._target.command({"createIndexes": name, "indexes": wanted, "writeConcern": DURABLE})
        self._restored.indexes += len(indexes)

    async def _count(self, name: str) -> int:
        pipeline = [{"$count": "count"}]
        try:
            reply = await self._target.command({"aggregate": name, "pipeline": pipeline, "cursor": {}})
        except OperationFailure as error:
            if error.code == NAMESPACE_NOT_FOUND:
                return 0
            raise
        return sum(int(each["count"]) for each in reply["cursor"]["firstBatch"])


def _has_empty_timestamp(document: RawBSONDocument) -> bool:
    """Whether a field of the document itself is the timestamp that servers replace by their own time."""
    # The bytes first: to look at every field of every document would cost more than all the rest.
    return (
        bytes(8) in document.raw
        and b"\x11" in document.raw
        and "_id" in document  # else the server gives it one
        and any(value == _NO_TIME for key, value in document.items() if key != "_id")
    )


def _batches(backup: Backup, member: Member) -> Iterator[list[RawBSONDocument]]:
    splitter = Splitter()
    batch: list[RawBSONDocument] = []
    size = 0
    for piece in contents(backup.folder, member):
        for raw in splitter.add(piece):
            if batch and (size + len(raw) > BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS):
                yield batch
                batch, size = [], 0
            batch.append(RawBSONDocument(raw, RAW))
            size += len(raw)
    if batch:
        yield batch
