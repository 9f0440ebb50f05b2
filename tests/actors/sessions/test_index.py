"""``sessions.index`` through the engine."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.maintenance.database import Database, Document
from actors.maintenance.embedder.hashing import Hashing
from actors.maintenance.vector_store.lance import LanceStore
from actors.sessions.index import _tried, spoken
from actors.sessions.indexes import Collections, ensure_indexes
from schemas.task import TaskStatus
from tests.actors.families import Family, stages
from tests.actors.memories.ollama_server import count_letters, ollama_server

JOB = "sessions.index"


@pytest.fixture
def family(mongo_url: str, memory: Database, tmp_path: Path) -> Family:
    return Family(("actors.sessions",), mongo_url, memory, {"data_dir": tmp_path})


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore(tmp_path / "vectors")


def message(number: int, content: object = None, **fields: object) -> Document:
    return {
        "_id": f"m{number:03d}",
        "sessionId": f"s{number % 2}",
        "projectId": "p",
        "role": "user",
        "content": content if content is not None else f"message {number} speaks of topic{number}",
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "indexedAt": None,
        "indexAttempts": 0,
        "indexError": None,
        **fields,
    }


def messages(count: int) -> list[Document]:
    return [message(number) for number in range(count)]


async def owned(store: LanceStore) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in await store.of_owners("messages", await store.owners("messages")):
        found[each.owner] = found.get(each.owner, 0) + 1
    return found


async def found(store: LanceStore, text: str, group: str | None = None) -> list[str]:
    (values,) = await Hashing().embed([text])
    return [hit.stored.owner for hit in await store.search("messages", values, group=group)]


async def test_collected_messages_are_indexed_and_found(
    family: Family, memory: Database, store: LanceStore, tmp_path: Path
) -> None:
    await memory.messages.insert_many(
        [
            *messages(5),
            message(5, [{"type": "text", "text": "prose"}, {"type": "image", "source": {"data": "aGVsbG8="}}]),
            message(6, [{"type": "image", "source": {"data": "aGVsbG8="}}]),
            message(7, "Look:\n\n```\ncode()\n```"),
            {"_id": "m008", "sessionId": "s0", "content": "of a tool that sets no stamps"},
        ]
    )

    result = await family.run("index_pending", {"batchSize": 4})
    stamps = await memory.messages.find({}, {"indexedAt": 1}).to_list(None)
    again = await family.run(JOB)

    assert result == {
        "pending": 9,
        "indexed": 9,
        "empty": 1,
        "vectors": 9,
        "failed": 0,
        "given_up": 0,
        "renewed": 0,
    }
    assert set(again.values()) == {0}
    assert await memory.messages.find({}, {"indexedAt": 1}).to_list(None) == stamps
    assert await owned(store) == {**{f"m{n:03d}": 1 for n in (0, 1, 2, 3, 4, 5, 8)}, "m007": 2}
    assert (await found(store, "topic3"))[0] == "m003"
    assert "m003" not in await found(store, "topic3", group="s0")
    (first,) = await store.of_owners("messages", ["m001"])
    assert (first.group, first.model, len(first.content_hash)) == ("s1", Hashing().model, 64)


async def test_a_message_that_is_refused_is_tried_five_times_and_hinders_no_other(
    family: Family, memory: Database
) -> None:
    await memory.messages.insert_many([message(0, "poison"), *messages(4)[1:]])

    def embed(body: dict[str, Any]) -> Any:
        return web.Response(status=400, text="too bad") if "poison" in body["input"] else count_letters(body)

    async with ollama_server(embed=embed) as server:
        settings: dict[str, Any] = {"embedder": "ollama", "ollama_url": server.url}
        runs = [await family.run(JOB, {"maxAttempts": 2}, **settings) for _ in range(3)]

    assert [(run["pending"], run["indexed"], run["failed"], run["given_up"]) for run in runs] == [
        (4, 3, 1, 0),
        (1, 0, 1, 1),
        (0, 0, 0, 0),
    ]
    bad = await memory.messages.find_one({"_id": "m000"})
    assert bad is not None
    assert (bad["indexedAt"], bad["indexAttempts"]) == (None, 2) and "too bad" in bad["indexError"]


@pytest.mark.parametrize("trouble", ["down", "wrong count", "no store"])
async def test_what_is_down_fails_the_run_and_counts_against_no_message(
    family: Family, memory: Database, tmp_path: Path, trouble: str
) -> None:
    await memory.messages.insert_many(messages(3))
    if trouble == "no store":
        (tmp_path / "vectors").write_text("in the way")

    async with ollama_server() as server:
        if trouble == "down":
            server.embed = lambda _: web.Response(status=503)
        if trouble == "wrong count":
            server.embed = lambda _: {"embeddings": []}
        task = await family.task(JOB, embedder="ollama", ollama_url=server.url)

    assert task.status is TaskStatus.FAILED
    assert await memory.messages.count_documents({"indexedAt": None, "indexAttempts": 0}) == 3


async def test_many_refused_in_a_row_end_the_run_and_the_next_goes_on_behind_them(
    family: Family, memory: Database
) -> None:
    await memory.messages.insert_many([message(n, f"poison {n}" if n < 6 else "good") for n in range(9)])

    def embed(body: dict[str, Any]) -> Any:
        bad = any("poison" in text for text in body["input"])
        return web.Response(status=422, text="bad") if bad else count_letters(body)

    async with ollama_server(embed=embed) as server:
        settings: dict[str, Any] = {"embedder": "ollama", "ollama_url": server.url}
        task = await family.task(JOB, {"batchSize": 3, "maxFailuresInRow": 3, "maxAttempts": 1}, **settings)
        assert task.last_error and "3 messages in a row failed" in task.last_error.message
        task = await family.task(JOB, {"batchSize": 3, "maxFailuresInRow": 3, "maxAttempts": 1}, **settings)
        result = await family.run(JOB, {"batchSize": 3, "maxFailuresInRow": 3, "maxAttempts": 1}, **settings)

    assert (task.status, result["indexed"]) == (TaskStatus.FAILED, 3)


async def test_another_model_indexes_all_again_in_place_of_the_first(
    family: Family, memory: Database, store: LanceStore
) -> None:
    await memory.messages.insert_many(messages(4))
    await family.run(JOB)

    async with ollama_server() as server:
        settings: dict[str, Any] = {"embedder": "ollama", "ollama_url": server.url, "embedding_model": "letters"}
        result = await family.run(JOB, {"batchSize": 3}, **settings)
        again = await family.run(JOB, **settings)

    assert (result["pending"], result["indexed"], result["renewed"]) == (0, 4, 4)
    assert set(again.values()) == {0}
    assert await owned(store) == {f"m{n:03d}": 1 for n in range(4)}
    assert {each.model for each in await store.of_owners("messages", ["m000", "m003"])} == {"ollama-letters"}


async def test_a_run_ends_after_so_many_and_the_next_goes_on(family: Family, memory: Database) -> None:
    await memory.messages.insert_many(messages(5))

    first = await family.run(JOB, {"batchSize": 2, "maxMessages": 2})
    second = await family.run(JOB)

    assert (first["pending"], first["indexed"], second["pending"], second["indexed"]) == (5, 2, 3, 3)


async def test_killed_in_the_middle_and_run_again_it_ends_as_if_undisturbed(
    family: Family, memory: Database, store: LanceStore, tmp_path: Path
) -> None:
    await memory.messages.insert_many(messages(6))

    # Each batch takes its turn to write vectors: it dies before the third, with the second stamped.
    await family.die(JOB, {"batchSize": 2}, after=3, of="opens", below=str(tmp_path / "vectors"))
    left = await memory.messages.count_documents({"indexedAt": {"$ne": None}})
    result = await family.run(JOB)

    assert (left, result["indexed"]) == (4, 2)
    assert await owned(store) == {f"m{n:03d}": 1 for n in range(6)}


async def test_cancelled_it_stops_at_the_end_of_a_batch(family: Family, memory: Database) -> None:
    await memory.messages.insert_many(messages(6))

    async with (
        ollama_server() as server,
        family.engine(embedder="ollama", ollama_url=server.url) as verger,
    ):
        server.silent = True
        made = await verger.client.enqueue(JOB, {"batchSize": 2})
        while not server.asked:
            await asyncio.sleep(0.01)
        await verger.client.cancel(made.id)
        server.silent = False
        server.ended.set()
        await verger.run_until_idle()
        task = await verger.client.get(made.id)

    assert task.status is TaskStatus.CANCELLED
    assert await memory.messages.count_documents({"indexedAt": {"$ne": None}}) == 2


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    await memory.messages.insert_many(messages(20))
    await ensure_indexes(memory, Collections())

    for query in (_tried(0), _tried(3), {"indexedModel": "m"}):
        plan = await memory.messages.find(query, {"_id": 1}, sort=[("_id", 1)], limit=5).explain()
        assert stages(plan).isdisjoint({"COLLSCAN", "SORT"}), query


def test_a_message_says_what_its_blocks_say_and_no_binary() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls -l", "lines": 3}},
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "total 0"}]},
        {"type": "tool_result", "tool_use_id": "t1", "content": "plain"},
        {"type": "image", "source": {"type": "base64", "data": "aGVsbG8="}},
        "loose",
        None,
    ]

    assert list(spoken(content)) == ["hm", "hello", "ls -l", "total 0", "plain", "loose"]
    assert list(spoken(None)) == []
