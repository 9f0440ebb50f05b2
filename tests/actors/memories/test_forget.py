"""memories.forget: what nobody recalls fades, on one curve however often it is looked at."""

import math
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from actors.maintenance.database import Database, Document
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.memories.rows import a_memory, ago
from tests.actors.observing import cancel, plans

WINDOW, HALF_LIFE = timedelta(days=30), timedelta(days=30)


def on_the_curve(memory: Document, *, base: float = 1.0, since: datetime) -> bool:
    """``since``: the end of the window."""
    elapsed = (memory["lastEvaluatedAt"] - since) / HALF_LIFE
    return math.isclose(memory["decayScore"], base * 0.5**elapsed, rel_tol=1e-9)


async def scores(memory: Database) -> dict[Any, Any]:
    return {each["_id"]: each["decayScore"] async for each in memory.memories.find({})}


async def test_only_what_is_idle_for_longer_than_the_window_fades(family: Family, memory: Database) -> None:
    await memory.memories.insert_many(
        [
            a_memory("recalled", lastRecalledAt=ago(10)),
            a_memory("idle", lastRecalledAt=ago(60)),
            a_memory("young", createdAt=ago(29)),
            a_memory("never", createdAt=ago(60)),
            a_memory("evaluated", lastRecalledAt=ago(90), lastEvaluatedAt=ago(30), decayScore=0.8),
            a_memory("archived", lastRecalledAt=ago(90), status="archived"),
            a_memory("faint", createdAt=ago(90), decayScore=0.003),
            a_memory("gone", createdAt=ago(90), decayScore=0),
            a_memory("other", "bob", lastRecalledAt=ago(60)),
        ]
    )

    counts = await family.run("apply_forgetting_policies_job")

    found = await scores(memory)
    assert {key: round(score, 3) for key, score in found.items()} == {
        "recalled": 1, "idle": 0.5, "young": 1, "never": 0.5, "evaluated": 0.4, "archived": 1, "faint": 0, "gone": 0,
        "other": 0.5,
    }  # fmt: skip
    assert counts == {"scanned": 5, "decayed": 5, "forgotten": 1, "failed": 0}


async def test_however_often_and_late_it_runs_the_score_is_on_one_curve(family: Family, memory: Database) -> None:
    """Also when the clock is set back in between: a new engine begins with the true time again."""
    random = Random(5)
    rows = [
        a_memory(number, createdAt=ago(random.uniform(31, 300)), decayScore=random.uniform(0.1, 9))
        for number in range(20)
    ]
    rows += [a_memory(number, lastRecalledAt=ago(random.uniform(1, 90))) for number in range(20, 40)]
    await memory.memories.insert_many(rows)

    for _ in range(2):
        async with family.engine() as verger:
            for days in (0, 0, random.expovariate(10), random.uniform(0, 90), random.uniform(0, 3)):
                await verger.advance(days=days)
                await verger.client.enqueue("memories.forget", {"floor": 0, "batchSize": 7})
                await verger.run_until_idle()
            assert await verger.failed() == []

    evaluated = {each["_id"]: each async for each in memory.memories.find({"lastEvaluatedAt": {"$ne": None}})}
    assert len(evaluated) == 40
    for row in rows:
        since = (row["lastRecalledAt"] or row["createdAt"]) + WINDOW
        assert on_the_curve(evaluated[row["_id"]], base=row["decayScore"], since=since), row


async def test_a_clock_that_is_set_back_changes_nothing_until_time_has_caught_up(
    family: Family, memory: Database
) -> None:
    later = a_memory("ahead", lastEvaluatedAt=ago(-5), decayScore=0.3)
    await memory.memories.insert_one(later)

    counts = await family.run("memories.forget")

    assert counts["scanned"] == 0
    assert await memory.memories.find_one({}) == later


async def test_a_bad_record_is_logged_and_skipped(family: Family, memory: Database) -> None:
    rows = [a_memory(number) for number in range(5)]
    await memory.memories.insert_many(
        [
            *rows,
            a_memory("bad", decayScore=[0.5, 1]),
            a_memory("text", decayScore="0.5"),
            a_memory("when", lastRecalledAt="now"),
        ]
    )

    with capture_logs() as logs:
        counts = await family.run("memories.forget")

    assert (counts["decayed"], counts["failed"]) == (5, 2)
    assert [line["memory"] for line in logs if line["event"] == "memory.failed"] == ["bad", "when"]


async def test_many_bad_records_in_a_row_end_the_run(family: Family, memory: Database) -> None:
    await memory.memories.insert_many([a_memory(number, decayScore=[1]) for number in range(10)])

    task = await family.task("memories.forget", {"maxFailuresInRow": 3})

    assert task.status is TaskStatus.FAILED
    assert "3 memories in a row failed" in str(task.last_error)


@pytest.mark.parametrize("after", [1, 3])
async def test_killed_in_the_middle_and_run_again_it_is_as_if_it_had_not_been(
    family: Family, memory: Database, after: int
) -> None:
    await memory.memories.insert_many([a_memory(number, createdAt=ago(60)) for number in range(20)])

    await family.die("memories.forget", {"batchSize": 5, "floor": 0}, after=after)
    half = await scores(memory)
    await family.run("memories.forget", {"batchSize": 5, "floor": 0})

    assert 0 < sum(score == 1 for score in half.values()) < 20
    async for each in memory.memories.find({}):
        assert on_the_curve(each, since=ago(30)), each


async def test_cancelled_it_stops_at_a_batch_and_small_tenants_had_their_turn(family: Family, memory: Database) -> None:
    """One tenant has 99 % of the backlog."""
    await memory.memories.insert_many(
        [a_memory(number, "huge") for number in range(300)] + [a_memory(f"small {n}", f"t{n}") for n in range(3)]
    )

    task = await cancel(family, "memories.forget", {"batchSize": 5}, after=8)

    faded = {each["_id"] async for each in memory.memories.find({"lastEvaluatedAt": {"$ne": None}})}
    assert (task.status, task.reason) == (TaskStatus.CANCELLED, "cancel requested")
    assert {"small 0", "small 1", "small 2"} < faded
    assert len(faded) % 5 == 3
    assert len(faded) < 303
    moments = await memory.memories.distinct("lastEvaluatedAt", {"lastEvaluatedAt": {"$ne": None}})
    assert [moment.isoformat() for moment in moments] == [task.checkpoint["at"]]


async def test_an_empty_collection_is_no_trouble(family: Family) -> None:
    assert await family.run("memories.forget") == {"scanned": 0, "decayed": 0, "forgotten": 0, "failed": 0}


async def test_every_query_is_served_by_an_index(family: Family, memory: Database) -> None:
    await memory.memories.insert_many([a_memory(n, f"t{n % 3}", lastRecalledAt=ago(n)) for n in range(300)])

    seen = await plans(family, "memories.forget", {"batchSize": 20})

    assert ("memories", "IXSCAN { tenantId: 1, status: 1, createdAt: 1, _id: 1 }") in seen
    assert not [plan for plan in seen if "COLLSCAN" in plan[1]]
