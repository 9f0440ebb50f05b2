"""``vectors.reconcile`` through the engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors.maintenance.database import Database
from actors.maintenance.embedder.hashing import Hashing
from actors.maintenance.vector_store.lance import LanceStore
from actors.maintenance.vector_store.port import Vector, VectorStoreUnavailable
from actors.vectors.entries import RETRY
from actors.vectors.reconcile import LOOKED_AT
from schemas.task import TaskStatus
from tests.actors.families import Family, stages
from tests.actors.memories.ollama_server import ollama_server
from tests.actors.vectors.store import TABLE, Shelf, entries, entry, shelf

JOB = "vectors.reconcile"
SMALL = {"batchSize": 3}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Shelf]:
    async with shelf(tmp_path) as store:
        yield store


def vector(owner: str, *, group: str = "g", model: str | None = None) -> Vector:
    return Vector(f"{owner}:0", owner, group, model or Hashing().model, "hash", owner, [1.0] * 256)


async def indexed(family: Family, memory: Database, count: int) -> None:
    await memory.entries.insert_many(entries(count))
    await family.run(RETRY)


async def test_an_orphan_is_not_found_any_more(family: Family, memory: Database, store: Shelf) -> None:
    await indexed(family, memory, 8)
    await memory.entries.delete_many({"_id": {"$in": ["e000", "e004", "e007"]}})
    await memory.entries.update_one({"_id": "e005"}, {"$set": {"indexedContent": None}})
    await store.put(TABLE, [vector("aaa"), vector("zzz"), vector("é'\\")])
    assert (await store.find("topic4"))[0] == "e004"

    counted = await family.run(JOB, {**SMALL, "dryRun": True})
    result = await family.run(JOB, SMALL)
    again = await family.run(JOB, SMALL)

    wanted = {"entries": 4, "owners": 11, "orphans": 7, "missing": 0, "outdated": 0, "queued": 0, "orphanRatio": 0.6364}
    assert counted == {**wanted, "deleted": 0}
    assert result == {**wanted, "deleted": 7}
    assert (again["orphans"], again["orphanRatio"]) == (0, 0.0)
    assert sorted(await store.find("topic4")) == ["e001", "e002", "e003", "e006"]
    assert sorted(await store.owned()) == ["e001", "e002", "e003", "e006"]


async def test_after_delete_and_reconcile_no_orphan_is_searchable(
    family: Family, memory: Database, store: Shelf
) -> None:
    await memory.entries.insert_many([entry(n, group="going" if n % 2 else "staying") for n in range(6)])
    await family.run(RETRY)
    await memory.entries.delete_many({"conversationGroupId": "going"})
    await memory.entries.delete_one({"_id": "e002"})

    await family.run("vectors.delete", {"conversationGroupId": "going"})
    await store.put(TABLE, [vector("e003", group="going")])  # a late writer
    await family.run(JOB, SMALL)

    assert [await store.search(TABLE, [1.0] * 256, group="going"), sorted(await store.find("topic3"))] == [
        [],
        ["e000", "e004"],
    ]


async def test_missing_vectors_are_made_again(family: Family, memory: Database, store: Shelf) -> None:
    await indexed(family, memory, 7)
    await memory.entries.insert_one(entry(8, content=" "))
    await family.run(RETRY)
    await store.delete(TABLE, owners=["e001", "e006"])

    async with family.engine() as verger:
        made = await verger.client.enqueue(JOB, SMALL)
        await verger.run_until_idle()
        result = (await verger.client.get(made.id)).result

    assert isinstance(result, dict)
    assert (result["missing"], result["queued"], result["orphans"]) == (2, 2, 0)
    assert await store.owned() == {f"e{number:03d}": 1 for number in range(7)}
    assert (await family.run(JOB, SMALL))["missing"] == 0


async def test_a_change_of_the_model_reaches_every_entry(family: Family, memory: Database, store: Shelf) -> None:
    await indexed(family, memory, 5)

    async with ollama_server() as server:
        settings = {"embedder": "ollama", "ollama_url": server.url, "embedding_model": "letters"}
        async with family.engine(**settings) as verger:
            made = await verger.client.enqueue(JOB, SMALL)
            await verger.run_until_idle()
            result = (await verger.client.get(made.id)).result
        again = await family.run(JOB, SMALL, **settings)

    assert isinstance(result, dict) and (result["outdated"], result["queued"]) == (5, 5)
    assert again["outdated"] == 0
    assert {each.model for each in await store.of_owners(TABLE, await store.owners(TABLE))} == {"ollama-letters"}
    assert await store.owned() == {f"e{number:03d}": 1 for number in range(5)}
    assert len(await store.search(TABLE, [1.0, 1.0, 1.0], model="ollama-letters")) == 5
    assert await store.find("topic1") == []


async def test_vectors_of_another_group_or_fewer_than_there_were_are_made_again(
    family: Family, memory: Database, store: Shelf
) -> None:
    await indexed(family, memory, 3)
    await memory.entries.update_one({"_id": "e000"}, {"$set": {"conversationGroupId": "moved"}})
    await memory.entries.update_one({"_id": "e001"}, {"$set": {"indexedChunks": 2}})

    result = await family.run(JOB, {**SMALL, "queue": False})

    assert (result["outdated"], result["queued"], result["missing"]) == (2, 0, 0)
    await family.run(JOB, SMALL)
    await family.run(RETRY)
    assert await store.count(TABLE, group="moved") == 1
    assert (await family.run(JOB, SMALL))["outdated"] == 0


async def test_most_of_the_vectors_are_not_deleted_without_force(
    family: Family, memory: Database, store: Shelf
) -> None:
    await store.put(TABLE, [vector(f"x{number:02d}") for number in range(30)])

    task = await family.task(JOB, SMALL)

    assert task.status is TaskStatus.FAILED and task.last_error is not None
    assert "30 of 30 indexed documents" in task.last_error.message
    assert await store.count(TABLE) == 30
    assert (await family.run(JOB, {**SMALL, "force": True}))["deleted"] == 30


async def test_empty_collections_and_no_table_are_in_order(family: Family) -> None:
    assert set((await family.run(JOB)).values()) == {0}


async def test_an_entry_deleted_while_it_is_indexed_leaves_no_orphan(
    family: Family, memory: Database, store: Shelf
) -> None:
    await memory.entries.insert_many(entries(2))
    async with ollama_server() as server:
        server.silent = True
        async with family.engine(embedder="ollama", ollama_url=server.url) as verger:
            await verger.client.enqueue(RETRY)
            while not server.asked:
                await asyncio.sleep(0.01)
            await memory.entries.delete_one({"_id": "e001"})
            reconciled = await verger.client.enqueue(JOB)
            await verger.client.wait(reconciled.id)
            server.silent = False
            server.ended.set()
            await verger.run_until_idle()
        await family.run(JOB, embedder="ollama", ollama_url=server.url)

    assert await store.owned() == {"e000": 1}


async def damaged(family: Family, memory: Database, store: Shelf) -> None:
    """Nine entries, of which orphans, and entries without vectors, lie in several pages of two."""
    await indexed(family, memory, 9)
    await memory.entries.delete_many({"_id": {"$in": ["e000", "e008"]}})
    await store.delete(TABLE, owners=["e001", "e005", "e007"])


MENDED = {f"e{number:03d}": 1 for number in range(1, 8)}


async def test_killed_in_the_middle_and_run_again_it_ends_as_if_undisturbed(
    family: Family, memory: Database, store: Shelf
) -> None:
    await damaged(family, memory, store)

    await family.die(JOB, {"batchSize": 2}, after=1)
    assert await memory.entries.distinct("_id", {"indexedAt": None}) == ["e001"]
    assert "e008" in await store.owned()
    await family.run(JOB, {"batchSize": 2})
    await family.run(RETRY)

    assert await store.owned() == MENDED


async def test_a_replay_goes_on_from_the_checkpoint(
    family: Family, memory: Database, store: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await damaged(family, memory, store)
    delete = LanceStore.delete

    async def down(self: LanceStore, table: str, **which: Any) -> int:
        if "e008" in which["owners"]:
            raise VectorStoreUnavailable("the disk is gone")
        return await delete(self, table, **which)

    async with family.engine() as verger:
        monkeypatch.setattr(LanceStore, "delete", down)
        made = await verger.client.enqueue(JOB, {"batchSize": 2})
        await verger.run_until_idle()
        failed = await verger.client.get(made.id)
        monkeypatch.setattr(LanceStore, "delete", delete)
        await verger.advance(minutes=1)
        await verger.run_until_idle()
        await verger.client.replay(made.id)
        await verger.run_until_idle()
        task = await verger.client.get(made.id)

    assert (failed.status, failed.checkpoint["after"]) == (TaskStatus.FAILED, "e006")
    assert isinstance(task.result, dict)
    assert {key: task.result[key] for key in ("orphans", "deleted", "missing", "queued")} == {
        "orphans": 2,
        "deleted": 2,
        "missing": 3,
        "queued": 3,
    }
    assert await store.owned() == MENDED


async def test_cancelled_it_stops_at_the_end_of_a_page_with_its_checkpoint(
    family: Family, memory: Database, store: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await damaged(family, memory, store)
    delete = LanceStore.delete

    async with family.engine() as verger:
        made = await verger.client.enqueue(JOB, {"batchSize": 2}, delay="1m")

        async def cancel(self: LanceStore, table: str, **which: Any) -> int:
            await verger.client.cancel(made.id)
            return await delete(self, table, **which)

        monkeypatch.setattr(LanceStore, "delete", cancel)
        await verger.advance(minutes=2)
        await verger.run_until_idle()
        task = await verger.client.get(made.id)

    assert (task.status, task.checkpoint["counts"]["deleted"]) == (TaskStatus.CANCELLED, 1)
    assert "e000" not in await store.owned() and "e008" in await store.owned()


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    await memory.entries.insert_many(entries(20))

    query = {"_id": {"$gt": "e003"}, "indexedContent": {"$type": "string"}}
    plan = await memory.entries.find(query, LOOKED_AT, sort=[("_id", 1)], limit=5, hint="_id_").explain()

    assert stages(plan).isdisjoint({"COLLSCAN", "SORT"})
