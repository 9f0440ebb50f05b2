"""sessions.backup of MongoDB: what is restored is what was there."""

import asyncio
import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import json_util

from actors.maintenance.blocking import unwatched
from actors.maintenance.database import Client, Database
from actors.sessions import back_up
from actors.sessions.backup import mongodb, restore as restoring
from actors.sessions.backup.job import BackupParams, shelf_folder
from actors.sessions.backup.manifest import (
    MANIFEST,
    SUMS,
    Backup,
    BackupDamaged,
    CollectionEntry,
    Member,
    read_backup,
    write_manifest,
)
from actors.sessions.backup.members import Draft
from actors.sessions.backup.restore import Restored, RestoreFailed, restore_database
from actors.sessions.backup.shelf import LATEST, Shelf
from service.errors import Conflict, InvalidInput, NotFound
from tests.actors.sessions.double import Double
from tests.actors.sessions.zoo import HOSTILE, fill, look


@pytest.fixture
def shelf(context: Double) -> Shelf:
    return Shelf(shelf_folder(context.settings, None))


async def made(context: Double, shelf: Shelf, *databases: str, **params: Any) -> Backup:
    await back_up(BackupParams(databases=databases, preset=0, **params), context.as_context())
    return await shelf.get(LATEST)


async def restored(backup: Backup, client: Client, name: str, into: str, *, force: bool = False) -> Restored:
    return await restore_database(backup, name, client, into, force=force, advance=unwatched)


async def test_a_restored_database_equals_the_original_byte_by_byte(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    await fill(memory)
    original = await look(client, memory.name)

    result = await back_up(BackupParams(databases=(memory.name,), preset=0), context.as_context())
    counts = await restored(await shelf.get(LATEST), client, memory.name, f"{memory.name}_restored")

    copy = await look(client, f"{memory.name}_restored")
    assert set(HOSTILE) < set(copy)
    for name, collection in original.items():
        assert copy[name] == collection, name
    assert list(copy) == list(original)
    documents = sum(len(each["raw"]) for each in original.values())
    assert (counts.collections, counts.documents) == (len(original), documents)
    assert (result["collections"], result["documents"]) == (len(original), documents)
    assert await client[f"{memory.name}_restored"].seen.count_documents({}) == 3
    assert await client[f"{memory.name}_restored"].weather.count_documents({"place": 1}) == 13


async def test_the_files_are_what_mongorestore_reads(context: Double, shelf: Shelf, memory: Database) -> None:
    await memory.many.insert_many([{"_id": n, "a": n} for n in range(500)])
    await memory.many.create_index([("b", 1), ("a", -1)], name="ba", unique=True)
    long = "é" * 100
    await memory[long].insert_one({})

    backup = await made(context, shelf, memory.name)

    folder = backup.folder / "mongodb" / memory.name
    stream = lzma.decompress((folder / "many.bson.xz").read_bytes())
    assert [each["_id"] for each in bson.decode_all(stream)] == list(range(500))
    metadata = json.loads((folder / "many.metadata.json").read_text())
    one, two = {"$numberInt": "1"}, {"$numberInt": "2"}
    assert metadata["indexes"] == [
        {"v": two, "key": {"_id": one}, "name": "_id_"},
        {"v": two, "key": {"b": one, "a": {"$numberInt": "-1"}}, "name": "ba", "unique": True},
    ]
    assert (metadata["options"], metadata["collectionName"], metadata["type"]) == ({}, "many", "collection")
    assert len(metadata["uuid"]) == 32
    [cut] = [path for path in folder.iterdir() if path.name.startswith("%C3") and path.name.endswith(".json")]
    # As mongodump cuts it; mongorestore then takes the name from the metadata.
    assert len(cut.name.removesuffix(".metadata.json")) == 238
    assert "%24" in cut.name
    assert json_util.loads(cut.read_text())["collectionName"] == long


async def test_an_empty_database_is_backed_up_and_restored(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    backup = await made(context, shelf, memory.name)

    counts = await restored(backup, client, memory.name, f"{memory.name}_restored")

    assert backup.manifest.targets.databases == (memory.name,)
    assert counts.collections == 0


async def test_the_engines_and_the_memory_database_are_the_default(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    await client[context.settings.database].tasks.insert_one({"_id": 1})
    await memory.messages.insert_one({"_id": 1})

    await back_up(BackupParams(preset=0), context.as_context())

    manifest = (await shelf.get(LATEST)).manifest
    assert set(manifest.targets.databases) == {memory.name, context.settings.database}
    assert manifest.documents == 2


# -- one time for all collections --------------------------------------------------------------------------------------


async def test_all_collections_are_read_at_one_time(
    context: Double, shelf: Shelf, client: Client, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        await memory[name].insert_many([{"_id": n} for n in range(200)])
    whole = mongodb._copy_documents

    async def disturbed(database: Database, name: str, *rest: Any) -> int:
        count = await whole(database, name, *rest)
        for each in ("a", "b", "c"):
            await memory[each].insert_one({})
            await memory[each].delete_one({"_id": 7})
        return count

    monkeypatch.setattr(mongodb, "_copy_documents", disturbed)
    manifest = (await made(context, shelf, memory.name)).manifest

    [entry] = manifest.databases
    assert [collection.documents for collection in entry.collections] == [200, 200, 200]
    assert (entry.snapshot.mode, entry.snapshot.reason) == ("snapshot", None)
    assert entry.snapshot.at is not None
    assert entry.snapshot.cluster_time is not None


@pytest.mark.parametrize("after", [0, 1])
async def test_beyond_the_servers_history_it_is_read_as_it_is_and_the_manifest_says_so(
    context: Double, shelf: Shelf, client: Client, memory: Database, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    for name in ("a", "b", "c"):
        await memory[name].insert_many([{"_id": n} for n in range(200)])
    whole = mongodb._copy_documents
    calls = 0

    async def late(database: Database, name: str, spool: Path, instant: Any, draft: Draft) -> int:
        nonlocal calls
        calls += 1
        if calls == after + 1 and instant.wanted:
            if instant.cluster_time is None:
                reply = await database.command({"find": name, "readConcern": {"level": "snapshot"}})
                instant.cluster_time = reply["cursor"]["atClusterTime"]
            await _forget_history(client)
        return await whole(database, name, spool, instant, draft)

    monkeypatch.setattr(mongodb, "_copy_documents", late)
    try:
        backup = await made(context, shelf, memory.name)
    finally:
        await client.admin.command({"setParameter": 1, "minSnapshotHistoryWindowInSeconds": 300})

    [entry] = backup.manifest.databases
    assert (entry.snapshot.at is None) == (after == 0)
    assert [collection.at_snapshot for collection in entry.collections] == [number < after for number in range(3)]
    assert entry.snapshot.mode == ("mixed" if after else "live")
    assert "older than the oldest available" in (entry.snapshot.reason or "")
    await restored(backup, client, memory.name, f"{memory.name}_restored")
    assert await look(client, f"{memory.name}_restored") == await look(client, memory.name)


async def _forget_history(client: Client) -> None:
    await client.admin.command({"setParameter": 1, "minSnapshotHistoryWindowInSeconds": 0})
    for _ in range(3):
        await client.test_history.touch.insert_one({})
        await asyncio.sleep(0.4)
    await client.drop_database("test_history")


@pytest.mark.parametrize("what", ["dropped", "renamed", "created", "indexed"])
async def test_collections_that_change_meanwhile_are_read_again(
    context: Double, shelf: Shelf, client: Client, memory: Database, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for name in ("a", "b", "c"):
        await memory[name].insert_many([{"_id": n} for n in range(20)])
    whole = mongodb._copy_documents
    monkeypatch.setattr(mongodb, "PAUSE_SECONDS", 0.01)
    changed = False

    async def changing(database: Database, name: str, *rest: Any) -> int:
        nonlocal changed
        count = await whole(database, name, *rest)
        if not changed:
            changed = True
            if what == "dropped":
                await memory.c.drop()
            elif what == "renamed":
                await memory.c.rename("z")
            elif what == "created":
                await memory.d.insert_one({"_id": 1})
            else:
                await memory.c.create_index("n")
        return count

    monkeypatch.setattr(mongodb, "_copy_documents", changing)
    backup = await made(context, shelf, memory.name)

    [entry] = backup.manifest.databases
    assert entry.snapshot.mode == "snapshot"
    counts = {collection.name: collection.documents for collection in entry.collections}
    assert (
        counts
        == {
            "dropped": {"a": 20, "b": 20},
            "renamed": {"a": 20, "b": 20, "z": 20},
            "created": {"a": 20, "b": 20, "c": 20, "d": 1},
            "indexed": {"a": 20, "b": 20, "c": 20},
        }[what]
    )
    await restored(backup, client, memory.name, f"{memory.name}_restored")
    assert await look(client, f"{memory.name}_restored") == await look(client, memory.name)


async def test_collections_that_never_stop_changing_are_read_as_they_are(
    context: Double, shelf: Shelf, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.a.insert_one({})
    whole = mongodb._copy_documents
    monkeypatch.setattr(mongodb, "PAUSE_SECONDS", 0.01)
    number = 0

    async def changing(*args: Any) -> int:
        nonlocal number
        number += 1
        await memory[f"new{number}"].insert_one({})
        return await whole(*args)

    monkeypatch.setattr(mongodb, "_copy_documents", changing)
    [entry] = (await made(context, shelf, memory.name)).manifest.databases

    assert entry.snapshot.mode == "live"
    assert "changed" in (entry.snapshot.reason or "")
    assert "a" in {collection.name for collection in entry.collections}


# -- restore -----------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_not_empty_is_replaced_only_by_force(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    await memory.notes.insert_one({"_id": 1})
    backup = await made(context, shelf, memory.name)
    other = client[f"{memory.name}_other"]
    await other.precious.insert_one({"_id": 1})

    with pytest.raises(Conflict, match="not empty.*--force"):
        await restored(backup, client, memory.name, other.name)
    assert await other.list_collection_names() == ["precious"]

    await restored(backup, client, memory.name, other.name, force=True)
    assert await other.list_collection_names() == ["notes"]


async def test_a_damaged_backup_is_found_before_anything_is_dropped(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    await memory.notes.insert_many([{"_id": n} for n in range(100)])
    backup = await made(context, shelf, memory.name)
    path = backup.folder / "mongodb" / memory.name / "notes.bson.xz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(BackupDamaged, match=r"nothing was restored.*notes\.bson\.xz"):
        await restored(backup, client, memory.name, memory.name, force=True)

    assert await memory.notes.count_documents({}) == 100


def replaced(backup: Backup, kind: str, content: bytes, documents: int | None = None) -> Backup:
    """The same backup with another content of its only member of this kind, in order by all its sums."""

    def counted(entry: CollectionEntry) -> CollectionEntry:
        return entry if documents is None else entry.model_copy(update={"documents": documents})

    def written(member: Member) -> Member:
        if member.kind != kind:
            return member
        stored = lzma.compress(content) if member.compressed else content
        (backup.folder / member.file).write_bytes(stored)
        said = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "documents": documents}
        stored_said = {"file_bytes": len(stored), "file_sha256": hashlib.sha256(stored).hexdigest()}
        return member.model_copy(update=said | stored_said)

    [database] = backup.manifest.databases
    database = database.model_copy(update={"collections": tuple(map(counted, database.collections))})
    members = tuple(map(written, backup.manifest.members))
    for name in (MANIFEST, SUMS):
        (backup.folder / name).unlink()
    write_manifest(backup.folder, backup.manifest.model_copy(update={"members": members, "databases": (database,)}))
    return read_backup(backup.folder)


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\xff",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"options": [], "indexes": []}',
        b'{"options": {}, "indexes": null}',
        b'{"options": {}, "indexes": [{"key": {"a": 1}}]}',
        b'{"options": {"a": {"$oid": "x"}}, "indexes": []}',
        b'{"options": {"a": {"$binary": 1}}, "indexes": []}',
        b'{"options": {"a": {"$numberDecimal": "x"}}, "indexes": []}',
        b'{"options": {"a": 9223372036854775808}, "indexes": []}',
        b'{"options": {"\\u0000": 1}, "indexes": []}',
        b'{"options": {"a": "\\ud800"}, "indexes": []}',
    ],
    ids=lambda metadata: repr(metadata[:50]),
)
async def test_options_that_no_server_can_be_told_are_found_before_anything_is_dropped(
    context: Double, shelf: Shelf, client: Client, memory: Database, metadata: bytes
) -> None:
    await memory.notes.insert_one({"_id": 1})
    backup = replaced(await made(context, shelf, memory.name), "metadata", metadata)

    with pytest.raises(BackupDamaged, match=r"notes\.metadata\.json does not say how the collection is made"):
        await restored(backup, client, memory.name, memory.name, force=True)

    assert await memory.notes.count_documents({}) == 1


async def test_options_that_would_fill_the_memory_are_not_read(
    context: Double, shelf: Shelf, client: Client, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.notes.insert_one({"_id": 1})
    backup = await made(context, shelf, memory.name)
    monkeypatch.setattr(restoring, "MOST_METADATA", 50)

    with pytest.raises(BackupDamaged, match=r"notes\.metadata\.json has more than 50 bytes"):
        await restored(backup, client, memory.name, memory.name, force=True)

    assert await memory.notes.count_documents({}) == 1


async def test_a_document_that_does_not_end_where_it_says_is_found_before_anything_is_dropped(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    await memory.notes.insert_one({"_id": 1})
    content = bson.encode({"_id": 1})[:-1] + b"x"
    backup = replaced(await made(context, shelf, memory.name), "collection", content, documents=1)

    with pytest.raises(BackupDamaged, match=r"nothing was restored.*does not end there"):
        await restored(backup, client, memory.name, memory.name, force=True)

    assert await memory.notes.count_documents({}) == 1


async def test_a_document_that_is_none_inside_is_damage(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    content = bson.encode({"_id": 1, "a": bson.Timestamp(0, 0), "b": "text"}).replace(b"\x02b", b"\x7eb")
    await memory.notes.insert_one({"_id": 1})
    backup = replaced(await made(context, shelf, memory.name), "collection", content, documents=1)

    with pytest.raises(BackupDamaged, match=r"notes\.bson\.xz"):
        await restored(backup, client, memory.name, f"{memory.name}_restored")


async def test_a_document_without_an_id_is_given_one(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    await memory.notes.insert_one({"_id": 1})
    content = bson.encode({"a": bson.Timestamp(0, 0)})
    backup = replaced(await made(context, shelf, memory.name), "collection", content, documents=1)

    counts = await restored(backup, client, memory.name, f"{memory.name}_restored")

    assert (
        counts.documents == await client[f"{memory.name}_restored"].notes.count_documents({"_id": {"$ne": None}}) == 1
    )


async def test_what_the_backup_does_not_hold_cannot_be_restored(
    context: Double, shelf: Shelf, client: Client, memory: Database
) -> None:
    backup = await made(context, shelf, memory.name)

    with pytest.raises(NotFound, match=memory.name):
        await restored(backup, client, "nothing", f"{memory.name}_restored")
    for name in ("admin", "local", "config"):
        with pytest.raises(Conflict, match="belongs to the server"):
            await restored(backup, client, memory.name, name, force=True)


async def test_a_restore_that_the_server_refuses_says_that_it_is_incomplete(
    context: Double, shelf: Shelf, client: Client, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.notes.insert_many([{"_id": n} for n in range(10)])
    backup = await made(context, shelf, memory.name)
    whole = restoring._batches
    monkeypatch.setattr(restoring, "_batches", lambda *args: (batch * 2 for batch in whole(*args)))

    with pytest.raises(RestoreFailed, match="duplicate key"):
        await restored(backup, client, memory.name, f"{memory.name}_restored")


WRONG_NAMES = ["", "a/b", "a.b", "a b", "$a", "a" * 64, "é" * 32, "a\0", "\udcff"]


@pytest.mark.parametrize("name", WRONG_NAMES, ids=ascii)
async def test_a_name_that_no_database_has_cannot_be_restored_into(
    context: Double, shelf: Shelf, client: Client, memory: Database, name: str
) -> None:
    backup = await made(context, shelf, memory.name)

    with pytest.raises(InvalidInput, match="is not the name of a MongoDB database"):
        await restored(backup, client, memory.name, name, force=True)


@pytest.mark.parametrize("name", WRONG_NAMES[:-1], ids=ascii)
def test_names_that_no_database_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a MongoDB database"):
        BackupParams(databases=(name,))
