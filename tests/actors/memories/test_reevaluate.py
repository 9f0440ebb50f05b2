"""memories.reevaluate: new scores for memories that were recalled."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actors.maintenance.database import Database, Document
from actors.maintenance.indexes import ensure_indexes
from actors.memories.collections import Collections
from actors.memories.indexes import RECALLED_SINCE, recall_events
from actors.memories.reevaluate import ReevaluateParams, events_after, with_recalls
from schemas.task import TaskStatus
from tests.actors.families import Family, stages

REEVALUATE = "memories.reevaluate"
TIMES = frozenset({"scoredAt", "updatedAt"})
TIGHT = 1e-3
"""A score ages while a test runs."""


def ago(**span: float) -> datetime:
    moment = datetime.now(UTC) - timedelta(**span)
    return moment.replace(microsecond=0)


def remembered(name: str, tenant: str = "acme", **fields: Any) -> Document:
    return {"_id": name, "tenantId": tenant, "status": "active", "decayScore": 1.0, "score": 0.0, **fields}


def recall(number: int, name: str, at: datetime, tenant: str = "acme") -> Document:
    return {"_id": f"{tenant}-e{number:05}", "tenantId": tenant, "memoryId": name, "at": at}


async def scores(memory: Database) -> dict[str, float]:
    return {each["_id"]: each["score"] async for each in memory.memories.find()}


def told(result: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in result.items() if count}


async def test_recalled_memories_are_scored_by_frequency_recency_and_decay(family: Family, memory: Database) -> None:
    recent = ago(minutes=2)
    await memory.memories.insert_many(
        [
            remembered("often", decayScore=0.1),
            remembered("once"),
            remembered("week", lastRecalledAt=recent),
            remembered("quiet"),
            remembered("leaving", status="soft_deleted"),
            remembered("odd", decayScore="full"),
        ]
    )
    events = [recall(number, "often", recent) for number in range(20)]
    events += [recall(30, "once", ago(days=7)), recall(31, "once", ago(days=60)), recall(32, "week", ago(days=7))]
    events += [recall(33, "leaving", recent), recall(34, "gone", recent), recall(35, "odd", recent)]
    events += [recall(36, "quiet", ago(seconds=2)), {**recall(37, "", recent), "memoryId": None}]
    await memory.recall_events.insert_many(events)

    async with family.engine() as verger:

        async def run(body: Document | None = None) -> dict[str, int]:
            task = await verger.client.enqueue("intelligence_reevaluate", body)
            await verger.run_until_idle()
            ended = await verger.client.get(task.id)
            assert ended.status is TaskStatus.COMPLETED
            return told(ended.result)

        assert await run() == {"scanned": 27, "scored": 3, "became_hot": 1, "missing": 2, "failed": 1}
        assert await scores(memory) == {
            "often": pytest.approx(0.5 * (1 - 0.5**4) + 0.3 + 0.02, abs=TIGHT),
            "once": pytest.approx(0.5 * (1 - 0.5**0.2) + 0.15 + 0.2, abs=TIGHT),
            "week": pytest.approx(0.5 * (1 - 0.5**0.2) + 0.3 + 0.2, abs=TIGHT),
            "quiet": 0.0,  # its recall is too young: others as old may not be committed yet
            "leaving": 0.0,
            "odd": 0.0,
        }
        often = await memory.memories.find_one({"_id": "often"}) or {}
        assert often["lastRecalledAt"] == recent
        assert (await memory.memories.find_one({"_id": "week"}) or {})["lastRecalledAt"] == recent
        before = await family.contents()
        assert await run() == {}
        assert await family.contents() == before

        # One memory alone, whether it was recalled or not; the cursor stays.
        assert await run({"memoryId": "quiet"}) == {"scored": 1}
        assert await run({"memoryId": "nobody"}) == {"missing": 1}
        state = await memory.maintenance_state.find().to_list(None)
        assert state == before["maintenance_state"]
        await verger.advance(minutes=1)
        assert await run() == {"scanned": 1, "scored": 1}


async def test_killed_between_any_two_steps_it_ends_as_if_it_had_not_been(family: Family, memory: Database) -> None:
    await memory.recall_events.insert_many(
        [recall(number, f"m{number % 5}", ago(hours=2, seconds=-number)) for number in range(20)]
    )
    outcomes = []
    for after in (None, 1, 2):
        await memory.memories.delete_many({})
        await memory.maintenance_state.delete_many({})
        await memory.memories.insert_many([remembered(f"m{number}") for number in range(5)])
        if after is not None:
            await family.die(REEVALUATE, {"batchSize": 8}, after=after)
        await family.run(REEVALUATE, {"batchSize": 8})
        contents = await family.contents(without=TIMES)
        for each in contents["memories"]:
            each["score"] = pytest.approx(each["score"], abs=TIGHT)
        outcomes.append(contents)

    assert outcomes[1:] == outcomes[:1] * 2


async def test_a_clock_that_was_set_back_loses_no_event(family: Family, memory: Database) -> None:
    await memory.memories.insert_one(remembered("m"))
    await memory.recall_events.insert_one(recall(1, "m", ago(hours=-1)))
    async with family.engine() as verger:
        await verger.advance(hours=2)
        await verger.client.enqueue(REEVALUATE)
        await verger.run_until_idle()
    # Now it is two hours earlier again, and a recall is dated before the cursor.
    await memory.recall_events.insert_one(recall(2, "m", ago(minutes=5)))

    first = told(await family.run(REEVALUATE))
    await memory.recall_events.insert_one(recall(3, "m", ago(seconds=60)))
    async with family.engine() as verger:
        await verger.advance(minutes=2)
        task = await verger.client.enqueue(REEVALUATE)
        await verger.run_until_idle()
        [state] = await memory.maintenance_state.find().to_list(None)
        assert state["after"]["at"] <= verger.clock.now()

    assert first == {"rewound": 1}
    assert task is not None


async def test_one_tenants_backlog_does_not_hold_up_the_others_and_a_cancelled_run_goes_on(
    family: Family, memory: Database
) -> None:
    old = ago(hours=5)
    huge = [recall(n, f"h{n % 50}", old + timedelta(milliseconds=n // 3), "a-huge") for n in range(990)]
    small = [recall(n, "s", old, "b-small") for n in range(10)]
    await memory.recall_events.insert_many(huge + small)
    await memory.memories.insert_many([remembered(f"h{number}", "a-huge") for number in range(50)])
    await memory.memories.insert_one(remembered("s", "b-small"))

    async with family.engine() as verger:
        task = await verger.client.enqueue(REEVALUATE, {"batchSize": 5})
        while not (await memory.memories.find_one({"_id": "s"}) or {})["score"]:
            await asyncio.sleep(0)
        await verger.client.cancel(task.id)
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.CANCELLED
        cursor = await memory.maintenance_state.find_one({"_id": f"{REEVALUATE} a-huge"}) or {}
        assert cursor["after"]["id"] < "a-huge-e00980"

        task = await verger.client.enqueue(REEVALUATE)
        await verger.run_until_idle()
        result = (await verger.client.get(task.id)).result

    done = int(cursor["after"]["id"].removeprefix("a-huge-e")) + 1
    assert result["scanned"] - (990 - done) in range(11)  # none of its events twice, none left out
    assert all((await scores(memory)).values())


async def test_many_bad_memories_in_a_row_end_the_run_before_its_cursor_is_moved(
    family: Family, memory: Database
) -> None:
    await memory.memories.insert_many([remembered(f"m{number}", decayScore=7) for number in range(5)])
    await memory.recall_events.insert_many([recall(number, f"m{number}", ago(hours=1)) for number in range(5)])

    task = await family.task(REEVALUATE, {"maxFailuresInRow": 3})

    assert (task.status, task.last_error and task.last_error.type) == (TaskStatus.FAILED, "CircuitOpen")
    assert await memory.maintenance_state.find_one() is None


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    await ensure_indexes(memory, recall_events(Collections()))
    now = ago()
    await memory.memories.insert_one(remembered("m"))
    await memory.recall_events.insert_many([recall(number, "m", now) for number in range(300)])

    for cursor in (None, {"at": now, "id": "x"}):
        query = events_after("acme", cursor, now)
        found = stages(
            await memory.recall_events.find(query, sort=[("at", 1), ("_id", 1)], limit=5, hint=RECALLED_SINCE).explain()
        )
        assert not found & {"COLLSCAN", "SORT"}
    order = {"aggregate": "memories", "pipeline": with_recalls("acme", ["m"], now, ReevaluateParams()), "cursor": {}}
    plan = await memory.command("explain", order, verbosity="executionStats")
    assert "COLLSCAN" not in stages(plan)
    [lookup] = [stage for stage in plan["stages"] if "$lookup" in stage]
    assert (lookup["collectionScans"], lookup["totalKeysExamined"]) == (0, 200)
