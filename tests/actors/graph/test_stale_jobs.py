"""``graph.stale_jobs``: what is stuck fails, with the reason, and may be tried again."""

from typing import Any

from actors.maintenance.database import Database
from schemas.task import TaskStatus
from service.registry import load
from tests.actors.families import Family
from tests.actors.graph.moments import ago
from tests.actors.interleaving import After, cancelled_after
from tests.actors.observing import plans
from tests.conftest import DatabaseClient

JOB = "graph.stale_jobs"


async def job(memory: Database, key: str, kind: str, started: str | None, status: str = "processing") -> None:
    at = {} if started is None else {"startedAt": ago(started)}
    await memory.jobs.insert_one({"_id": key, "kind": kind, "status": status, "attempts": 2, **at})


async def statuses(memory: Database) -> dict[str, Any]:
    return {each["_id"]: each["status"] async for each in memory.jobs.find()}


async def test_a_job_past_the_limit_of_its_kind_fails_with_the_reason(family: Family, memory: Database) -> None:
    await job(memory, "stuck", "document_parsing", "47m")
    await job(memory, "at work", "document_parsing", "29m")
    await job(memory, "slow kind", "object_extraction", "47m")
    await job(memory, "done", "document_parsing", "47m", "completed")
    await job(memory, "stranger", "thumbnail", "3d")
    await job(memory, "undated", "document_parsing", None)
    await job(memory, "ahead", "document_parsing", "-1h")

    result = await family.run("StaleJobCleanupTask")

    assert result == {"scanned": 1, "expired": 1, "raced": 0, "failed": 0}
    assert [key for key, status in (await statuses(memory)).items() if status == "failed"] == ["stuck"]
    stuck = await memory.jobs.find_one({"_id": "stuck"})
    assert stuck is not None
    assert stuck["error"].startswith("stuck in processing for 47m")
    assert stuck["error"].endswith("longer than the 30m that document_parsing may take")
    assert (stuck["retryable"], stuck["attempts"]) == (True, 2)

    before = await family.contents()
    assert (await family.run(JOB))["scanned"] == 0
    assert await family.contents() == before

    assert (await family.run(JOB, {"limits": {"thumbnail": "1h"}}))["expired"] == 1


async def test_a_job_that_ends_or_begins_anew_meanwhile_is_left_alone(
    family: Family, memory: Database, database_client: DatabaseClient
) -> None:
    for key in ("ends", "anew", "stuck"):
        await job(memory, key, "chunk_embedding", "1h")
    own = database_client[memory.name].jobs

    def go_on() -> None:
        own.update_one({"_id": "ends"}, {"$set": {"status": "completed"}})
        own.update_one({"_id": "anew"}, {"$set": {"startedAt": ago("0s")}})

    # The third of five kinds.
    with After(memory.name, "find", "jobs", go_on, nth=3) as other:
        result = await family.run(JOB)

    assert other.happened
    assert (result["expired"], result["raced"]) == (1, 2)
    assert await statuses(memory) == {"ends": "completed", "anew": "processing", "stuck": "failed"}


async def test_a_job_that_the_database_refuses_to_change_does_not_hold_up_the_others(
    family: Family, memory: Database
) -> None:
    await memory.create_collection("jobs", validator={"$or": [{"_id": {"$ne": "bad"}}, {"status": "processing"}]})
    await job(memory, "bad", "graph_embedding", "2h")
    await job(memory, "good", "graph_embedding", "1h")

    result = await family.run(JOB, {"batchSize": 1})

    assert (result["expired"], result["failed"]) == (1, 1)
    assert await statuses(memory) == {"bad": "processing", "good": "failed"}


async def test_cut_short_it_comes_to_the_same_end(family: Family, memory: Database) -> None:
    for number in range(20):
        await job(memory, f"j{number:02}", "datasource_sync", "2h")
    body = {"batchSize": 4}

    async def left() -> int:
        return list((await statuses(memory)).values()).count("processing")

    await family.die(JOB, body, after=3)
    first = await left()
    stopped = await cancelled_after(family, JOB, body, "update", "jobs", nth=1)
    second = await left()
    await family.run(JOB, body)

    assert 0 < first < 20
    assert (stopped.status, second) == (TaskStatus.CANCELLED, first - 4)
    assert await left() == 0


async def test_it_asks_indexes_and_runs_on_nothing(family: Family, memory: Database) -> None:
    assert set((await family.run(JOB)).values()) == {0}

    for number in range(5):
        await job(memory, f"j{number}", "datasource_sync", "2h")
    seen = await plans(family, JOB, {"batchSize": 2})
    assert "jobs" in {collection for collection, _ in seen}
    assert [each for each in seen if "COLLSCAN" in each[1]] == []


def test_all_four_have_half_an_hour_and_their_cadence_is_their_retry() -> None:
    found = [handler for handler in load(["actors.graph"]) if handler.task_type.startswith("graph.")]

    assert len(found) == 4
    assert {(handler.timeout.total_seconds(), handler.max_attempts) for handler in found} == {(1800, 1)}
