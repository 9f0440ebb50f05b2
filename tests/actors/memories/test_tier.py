"""memories.tier: hot, warm and cold by last recall and recalls, without flapping."""

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from actors.maintenance.database import Database
from actors.memories.tier import TierCounts, TierParams
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.memories.rows import a_memory, ago
from tests.actors.observing import cancel, plans

ZERO = TierCounts().result()


def recalls(memory: Any, *days: float, tenant: str = "ada") -> list[dict[str, Any]]:
    return [{"_id": f"{memory}@{day}", "tenantId": tenant, "memoryId": memory, "at": ago(day)} for day in days]


async def tiers(memory: Database) -> dict[Any, Any]:
    return {each["_id"]: each["tier"] async for each in memory.memories.find({})}


async def test_memories_go_where_their_recalls_put_them_and_stay_there(family: Family, memory: Database) -> None:
    await memory.memories.insert_many(
        [
            a_memory("hot", lastRecalledAt=ago(8)),
            a_memory("hot, new", createdAt=ago(13)),
            a_memory("hot to warm", lastRecalledAt=ago(15)),
            a_memory("hot to warm, never recalled", createdAt=ago(15)),
            a_memory("hot to cold", lastRecalledAt=ago(91)),
            a_memory("warm", tier="warm", lastRecalledAt=ago(89)),
            a_memory("warm, recalled twice", tier="warm", lastRecalledAt=ago(1)),
            a_memory("warm, recalled long ago", tier="warm", lastRecalledAt=ago(1), recallCount=50),
            a_memory("warm to hot", tier="warm", lastRecalledAt=ago(1)),
            a_memory("warm to cold", tier="warm"),
            a_memory("cold", tier="cold", lastRecalledAt=ago(8)),
            a_memory("cold to warm", tier="cold", lastRecalledAt=ago(6)),
            a_memory("cold to hot", tier="cold", lastRecalledAt=ago(1)),
            a_memory("archived", status="archived"),
            a_memory("no tier, new", tier=None, createdAt=ago(1)),
            a_memory("no tier, idle", tier=None, lastRecalledAt=ago(20)),
            a_memory("dates that are none", lastRecalledAt="yesterday"),
            a_memory("unknown tier", tier="lukewarm"),
        ]
    )
    await memory.recall_events.insert_many(
        [
            *recalls("warm, recalled twice", 1, 2),
            *recalls("warm, recalled long ago", 1, 8, 9, 10),
            *recalls("warm to hot", 1, 2, 3),
            *recalls("warm to hot", 4, tenant="bob"),
            *recalls("cold to hot", 1, 2, 3, 4),
        ]
    )

    counts = await family.run("tier_transition_job")
    again = await family.run("memories.tier")

    assert await tiers(memory) == {
        "hot": "hot",
        "hot, new": "hot",
        "hot to warm": "warm",
        "hot to warm, never recalled": "warm",
        "hot to cold": "cold",
        "warm": "warm",
        "warm, recalled twice": "warm",
        "warm, recalled long ago": "warm",
        "warm to hot": "hot",
        "warm to cold": "cold",
        "cold": "cold",
        "cold to warm": "warm",
        "cold to hot": "hot",
        "archived": "hot",
        "no tier, new": "hot",
        "no tier, idle": "warm",
        "dates that are none": "hot",
        "unknown tier": "lukewarm",
    }
    moved = {
        "hot_to_warm": 2, "hot_to_cold": 1, "warm_to_cold": 1, "warm_to_hot": 1, "cold_to_warm": 1, "cold_to_hot": 1,
        "placed": 2,
    }  # fmt: skip
    assert counts == ZERO | moved | {"scanned": 11}
    assert again == ZERO | {"scanned": 3}


async def test_what_has_just_come_up_stays_for_a_while(family: Family, memory: Database) -> None:
    """Hysteresis: day by day, a memory that was recalled three times on one day moves twice, and no more."""
    await memory.memories.insert_one(a_memory(1, tier="warm", lastRecalledAt=ago(0)))
    await memory.recall_events.insert_many(recalls(1, 0, 0.1, 0.2))

    seen = []
    async with family.engine() as verger:
        for _ in range(95):
            await verger.client.enqueue("memories.tier", {})
            await verger.run_until_idle()
            seen.append((await tiers(memory))[1])
            await verger.advance(days=1)

    assert list(dict.fromkeys(seen)) == ["hot", "warm", "cold"]
    assert Counter(seen) == {"hot": 14, "warm": 76, "cold": 5}
    assert seen == sorted(seen, key=["hot", "warm", "cold"].index)


def test_windows_that_would_let_it_flap_are_refused() -> None:
    with pytest.raises(ValidationError, match="recallWindow is shorter than warmAfter"):
        TierParams.model_validate({"recallWindow": "15d"})


@pytest.mark.parametrize("after", [1, 3])
async def test_killed_in_the_middle_and_run_again_it_is_as_if_it_had_not_been(
    family: Family, memory: Database, after: int
) -> None:
    rows = [a_memory(n, tier="hot" if n % 2 else None, lastRecalledAt=ago(n * 10 + 1)) for n in range(20)]
    await memory.memories.insert_many(rows)

    await family.die("memories.tier", {"batchSize": 3}, after=after)
    await family.run("memories.tier", {"batchSize": 3})

    belongs = ["hot" if n < 2 else "warm" if n < 9 else "cold" for n in range(20)]
    assert await tiers(memory) == dict(enumerate(belongs))


async def test_cancelled_it_stops_at_a_batch_and_small_tenants_had_their_turn(family: Family, memory: Database) -> None:
    """One tenant has 99 % of the backlog."""
    await memory.memories.insert_many(
        [a_memory(number, "huge") for number in range(300)] + [a_memory(f"small {n}", f"t{n}") for n in range(3)]
    )

    task = await cancel(family, "memories.tier", {"batchSize": 5}, after=5)

    moved = {key for key, tier in (await tiers(memory)).items() if tier == "cold"}
    assert (task.status, task.reason) == (TaskStatus.CANCELLED, "cancel requested")
    assert set(task.checkpoint) == {"at"}
    assert {"small 0", "small 1", "small 2"} < moved
    assert len(moved) % 5 == 3
    assert len(moved) < 303


async def test_a_clock_that_is_set_back_moves_nothing_back(family: Family, memory: Database) -> None:
    await memory.memories.insert_many([a_memory(n, createdAt=ago(n)) for n in range(10)])
    async with family.engine() as verger:
        await verger.advance(days=30)
        await verger.client.enqueue("memories.tier", {})
        await verger.run_until_idle()

    counts = await family.run("memories.tier")

    assert set((await tiers(memory)).values()) == {"warm"}
    assert counts == ZERO


async def test_an_empty_collection_is_no_trouble(family: Family) -> None:
    assert await family.run("memories.tier") == ZERO


async def test_every_query_is_served_by_an_index(family: Family, memory: Database) -> None:
    await memory.memories.insert_many(
        [a_memory(n, f"t{n % 3}", tier=["hot", "warm", "cold", None][n % 4], lastRecalledAt=ago(n)) for n in range(200)]
    )
    await memory.recall_events.insert_many([each for n in range(200) for each in recalls(n, n, tenant=f"t{n % 3}")])

    seen = await plans(family, "memories.tier", {"batchSize": 20})

    assert ("memories", "IXSCAN { tenantId: 1, status: 1, tier: 1, lastRecalledAt: 1, createdAt: 1, _id: 1 }") in seen
    assert ("recall_events", "IXSCAN { tenantId: 1, memoryId: 1, at: 1 }") in seen
    assert not [plan for plan in seen if "COLLSCAN" in plan[1]]
