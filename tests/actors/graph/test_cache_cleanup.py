"""``graph.cache_cleanup``: stale entries go from the database's cache, and from each worker's memory."""

from typing import Any

import pytest

from actors.maintenance import caches
from actors.maintenance.database import Database
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.graph.moments import ago
from tests.actors.interleaving import After, cancelled_after
from tests.actors.observing import plans
from tests.conftest import DatabaseClient

JOB = "graph.cache_cleanup"


async def entry(memory: Database, key: str, *, expires: str | None = "-1h", accessed: str | None = "1m") -> None:
    times = {"expiresAt": expires and ago(expires), "lastAccessAt": accessed and ago(accessed)}
    await memory.cache.insert_one({"_id": key, "value": "x", **{name: at for name, at in times.items() if at}})


async def keys_of(memory: Database) -> list[Any]:
    return [each["_id"] async for each in memory.cache.find({}, sort=[("_id", 1)])]


async def test_what_has_expired_goes_and_then_what_was_not_used_for_longest(family: Family, memory: Database) -> None:
    await entry(memory, "expired", expires="1s")
    await entry(memory, "for ever", expires=None)
    await entry(memory, "new", accessed="1s")
    await entry(memory, "old", accessed="2h")
    await entry(memory, "older", accessed="3h")
    await entry(memory, "never used", accessed=None)

    dry = await family.run(JOB, {"maxEntries": 3, "dryRun": True})
    assert (dry, len(await keys_of(memory))) == ({"scanned": 6, "expired": 1, "evicted": 2}, 6)

    result = await family.run("CacheCleanupTask", {"maxEntries": 3, "batchSize": 1})
    assert result == {"scanned": 6, "expired": 1, "evicted": 2}
    assert await keys_of(memory) == ["for ever", "new", "old"]

    assert await family.run(JOB, {"maxEntries": 3}) == {"scanned": 3, "expired": 0, "evicted": 0}


async def test_an_entry_that_is_refreshed_or_used_meanwhile_stays(
    family: Family, memory: Database, database_client: DatabaseClient
) -> None:
    await entry(memory, "expired", expires="1s")
    await entry(memory, "old", accessed="2h")
    own = database_client[memory.name].cache

    def use() -> None:
        own.update_one({"_id": "expired"}, {"$set": {"expiresAt": ago("-1h"), "lastAccessAt": ago("0s")}})

    with After(memory.name, "find", "cache", use) as refreshed:
        result = await family.run(JOB)
    assert (refreshed.happened, result["expired"]) == (True, 0)

    def touch() -> None:
        own.update_one({"_id": "old"}, {"$set": {"lastAccessAt": ago("0s")}})

    with After(memory.name, "find", "cache", touch, nth=2) as touched:
        result = await family.run(JOB, {"maxEntries": 1})
    assert (touched.happened, result["evicted"]) == (True, 0)
    assert await keys_of(memory) == ["expired", "old"]


async def test_each_worker_is_told_to_let_go_of_what_it_has_in_memory(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    titles, names = {"a": 1, "b": 2}, {"c": 3}

    def clear(what: dict[str, int]) -> int:
        count = len(what)
        what.clear()
        return count

    def broken() -> int:
        raise RuntimeError("no")

    with (
        caches.registered("titles", lambda: clear(titles)),
        caches.registered("broken", broken),
        caches.registered("names", lambda: clear(names)),
    ):
        await family.run(JOB, {"dryRun": True})
        assert (len(titles), len(names)) == (2, 1)
        await family.run(JOB, {"cache": "names"})
        assert (len(titles), len(names)) == (2, 0)
        await family.run(JOB)
        assert (len(titles), len(names)) == (0, 0)

    said = capsys.readouterr()
    assert "cache.failed" in said.out + said.err
    titles["a"] = 1
    await family.run(JOB)
    assert titles, "whoever has ended is not told any more"


async def test_a_limit_to_what_goes_at_once_is_kept(family: Family, memory: Database) -> None:
    for number in range(30):
        await entry(memory, f"k{number}", expires="1s")

    refused = await family.task(JOB, {"maxDeleteRatio": 0.5})

    assert (refused.status, len(await keys_of(memory))) == (TaskStatus.FAILED, 30)


async def test_cut_short_it_comes_to_the_same_end(family: Family, memory: Database) -> None:
    for number in range(20):
        await entry(memory, f"k{number:02}", expires="1s")
    body = {"batchSize": 4}

    await family.die(JOB, body, after=2)
    left = len(await keys_of(memory))
    stopped = await cancelled_after(family, JOB, body, "delete", "cache", nth=1)
    less = len(await keys_of(memory))
    await family.run(JOB, body)

    assert 0 < left < 20
    assert (stopped.status, less) == (TaskStatus.CANCELLED, left - 4)
    assert await keys_of(memory) == []


async def test_it_asks_indexes_and_runs_on_nothing(family: Family, memory: Database) -> None:
    assert set((await family.run(JOB)).values()) == {0}

    for number in range(10):
        await entry(memory, f"k{number}", expires="1s" if number % 2 else "-1h")
    seen = await plans(family, JOB, {"maxEntries": 3, "batchSize": 2})
    assert "cache" in {collection for collection, _ in seen}
    assert [each for each in seen if "COLLSCAN" in each[1]] == []
