"""memories.clean_sessions: expired sessions go, and no others."""

from typing import Any

import pytest

from actors.maintenance.database import Database
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.memories.rows import ago
from tests.actors.observing import cancel, plans


def sessions(*expired_days_ago: float) -> list[dict[str, Any]]:
    return [
        {"_id": number, "userId": "ada", "refreshExpiresAt": ago(days)} for number, days in enumerate(expired_days_ago)
    ]


async def left(memory: Database) -> list[Any]:
    return [each["_id"] async for each in memory.auth_sessions.find({}, sort=[("_id", 1)])]


async def test_expired_sessions_go_and_nothing_else(family: Family, memory: Database) -> None:
    odd: list[dict[str, Any]] = [
        {"_id": 10, "refreshExpiresAt": None},
        {"_id": 11},
        {"_id": 12, "refreshExpiresAt": "2001-01-01"},
    ]
    await memory.auth_sessions.insert_many([*sessions(1, -1, 300, -0.1, 0.1), *odd])

    dry = await family.run("memories.clean_sessions", {"dryRun": True})
    untouched = await left(memory)
    counts = await family.run("cleanup_expired_sessions", {"batchSize": 2})
    again = await family.run("memories.clean_sessions")

    assert dry == {"scanned": 8, "expired": 3, "deleted": 0}
    assert untouched == [0, 1, 2, 3, 4, 10, 11, 12]
    assert counts == {"scanned": 8, "expired": 3, "deleted": 3}
    assert await left(memory) == [1, 3, 10, 11, 12]
    assert again == {"scanned": 5, "expired": 0, "deleted": 0}


async def test_sessions_are_kept_for_the_grace(family: Family, memory: Database) -> None:
    await memory.auth_sessions.insert_many(sessions(1, 3))

    await family.run("memories.clean_sessions", {"grace": "2d"})

    assert await left(memory) == [0]


async def test_nearly_all_sessions_do_not_go_without_force(family: Family, memory: Database) -> None:
    """As when the clock is a year ahead."""
    await memory.auth_sessions.insert_many(sessions(*[1] * 99, -1))

    refused = await family.task("memories.clean_sessions")
    kept = len(await left(memory))
    await family.run("memories.clean_sessions", {"force": True})

    assert refused.status is TaskStatus.FAILED
    assert "refused to delete 99 of 100 sessions" in str(refused.last_error)
    assert kept == 100
    assert await left(memory) == [99]


@pytest.mark.parametrize("after", [1, 3])
async def test_killed_in_the_middle_and_run_again_it_is_as_if_it_had_not_been(
    family: Family, memory: Database, after: int
) -> None:
    await memory.auth_sessions.insert_many(sessions(*[1] * 12, *[-1] * 12))

    await family.die("memories.clean_sessions", {"batchSize": 3}, after=after)
    half = await left(memory)
    await family.run("memories.clean_sessions", {"batchSize": 3})

    assert len(half) == 24 - 3 * after
    assert await left(memory) == list(range(12, 24))


async def test_cancelled_it_stops_at_a_batch(family: Family, memory: Database) -> None:
    await memory.auth_sessions.insert_many(sessions(*[1] * 200, *[-1] * 50))

    task = await cancel(family, "memories.clean_sessions", {"batchSize": 3}, after=2)

    assert (task.status, set(task.checkpoint)) == (TaskStatus.CANCELLED, {"at"})
    assert 50 < len(await left(memory)) <= 244


async def test_an_empty_collection_is_no_trouble(family: Family) -> None:
    assert await family.run("memories.clean_sessions") == {"scanned": 0, "expired": 0, "deleted": 0}


async def test_every_query_is_served_by_an_index(family: Family, memory: Database) -> None:
    await memory.auth_sessions.insert_many(sessions(*[1] * 50, *[-1] * 50))

    seen = await plans(family, "memories.clean_sessions", {"batchSize": 20})

    assert ("auth_sessions", "IXSCAN { refreshExpiresAt: 1, _id: 1 }") in seen
    assert not [plan for plan in seen if "COLLSCAN" in plan[1]]
