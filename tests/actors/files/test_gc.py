"""``files.gc``: blobs that nothing refers to go, in two steps; no upload loses anything."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from actors.maintenance.database import Database
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.files.blobs import OLD, blob, file, hash_of
from tests.actors.interleaving import After, cancelled_after
from tests.actors.observing import plans
from tests.conftest import DatabaseClient

JOB = "files.gc"
YOUNG = timedelta(minutes=5)


async def left(memory: Database) -> set[str]:
    return {each["_id"] async for each in memory.blobs.find({}, {"_id": 1})}


async def condemned(memory: Database) -> set[str]:
    return {each["_id"] async for each in memory.blobs.find({"condemnedAt": {"$exists": True}}, {"_id": 1})}


async def test_what_nothing_refers_to_is_condemned_and_swept_by_a_later_run(
    family: Family, memory: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    await file(memory, "/data/a", b"one", b"two")
    in_snapshot = await blob(memory, b"root")
    await memory.snapshots.insert_one({"_id": "monday", "roots": [in_snapshot, "no such blob"]})
    unused, young = await blob(memory, b"unused"), await blob(memory, b"young", age=YOUNG)
    undated = await blob(memory, b"undated")
    await memory.blobs.update_one({"_id": undated}, {"$unset": {"createdAt": ""}})
    taken_up = await blob(memory, b"three", condemned=OLD)
    await file(memory, "/data/b", b"three")

    first = await family.run("gc", {"batchSize": 2})
    assert (first["scanned"], first["marked"], first["young"]) == (7, 4, 1)
    assert (first["condemned"], first["pardoned"], first["swept"]) == (2, 1, 0)
    assert await condemned(memory) == {unused, undated}

    before = await family.contents()
    again = await family.run(JOB)
    assert (again["condemned"], again["pardoned"], again["swept"]) == (0, 0, 0)
    assert await family.contents() == before, "right after, there is nothing to do"

    capsys.readouterr()
    async with family.engine() as verger:
        await verger.advance(hours=1, seconds=1)
        await verger.client.enqueue(JOB)
        await verger.run_until_idle()
    assert await left(memory) == {hash_of(b"one"), hash_of(b"two"), in_snapshot, taken_up, young}
    assert await condemned(memory) == {young}
    said = capsys.readouterr()
    [line] = [line for line in (said.out + said.err).splitlines() if "gc.completed" in line]
    assert "marked=4" in line
    assert "swept=2" in line
    assert f"bytes_freed={len(b'unused') + len(b'undated')}" in line


async def test_files_of_gridfs_go_with_their_blobs(family: Family, memory: Database) -> None:
    await blob(memory, b"x" * 5000, condemned=OLD, gridfs=True)
    kept = await blob(memory, b"y" * 5000, gridfs=True)
    await file(memory, "/data/kept", b"y" * 5000)

    result = await family.run(JOB)

    assert (result["swept"], result["bytes_freed"]) == (1, 5000)
    assert await left(memory) == {kept}
    assert await memory["fs.files"].count_documents({}) == 1
    assert await memory["fs.chunks"].count_documents({}) == 5
    assert await memory.gc_garbage.count_documents({}) == 0


async def test_a_dry_run_says_what_would_go_and_most_blobs_do_not_go_at_once(family: Family, memory: Database) -> None:
    for number in range(30):
        await blob(memory, b"%d" % number, condemned=OLD)
    await blob(memory, b"fresh")
    before = await family.contents()

    dry = await family.run(JOB, {"dryRun": True, "force": True})
    assert (dry["swept"], dry["condemned"]) == (30, 1)
    assert await family.contents() == before

    refused = await family.task(JOB)
    assert refused.status is TaskStatus.FAILED
    assert refused.last_error is not None
    assert "refused to delete 30 of 31 blobs" in refused.last_error.message
    assert (await family.run(JOB, {"force": True}))["swept"] == 30


async def test_a_clock_that_was_set_back_makes_nothing_go_sooner(family: Family, memory: Database) -> None:
    ahead = await blob(memory, b"created ahead", age=-OLD)
    again = await blob(memory, b"condemned ahead", condemned=-OLD)

    result = await family.run(JOB)

    assert (result["young"], result["condemned"], result["swept"]) == (1, 1, 0)
    assert await left(memory) == {ahead, again}
    found = await memory.blobs.find_one({"_id": again})
    assert found is not None
    assert found["condemnedAt"] <= datetime.now(UTC)


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6], ids=lambda nth: f"after look {nth}")
async def test_an_upload_at_any_moment_of_the_sweep_loses_nothing(
    family: Family, memory: Database, database_client: DatabaseClient, nth: int
) -> None:
    data = b"wanted again" * 100
    key = await blob(memory, data, condemned=OLD, gridfs=True)
    await blob(memory, b"other", condemned=OLD)
    own = database_client[memory.name]

    def upload() -> None:
        # As the contract says: take the blob, else write it anew; then the file.
        now = datetime.now(UTC)
        take = {"$set": {"createdAt": now}, "$unset": {"condemnedAt": ""}}
        if not own.blobs.update_one({"_id": key}, take).matched_count:
            stored = ObjectId()
            own.fs.files.insert_one({"_id": stored, "length": len(data), "chunkSize": 2000, "uploadDate": now})
            own.fs.chunks.insert_one({"files_id": stored, "n": 0, "data": data})
            own.blobs.insert_one({"_id": key, "gridfs": stored, "size": len(data), "createdAt": now})
        own.files.insert_one({"_id": "/data/new", "blobs": [key], "hash": key, "size": len(data)})

    moments = [
        ("aggregate", "files", 1),  # marked as unused
        ("find", "blobs", 2),  # found as due
        ("update", "gc_garbage", 1),  # noted
        ("aggregate", "files", 2),  # looked at again, right before it is deleted
        ("delete", "blobs", 1),  # deleted
        ("delete", "fs.files", 1),
    ]
    command, collection, count = moments[nth - 1]
    with After(memory.name, command, collection, upload, nth=count) as uploaded:
        await family.run(JOB)
    assert uploaded.happened
    await family.run(JOB)

    found = await memory.blobs.find_one({"_id": key})
    assert found is not None
    assert await left(memory) == {key}
    chunks = await memory["fs.chunks"].find({"files_id": found["gridfs"]}, sort=[("n", 1)]).to_list(None)
    assert b"".join(chunk["data"] for chunk in chunks) == data
    assert await memory["fs.chunks"].count_documents({"files_id": {"$ne": found["gridfs"]}}) == 0
    assert await memory["fs.files"].count_documents({}) == 1


async def test_a_blob_that_was_not_taken_but_is_referred_to_by_the_last_look_stays(
    family: Family, memory: Database, database_client: DatabaseClient
) -> None:
    key = await blob(memory, b"wanted again", condemned=OLD)
    await blob(memory, b"other", condemned=OLD)
    own = database_client[memory.name]

    def write() -> None:
        own.files.insert_one({"_id": "/data/new", "blobs": [key], "hash": key, "size": 12})

    with After(memory.name, "find", "blobs", write, nth=2) as written:
        result = await family.run(JOB)

    assert (written.happened, result["swept"], await left(memory)) == (True, 1, {key})
    assert (await family.run(JOB))["pardoned"] == 1


async def garbage(memory: Database) -> None:
    """Twelve blobs that are due, every other one in GridFS, and four that are not."""
    for number in range(12):
        await blob(memory, b"due %d" % number * 200, condemned=OLD, gridfs=number % 2 == 0)
    for number in range(2):
        await blob(memory, b"unused %d" % number)
        await file(memory, f"/data/{number}", b"used %d" % number)


@pytest.mark.parametrize("after", [3, 5, 6, 8])
async def test_killed_anywhere_it_comes_to_the_same_end(family: Family, memory: Database, after: int) -> None:
    await garbage(memory)
    body = {"batchSize": 4}

    await family.die(JOB, {**body, "force": True}, after=after)
    async for each in memory.blobs.find({"gridfs": {"$exists": True}}):
        assert await memory["fs.chunks"].count_documents({"files_id": each["gridfs"]}) > 0, "none is left torn"
    await family.run(JOB, {**body, "force": True})

    assert await memory.blobs.count_documents({}) == 4
    assert len(await condemned(memory)) == 2
    for name in ("fs.files", "fs.chunks", "gc_garbage"):
        assert await memory[name].count_documents({}) == 0, name


async def test_cancelled_it_stops_after_a_batch_with_its_checkpoint(family: Family, memory: Database) -> None:
    await garbage(memory)
    body = {"batchSize": 4, "force": True}

    stopped = await cancelled_after(family, JOB, body, "delete", "blobs", nth=1)

    assert stopped.status is TaskStatus.CANCELLED
    assert await memory.blobs.count_documents({}) == 12
    assert stopped.checkpoint["marking"] is False
    assert stopped.checkpoint["counts"]["swept"] == 4


async def test_the_next_attempt_marks_only_what_is_left(
    family: Family, memory: Database, database_client: DatabaseClient
) -> None:
    await garbage(memory)
    own = database_client[memory.name]

    def refuse() -> None:
        own.command("collMod", "blobs", validator={"condemnedAt": {"$lt": datetime.now(UTC) - YOUNG}})

    with (
        After(memory.name, "find", "blobs", refuse),
        After(memory.name, "aggregate", "files", refuse, nth=1000) as looks,
    ):
        async with family.engine() as verger:
            task = await verger.client.enqueue(JOB, {"batchSize": 1, "force": True})
            await verger.run_until_idle()
            failed, looked = await verger.client.get(task.id), looks.seen
            own.command("collMod", "blobs", validator={})
            await verger.client.replay(task.id)
            await verger.run_until_idle()
            ended = await verger.client.get(task.id)

    assert failed.status is TaskStatus.FAILED
    before = failed.checkpoint["counts"]["scanned"]
    assert ended.result["scanned"] == 16
    assert looks.seen - looked == 16 - before + 12, "what was left to mark, and each that is due"


async def test_two_at_once_do_no_harm(family: Family, memory: Database) -> None:
    await garbage(memory)

    async with family.engine() as verger:
        same = [await verger.client.enqueue(JOB, {"force": True}, delay="1h") for _ in range(2)]
        assert same[0].id == same[1].id, "one with the same arguments waits already"
    results: list[dict[str, Any]] = []
    async with family.engine() as one, family.engine() as other:
        tasks = [await verger.client.enqueue(JOB, {"force": True, "batchSize": 2}) for verger in (one, other)]
        for verger, task in zip((one, other), tasks, strict=True):
            await verger.run_until_idle()
            ended = await verger.client.get(task.id)
            assert ended.status is TaskStatus.COMPLETED, ended.last_error
            results.append(ended.result)

    assert await memory.blobs.count_documents({}) == 4
    assert await memory["fs.chunks"].count_documents({}) == 0
    assert sum(result["swept"] for result in results) >= 12


async def test_it_asks_indexes_and_runs_on_nothing(family: Family, memory: Database) -> None:
    assert set((await family.run(JOB)).values()) == {0}

    await garbage(memory)
    await memory.snapshots.insert_one({"_id": "monday", "roots": ["a"]})
    seen = await plans(family, JOB, {"batchSize": 4, "force": True})
    assert {collection for collection, _ in seen} >= {"blobs", "files", "snapshots", "fs.files", "fs.chunks"}
    assert [each for each in seen if "COLLSCAN" in each[1]] == []

    asked = {"createdAt": 1, "condemnedAt": 1, "size": 1}
    walk = memory.blobs.find({"$and": [{}, {"_id": {"$gt": "a"}}]}, asked, sort=[("_id", 1)], limit=5, hint="inventory")
    plan = await walk.explain()
    assert plan["executionStats"]["totalDocsExamined"] == 0, "no blob is read with its data"
