"""``vectors.index_retry`` through the engine."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from actors.maintenance.database import Database
from actors.maintenance.embedder import ollama
from actors.maintenance.indexes import ensure_indexes
from actors.vectors.entries import RETRY, Collections, indexes
from actors.vectors.index_retry import OLDEST_FIRST, PENDING
from schemas.task import TaskStatus
from tests.actors.families import Family, stages
from tests.actors.memories.ollama_server import count_letters, ollama_server
from tests.actors.vectors.store import entries, entry, shelf


async def unindexed(memory: Database) -> list[str]:
    return [each["_id"] async for each in memory.entries.find({"indexedAt": None}, sort=[("_id", 1)])]


async def test_entries_without_a_stamp_are_indexed_and_found(family: Family, memory: Database, tmp_path: Path) -> None:
    await memory.entries.insert_many(
        [
            *entries(3),
            entry(3, content="prose\n\n```\ncode()\n```\nmore prose"),
            entry(4, content=" \n"),
            entry(5, content=None),
            entry(6, indexedAt="some time ago"),
        ]
    )

    result = await family.run(RETRY)
    again = await family.run("vector_store_index_retry")

    assert result == {"found": 5, "indexed": 5, "vectors": 6, "failed": 0, "changed": 0, "gone": 0, "again": 0}
    assert again["found"] == 0
    assert await unindexed(memory) == ["e005"]
    async with shelf(tmp_path) as store:
        assert await store.owned() == {"e000": 1, "e001": 1, "e002": 1, "e003": 3}
        assert (await store.find("topic2"))[0] == "e002"
        assert await store.count("entries", group="g") == 6


async def test_new_content_replaces_the_old(family: Family, memory: Database, tmp_path: Path) -> None:
    await memory.entries.insert_one(entry(0, content="apples\n\n```\npears\n```\nplums"))
    await family.run(RETRY)
    await memory.entries.update_one({"_id": "e000"}, {"$set": {"indexedContent": "cherries", "indexedAt": None}})

    await family.run(RETRY)

    async with shelf(tmp_path) as store:
        assert await store.owned() == {"e000": 1}
        assert [hit.text for hit in await store.search("entries", [1.0] * 256)] == ["cherries"]


async def test_a_full_batch_asks_to_run_again_under_its_name_until_all_is_done(
    family: Family, memory: Database
) -> None:
    await memory.entries.insert_many(entries(7))

    async with family.engine() as verger:
        task = await verger.client.enqueue(RETRY, {"batchSize": 3}, name=RETRY)
        others = [await verger.client.enqueue(RETRY, {}, name=RETRY) for _ in range(5)]
        await verger.run_until_idle()
        task = await verger.client.get(task.id)

    assert {other.id for other in others} == {task.id}
    assert (task.status, task.result and task.result["found"]) == (TaskStatus.COMPLETED, 1)
    assert await unindexed(memory) == []


async def test_one_that_is_asked_for_while_it_runs_runs_once_more(family: Family, memory: Database) -> None:
    await memory.entries.insert_one(entry(0))

    async with ollama_server() as server:
        server.silent = True
        async with family.engine(embedder="ollama", ollama_url=server.url) as verger:
            task = await verger.client.enqueue(RETRY, name=RETRY)
            while not server.asked:
                await asyncio.sleep(0.01)
            await memory.entries.insert_one(entry(1))
            same = await verger.client.enqueue(RETRY, name=RETRY)
            server.silent = False
            server.ended.set()
            await verger.run_until_idle()

    assert same.id == task.id
    assert await unindexed(memory) == []


@pytest.mark.parametrize("trouble", ["down", "slow", "busy", "wrong dimension", "no store"])
async def test_what_is_down_is_tried_again_every_ten_minutes_without_end(
    family: Family, memory: Database, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.entries.insert_many(entries(3))
    if trouble == "slow":
        monkeypatch.setattr(ollama, "TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    vectors = tmp_path / "vectors"

    async with ollama_server() as server:
        match trouble:
            case "down":
                server.embed = lambda _: web.Response(status=500)
            case "busy":
                server.embed = lambda _: web.Response(status=429)
            case "slow":
                server.silent = True
            case "wrong dimension":
                await family.run(RETRY, embedder="ollama", ollama_url=server.url)
                await memory.entries.update_many({}, {"$set": {"indexedAt": None}})
                server.embed = lambda body: {"embeddings": [[1.0] * 5] * len(body["input"])}
            case "no store":
                vectors.write_text("in the way")
        async with family.engine(embedder="ollama", ollama_url=server.url) as verger:
            made = await verger.client.enqueue(RETRY, name=RETRY)
            for attempt in range(1, 11):
                await verger.run_until_idle()
                task = await verger.client.get(made.id)
                assert (task.status, task.attempt) == (TaskStatus.PENDING, attempt)
                await verger.advance(minutes=10, seconds=1)
                if attempt == 1:
                    assert 590 < (task.retry_at - task.created_at).total_seconds() < 660
        server.embed, server.silent = count_letters, False
        server.ended.set()
        if trouble == "no store":
            vectors.unlink()
        await family.run(RETRY, embedder="ollama", ollama_url=server.url)

    assert await unindexed(memory) == []
    assert await memory.entries.count_documents({"indexError": {"$exists": True}}) == 0


async def test_one_bad_entry_fails_alone_and_goes_to_the_end_of_the_queue(family: Family, memory: Database) -> None:
    await memory.entries.insert_many([entry(0, content="poison"), *entries(3, begin=1), {**entry(9), "_id": 9}])

    def embed(body: dict[str, Any]) -> Any:
        if "poison" in body["input"]:
            return web.Response(status=400, text="too bad")
        return count_letters(body)

    async with (
        ollama_server(embed=embed) as server,
        family.engine(embedder="ollama", ollama_url=server.url) as verger,
    ):
        made = await verger.client.enqueue(RETRY, {"batchSize": 2}, name=RETRY)
        await verger.run_until_idle()
        task = await verger.client.get(made.id)

        assert await memory.entries.distinct("_id", {"indexedAt": None}) == [9, "e000"]
        bad = await memory.entries.find_one({"_id": "e000"})
        assert bad is not None and "too bad" in bad["indexError"]
        assert task.status is TaskStatus.PENDING and task.last_error
        assert task.last_error.message == "2 of 2 entries failed"

        server.embed = count_letters
        await verger.advance(minutes=11)
        await verger.run_until_idle()

    mended = await memory.entries.find_one({"_id": "e000"})
    assert mended is not None and mended["indexedAt"] and "indexError" not in mended
    assert await memory.entries.distinct("_id", {"indexedAt": None}) == [9]


async def test_an_entry_that_is_deleted_or_changed_while_it_is_indexed_is_not_stamped(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    await memory.entries.insert_many(entries(3))

    async with ollama_server() as server:
        server.silent = True
        async with family.engine(embedder="ollama", ollama_url=server.url) as verger:
            made = await verger.client.enqueue(RETRY)
            while not server.asked:
                await asyncio.sleep(0.01)
            await memory.entries.delete_one({"_id": "e000"})
            await memory.entries.update_one({"_id": "e001"}, {"$set": {"indexedContent": "news"}})
            server.silent = False
            server.ended.set()
            await verger.run_until_idle()
            task = await verger.client.get(made.id)

    assert isinstance(task.result, dict)
    assert {name: task.result[name] for name in ("indexed", "changed", "gone")} == {
        "indexed": 1,
        "changed": 1,
        "gone": 1,
    }
    assert await unindexed(memory) == ["e001"]
    async with shelf(tmp_path) as store:
        assert sorted(await store.owned()) == ["e001", "e002"]


async def test_killed_between_the_vectors_and_the_stamp_it_ends_as_if_undisturbed(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    # Two entries that are not written in one go: it dies when it takes its turn to write the second.
    many = "\n\n".join(f"paragraph {number} is one chunk of its own, and no more" for number in range(200))
    await memory.entries.insert_many([entry(0, content=many), entry(1, content=many)])
    body = {"chunking": {"maxChars": 60, "overlap": 0}}

    await family.die(RETRY, body, after=2, of="opens", below=str(tmp_path / "vectors"))

    assert await unindexed(memory) == ["e000", "e001"]
    async with shelf(tmp_path) as store:
        assert await store.owned() == {"e000": 200}
        await family.run(RETRY, body)
        assert await store.owned() == {"e000": 200, "e001": 200}
    assert await unindexed(memory) == []


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    await memory.entries.insert_many(entries(20))
    await ensure_indexes(memory, indexes(Collections()))

    plan = await memory.entries.find(PENDING, sort=OLDEST_FIRST, limit=5).explain()

    assert stages(plan).isdisjoint({"COLLSCAN", "SORT"})
