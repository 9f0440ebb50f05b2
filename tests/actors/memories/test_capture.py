"""memories.capture: candidates become memories, each exactly once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from actors.maintenance.database import Database, Document
from actors.maintenance.indexes import ensure_indexes
from actors.memories.capture import NO_TENANT, PENDING, content_hash, memory_id, same_texts
from actors.memories.collections import Collections
from actors.memories.indexes import capture_queue, texts
from schemas.task import TaskStatus
from tests.actors.families import Family, stages

CAPTURE = "memories.capture"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = frozenset({"createdAt", "decidedAt", "statusChangedAt", "textUpdatedAt"})


def pending(number: int, text: Any = None, tenant: Any = "acme", **fields: Any) -> Document:
    candidate = {"text": f"note {number}" if text is None else text, **fields}
    created = NOON + timedelta(seconds=number)
    return {
        "_id": f"{tenant}-{number:04}",
        "tenantId": tenant,
        "source": {"kind": "chat"},
        "candidate": candidate,
        "status": "pending",
        "reason": None,
        "createdAt": created,
    }


async def statuses(memory: Database) -> dict[str, tuple[str, str | None]]:
    return {row["_id"]: (row["status"], row["reason"]) async for row in memory.capture_queue.find()}


async def test_valid_candidates_become_memories_and_the_others_are_rejected_with_the_reason(
    family: Family, memory: Database
) -> None:
    expires = NOON + timedelta(days=90)
    await memory.clusters.insert_one({"_id": "weather", "tenantId": "acme", "memberCount": 1})
    await memory.memories.insert_one({"tenantId": "acme", "clusterId": "weather", "status": "active"})
    await memory.capture_queue.insert_many(
        [
            pending(1, "  Rain at noon. ", clusterId="weather", retentionExpiresAt=expires, metadata={"by": "ada"}),
            pending(2, "Rain  at\nnoon."),
            pending(3, " \n "),
            pending(4, "x" * 51),
            pending(5, 7),
            pending(6, mood="sunny"),
            pending(7, metadata={"blob": "x" * 2000}),
            {**pending(8), "candidate": "text"},
            pending(9, tenant=None),
            pending(10, tenant=3),
            {**pending(11), "status": "promoted"},
        ]
    )

    result = await family.run("process_capture_queue_job", {"maxChars": 50, "maxBytes": 1024})

    first = memory_id("acme-0001")
    told = await statuses(memory)
    assert {key: reason for key, (status, reason) in told.items() if status == "rejected"} == {
        "acme-0002": f"duplicate of {first}",
        "acme-0003": "candidate.text: has 0 characters, not 1 to 50",
        "acme-0004": "candidate.text: has 51 characters, not 1 to 50",
        "acme-0005": "candidate.text: input should be a valid string",
        "acme-0006": "candidate.mood: extra inputs are not permitted",
        "acme-0007": "larger than 1024 bytes",
        "acme-0008": "candidate: input should be a valid dictionary or instance of candidate",
        "None-0009": "tenantId is not a text",
        "3-0010": "tenantId is not a text",
    }
    [made] = await memory.memories.find({"text": {"$exists": True}}).to_list(None)
    assert {key: value for key, value in made.items() if key not in TIMES} == {
        "_id": first,
        "tenantId": "acme",
        "clusterId": "weather",
        "text": "Rain at noon.",
        "contentHash": content_hash("Rain at noon."),
        "source": {"kind": "chat"},
        "metadata": {"by": "ada"},
        "tier": "hot",
        "decayScore": 1.0,
        "score": 0.0,
        "recallCount": 0,
        "lastRecalledAt": None,
        "lastEvaluatedAt": None,
        "status": "active",
        "retentionExpiresAt": expires,
        "embeddingUpdatedAt": None,
        "embeddingModel": None,
    }
    assert (await memory.clusters.find_one({}) or {})["memberCount"] == 2
    row = await memory.capture_queue.find_one({"_id": "acme-0001"}) or {}
    assert (row["status"], row["memoryId"]) == ("promoted", first)
    # A text that became a memory is in the memory alone, and goes with it.
    left = {each["_id"] async for each in memory.capture_queue.find({"candidate": {"$exists": True}})}
    assert left == {"acme-0011", *(key for key in told if told[key][0] == "rejected")} - {"acme-0002"}
    assert result == {
        "scanned": 10, "promoted": 1, "rejected": 9, "duplicates": 1, "finished": 0, "overtaken": 0,
    }  # fmt: skip


async def test_an_empty_queue_and_a_second_run_change_nothing(family: Family, memory: Database) -> None:
    async with family.engine() as verger:

        async def run() -> dict[str, int]:
            task = await verger.client.enqueue(CAPTURE)
            await verger.run_until_idle()
            ended = await verger.client.get(task.id)
            assert ended.status is TaskStatus.COMPLETED
            return {name: count for name, count in ended.result.items() if count}

        assert await run() == {}
        await memory.capture_queue.insert_many([pending(number) for number in range(7)])
        assert await run() == {"scanned": 7, "promoted": 7}
        after = await family.contents()
        # The clock was set back: a candidate from before those that are settled is not passed over.
        await memory.capture_queue.insert_one({**pending(8), "createdAt": NOON - timedelta(days=1)})
        assert await run() == {"scanned": 1, "promoted": 1}
        assert await run() == {}

    now = await family.contents()
    assert [row for row in now["memories"] if row["_id"] != memory_id("acme-0008")] == after["memories"]


async def test_killed_between_any_two_steps_it_ends_as_if_it_had_not_been(family: Family, memory: Database) -> None:
    rows = [pending(number, f"note {number % 8}") for number in range(10)] + [pending(20, "")]
    outcomes = []
    # Writes of a run with batches of 4: indexes are none of them; insert, promote, (reject); …
    for after in (None, 1, 2, 4):
        await memory.memories.delete_many({})
        await memory.capture_queue.delete_many({})
        await memory.capture_queue.insert_many(rows)
        if after is not None:
            await family.die(CAPTURE, {"batchSize": 4}, after=after)
        result = await family.run(CAPTURE, {"batchSize": 4})
        assert (result["finished"] > 0) == (after in (1,))
        outcomes.append(await family.contents(without=TIMES))

    assert outcomes[1:] == outcomes[:1] * 3
    assert len(outcomes[0]["memories"]) == 8


async def test_two_workers_at_once_promote_each_candidate_once_and_keep_the_first_of_equal_texts(
    family: Family, memory: Database
) -> None:
    rows = [pending(number, f"note {number // 2}", tenant) for tenant in ("acme", "zoo") for number in range(60)]
    await memory.capture_queue.insert_many(rows)
    names = Collections()
    await ensure_indexes(memory, {**texts(names), **capture_queue(names)})

    results = await asyncio.gather(*(family.run(CAPTURE, {"batchSize": 7}) for _ in range(2)))

    told = await statuses(memory)
    made = {each["_id"] async for each in memory.memories.find()}
    assert made == {memory_id(row["_id"]) for number, row in enumerate(rows) if number % 2 == 0}
    assert {status for status, _ in list(told.values())[::2]} == {"promoted"}
    assert {status for status, _ in list(told.values())[1::2]} == {"rejected"}
    assert sum(result["promoted"] for result in results) == sum(result["rejected"] for result in results) == 60


async def test_one_tenants_backlog_does_not_hold_up_the_others(family: Family, memory: Database) -> None:
    await memory.capture_queue.insert_many([pending(number, tenant="a-huge") for number in range(198)])
    await memory.capture_queue.insert_many([pending(number, tenant="b-small") for number in range(2)])

    await family.die(CAPTURE, {"batchSize": 10}, after=4)  # two batches: an insert and the marks of each

    told = await statuses(memory)
    done = [key for key, (status, _) in told.items() if status == "promoted"]
    assert done == [*(f"a-huge-{number:04}" for number in range(10)), "b-small-0000", "b-small-0001"]


async def test_cancelled_it_stops_after_a_batch_and_the_next_run_does_the_rest(
    family: Family, memory: Database
) -> None:
    await memory.capture_queue.insert_many([pending(number) for number in range(300)])
    async with family.engine() as verger:
        task = await verger.client.enqueue(CAPTURE, {"batchSize": 1})
        while not await memory.memories.find_one():
            await asyncio.sleep(0)
        await verger.client.cancel(task.id)
        await verger.run_until_idle()

        assert (await verger.client.get(task.id)).status is TaskStatus.CANCELLED
        waiting = await memory.capture_queue.count_documents({"status": "pending"})
        assert waiting
        assert await memory.memories.count_documents({}) == 300 - waiting

    assert (await family.run(CAPTURE))["promoted"] == waiting


async def test_what_the_database_refuses_is_rejected_and_stops_nothing(family: Family, memory: Database) -> None:
    await memory.create_collection("memories", validator={"text": {"$not": {"$regex": "^forbidden"}}})
    await memory.capture_queue.insert_many([pending(1, "forbidden fruit"), pending(2)])

    result = await family.run(CAPTURE)

    told = await statuses(memory)
    assert told["acme-0001"] == ("rejected", "refused by the database: Document failed validation")
    assert (result["promoted"], result["rejected"]) == (1, 1)


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    names = Collections()
    await ensure_indexes(memory, {**texts(names), **capture_queue(names)})
    await memory.capture_queue.insert_one(pending(1))
    order = [("tenantId", 1), ("createdAt", 1), ("_id", 1)]

    for whose in (NO_TENANT, {"tenantId": "acme"}):
        found = stages(await memory.capture_queue.find({**PENDING, **whose}, sort=order, limit=5).explain())
        assert "IXSCAN" in found
        assert not found & {"COLLSCAN", "SORT"}
    tenants = memory.capture_queue.find({**PENDING, "tenantId": {"$gt": ""}}, sort=[("tenantId", 1)], limit=1)
    assert not stages(await tenants.explain()) & {"COLLSCAN", "SORT"}
    same = memory.memories.find(same_texts("acme", ["a", "b"]))
    assert not stages(await same.explain()) & {"COLLSCAN", "EOF"}
