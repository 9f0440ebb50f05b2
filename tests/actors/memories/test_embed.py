"""memories.embed: vectors of memories, made anew."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from actors.maintenance.database import Database, Document
from actors.maintenance.embedder.hashing import Hashing
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.vector_store.lance import LanceStore
from actors.memories.collections import Collections
from actors.memories.embed import stale_memories
from actors.memories.indexes import OWN, memories
from schemas.task import TaskStatus
from tests.actors.families import Family, stages
from tests.actors.memories.ollama_server import OllamaServer, count_letters, ollama_server

EMBED = "memories.embed"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = frozenset({"embeddingUpdatedAt"})


def noted(number: int, tenant: str = "acme", **fields: Any) -> Document:
    return {
        "_id": f"{tenant}-{number:03}",
        "tenantId": tenant,
        "text": f"note {number} about apples",
        "textUpdatedAt": NOON,
        "status": "active",
        "embeddingUpdatedAt": None,
    } | fields


def told(result: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in result.items() if count}


async def vectors(data_dir: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    """What the store has, as another process sees it: owner → group and model."""
    store = LanceStore(data_dir / "vectors")
    try:
        return {each.owner: (each.group, each.model) for each in await store.of_owners("memories", names)}
    finally:
        await store.close()


async def test_stale_memories_are_embedded_and_no_others(family: Family, memory: Database, tmp_path: Path) -> None:
    model = Hashing().model
    fresh: Document = {"embeddingUpdatedAt": NOON + timedelta(hours=1), "embeddingModel": model}
    await memory.memories.insert_many(
        [
            noted(1),
            noted(2, **fresh),
            noted(3, **fresh, textUpdatedAt=NOON + timedelta(hours=2)),
            noted(4, **{**fresh, "embeddingModel": "another"}),
            noted(5, status="purged"),
            noted(6, text=""),
            noted(7, text=None),
            noted(8, tenant="zoo", text="long " * 5000),
        ]
    )

    async with family.engine() as verger:

        async def run(body: Document) -> dict[str, int]:
            task = await verger.client.enqueue(EMBED, body)
            await verger.run_until_idle()
            ended = await verger.client.get(task.id)
            assert ended.status is TaskStatus.COMPLETED, ended.last_error
            return told(ended.result)

        assert await run({"tenantId": "zoo"}) == {"scanned": 1, "embedded": 1}
        assert await run({}) == {"scanned": 3, "embedded": 3}
        assert await run({}) == {}
        assert await run({"memoryId": "acme-002"}) == {"scanned": 1, "embedded": 1}
        assert await run({"memoryId": "acme-005"}) == await run({"memoryId": "nobody"}) == {"missing": 1}

    names = [f"acme-00{number}" for number in range(1, 8)]
    assert await vectors(tmp_path, [*names, "zoo-008"]) == {
        **{f"acme-00{number}": ("acme", model) for number in (1, 2, 3, 4)},
        "zoo-008": ("zoo", model),
    }
    first = await memory.memories.find_one({"_id": "acme-001"}) or {}
    assert first["embeddingModel"] == model
    assert first["embeddingUpdatedAt"] > NOON


async def test_killed_and_run_again_it_ends_as_if_it_had_not_been(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    rows = [noted(number) for number in range(9)]
    await memory.memories.insert_many(rows)

    await family.die(EMBED, {"batchSize": 3}, after=2)
    result = await family.run(EMBED, {"batchSize": 3})

    assert told(result) == {"scanned": 3, "embedded": 3}
    assert set(await vectors(tmp_path, [row["_id"] for row in rows])) == {row["_id"] for row in rows}
    contents = await family.contents(without=TIMES)
    assert {each["embeddingModel"] for each in contents["memories"]} == {Hashing().model}


async def test_what_changes_while_it_is_embedded_stays_stale_and_what_is_purged_leaves_no_vector(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    await memory.memories.insert_many([noted(number) for number in range(4)])
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hold(server: OllamaServer) -> None:
        await asked.wait()
        later = {"text": "pears", "textUpdatedAt": NOON + timedelta(days=1)}
        await memory.memories.update_one({"_id": "acme-000"}, {"$set": later})
        await memory.memories.update_one({"_id": "acme-001"}, {"$set": {"status": "purged", "text": None}})
        await memory.memories.delete_one({"_id": "acme-002"})
        answer.set()

    async with ollama_server() as server, family.engine(embedder="ollama", ollama_url=server.url) as verger:
        server.asking = (asked, answer)
        holding = asyncio.create_task(hold(server))
        task = await verger.client.enqueue(EMBED)
        await holding
        await verger.run_until_idle()
        result = (await verger.client.get(task.id)).result
        assert told(result) == {"scanned": 4, "embedded": 1, "overtaken": 1, "removed": 2}
        assert set(await vectors(tmp_path, [f"acme-00{number}" for number in range(4)])) == {"acme-000", "acme-003"}

        task = await verger.client.enqueue(EMBED)
        await verger.run_until_idle()
        assert told((await verger.client.get(task.id)).result) == {"scanned": 1, "embedded": 1}


async def test_one_tenants_backlog_does_not_hold_up_the_others_and_a_cancelled_run_goes_on(
    family: Family, memory: Database
) -> None:
    rows = [noted(number, "a-huge") for number in range(198)] + [noted(number, "b-small") for number in range(2)]
    await memory.memories.insert_many(rows)
    asked, answer = asyncio.Event(), asyncio.Event()

    async with ollama_server() as server, family.engine(embedder="ollama", ollama_url=server.url) as verger:
        task = await verger.client.enqueue(EMBED, {"batchSize": 2})
        while not (await memory.memories.find_one({"_id": "b-small-000"}) or {})["embeddingUpdatedAt"]:
            await asyncio.sleep(0)
        server.asking = (asked, answer)
        await asked.wait()
        await verger.client.cancel(task.id)
        answer.set()
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.CANCELLED
        order = [text for body in server.asked for text in body["input"]]
        assert order[2:4] == ["note 0 about apples", "note 1 about apples"]  # of the other tenant
        left = await memory.memories.count_documents({"embeddingUpdatedAt": None})
        assert left

        task = await verger.client.enqueue(EMBED)
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).result["embedded"] == left


async def test_an_embedder_that_is_down_is_tried_again_and_one_bad_text_is_skipped(
    family: Family, memory: Database
) -> None:
    await memory.memories.insert_many([noted(number) for number in range(4)])
    await memory.memories.update_one({"_id": "acme-002"}, {"$set": {"text": "poison"}})

    def picky(body: dict[str, Any]) -> Any:
        if "poison" in body["input"]:
            return web.json_response({"error": "input length exceeds context length"}, status=400)
        return count_letters(body)

    async with (
        ollama_server(embed=lambda _: web.Response(status=503)) as server,
        family.engine(embedder="ollama", ollama_url=server.url) as verger,
    ):
        task = await verger.client.enqueue(EMBED)
        await verger.run_until_idle()
        waiting = await verger.client.get(task.id)
        assert waiting.status is TaskStatus.PENDING
        assert waiting.last_error is not None
        assert waiting.last_error.type == "EmbedderUnavailable"

        server.embed = picky
        await verger.advance(hours=1)
        await verger.run_until_idle()
        assert told((await verger.client.get(task.id)).result) == {"scanned": 4, "embedded": 3, "failed": 1}

        # Another length than the table's vectors have: nothing of it is stored.
        await memory.memories.update_many({}, {"$set": {"text": "fine", "embeddingUpdatedAt": None}})
        server.embed = lambda body: {"embeddings": [[1.0, 2.0] for _ in body["input"]]}
        task = await verger.client.enqueue(EMBED, {"maxFailuresInRow": 3}, max_attempts=1)
        await verger.run_until_idle()
        failed = await verger.client.get(task.id)

    assert (failed.status, failed.last_error and failed.last_error.type) == (TaskStatus.FAILED, "CircuitOpen")
    assert await memory.memories.count_documents({"embeddingUpdatedAt": None}) == 4


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    await ensure_indexes(memory, memories(Collections()))
    await memory.memories.insert_one(noted(1))

    query = memory.memories.find(stale_memories("acme", "model"), sort=[("_id", 1)], limit=5, hint=OWN)
    assert not stages(await query.explain()) & {"COLLSCAN", "SORT"}
    tenants = memory.memories.find({"tenantId": {"$gt": ""}}, sort=[("tenantId", 1)], limit=1)
    assert not stages(await tenants.explain()) & {"COLLSCAN", "SORT"}
