"""memories.insights: a snapshot of each tenant a day."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from actors.maintenance.database import Database
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.memories.rows import NOW, a_memory
from tests.actors.observing import cancel, plans

TEXTS = ("The harbour light was repaired", "A light in the harbour", "Soup, and more soup", "Light")


NOON = (NOW + timedelta(days=1)).replace(hour=12)
"""Far from both ends of a day."""


def day(before: int = 0) -> str:
    return (NOON - timedelta(days=before)).date().isoformat()


async def at_noon(family: Family, body: Mapping[str, Any]) -> dict[str, Any]:
    async with family.engine() as verger:
        await verger.advance(NOON - verger.clock.now())
        task = await verger.client.enqueue("generate_daily_insights_job", dict(body))
        await verger.run_until_idle()
        assert await verger.failed() == []
        return dict((await verger.client.get(task.id)).result or {})


async def test_a_snapshot_tells_what_a_tenant_has(family: Family, memory: Database) -> None:
    rows = [a_memory(number, text=text, recallCount=number) for number, text in enumerate(TEXTS)]
    rows += [
        a_memory(10, tier="warm", recallCount=7, text="soup"),
        a_memory(11, tier=None, text=None),
        a_memory(12, status="archived", recallCount=99),
        a_memory(13, status="purged"),
        a_memory(20, "bob"),
    ]
    await memory.memories.insert_many(rows)
    await memory.insights.insert_many(
        [{"_id": f"ada:{day(1)}", "memories": 4}, {"_id": f"ada:{day(7)}", "memories": 9}, {"_id": f"ada:{day(2)}"}]
    )

    counts = await at_noon(family, {"mostRecalled": 3})

    assert counts == {"tenants": 2, "memories": 8, "sampled": 6}
    ada = await memory.insights.find_one({"_id": f"ada:{day()}"}) or {}
    assert ada.pop("at") >= NOON
    assert ada == {
        "_id": f"ada:{day()}",
        "tenantId": "ada",
        "day": day(),
        "memories": 7,
        "statuses": {"active": 6, "archived": 1, "purged": 1},
        "tiers": {"hot": 4, "none": 1, "warm": 1},
        "growth": {"day": 3, "week": -2, "month": None},
        "mostRecalled": [
            {"memoryId": 10, "recallCount": 7},
            {"memoryId": 3, "recallCount": 3},
            {"memoryId": 2, "recallCount": 2},
        ],
        "topics": [
            {"term": "light", "memories": 3},
            {"term": "harbour", "memories": 2},
            {"term": "soup", "memories": 2},
        ],
        "sampled": 5,
    }


async def test_the_same_day_again_replaces_the_snapshot_and_the_same_data_give_the_same(
    family: Family, memory: Database
) -> None:
    """A sample of 40 of 500."""
    await memory.memories.insert_many(
        [a_memory(n, text=f"term{chr(97 + n % 17)} {'even' if n % 2 else 'uneven'}") for n in range(500)]
    )

    found = []
    for seed in (0, 0, 1):
        await at_noon(family, {"sampleSize": 40, "seed": seed})
        found.append(await family.contents(without=frozenset({"at"})))

    [snapshot] = found[0]["insights"]
    assert found[1] == found[0]
    assert found[2] != found[0]
    assert snapshot["sampled"] == 40
    assert snapshot["memories"] == 500


async def test_the_sample_is_of_all_ages_and_tiers(family: Family, memory: Database) -> None:
    """Nine tenths are cold: so is the larger part of the sample."""
    await memory.memories.insert_many(
        [a_memory(n, tier="cold" if n % 10 else "hot", text="cold" if n % 10 else "hot") for n in range(3000)]
    )

    await family.run("memories.insights", {"sampleSize": 2000})

    [snapshot] = await memory.insights.find({}).to_list(None)
    topics = {topic["term"]: topic["memories"] for topic in snapshot["topics"]}
    assert sum(topics.values()) == snapshot["sampled"] == 2000
    assert 0 < topics["hot"] < topics["cold"]


@pytest.mark.parametrize("after", [1, 2])
async def test_killed_in_the_middle_and_run_again_it_is_as_if_it_had_not_been(
    family: Family, memory: Database, after: int
) -> None:
    await memory.memories.insert_many([a_memory(n, f"t{n % 4}") for n in range(40)])

    await family.die("memories.insights", after=after)
    half = await memory.insights.count_documents({})
    counts = await family.run("memories.insights")
    mended = await family.contents(without=frozenset({"at"}))
    await memory.insights.drop()
    await family.run("memories.insights")

    assert (half, counts["tenants"]) == (after, 4)
    assert mended == await family.contents(without=frozenset({"at"}))


async def test_cancelled_it_stops_after_a_tenant_which_its_checkpoint_names(family: Family, memory: Database) -> None:
    await memory.memories.insert_many([a_memory(n, f"t{n:03}") for n in range(100)])

    task = await cancel(family, "memories.insights", {}, after=2)

    done = await memory.insights.distinct("tenantId")
    assert task.status is TaskStatus.CANCELLED
    assert 2 <= len(done) < 100
    assert task.checkpoint["after"] in done[-2:]


async def test_an_empty_collection_is_no_trouble(family: Family) -> None:
    assert await family.run("memories.insights") == {"tenants": 0, "memories": 0, "sampled": 0}


async def test_every_query_is_served_by_an_index(family: Family, memory: Database) -> None:
    rows: list[dict[str, Any]] = [a_memory(n, f"t{n % 3}", recallCount=n) for n in range(300)]
    await memory.memories.insert_many(rows)

    seen = await plans(family, "memories.insights", {"sampleSize": 40})

    assert ("memories", "IXSCAN { tenantId: 1, status: 1, recallCount: -1 }") in seen
    assert not [plan for plan in seen if "COLLSCAN" in plan[1]]
