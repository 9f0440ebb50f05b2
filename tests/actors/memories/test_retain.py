"""memories.retain: step by step to a tombstone; never past a hold, never two steps at once."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from actors import Context
from actors.maintenance.database import Database, Document
from actors.maintenance.vector_store.lance import LanceStore
from actors.maintenance.vector_store.port import Vector
from actors.memories.retain import RetainCounts, audit_id
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.memories.rows import a_memory, ago
from tests.actors.observing import cancel, plans

ZERO = RetainCounts().result()
STEPS = ("active", "archived", "soft_deleted", "hard_delete_pending", "purged")


@pytest.fixture
async def vectors(family: Family) -> AsyncIterator[LanceStore]:
    """Those of the worker: in the same folder."""
    store = LanceStore(family.settings["data_dir"] / "vectors")
    yield store
    await store.close()


def expired(key: Any, status: str, since: float, tenant: str = "ada", **fields: Any) -> Document:
    """Its retention ended, and it has had its status for so many days."""
    return a_memory(
        key, tenant, **{"retentionExpiresAt": ago(100), "status": status, "statusChangedAt": ago(since), **fields}
    )


async def embed(vectors: LanceStore, ids: Sequence[Any]) -> None:
    made = [
        Vector(f"v{key}", str(key), "ada", "test-2", "0" * 64, f"what {key} says", [1.0, float(number)])
        for number, key in enumerate(ids)
    ]
    await vectors.put("memories", made)


async def owners_found(vectors: LanceStore) -> set[str]:
    return {hit.stored.owner for hit in await vectors.search("memories", [1.0, 0.0], limit=100)}


async def statuses(memory: Database) -> dict[Any, str]:
    return {each["_id"]: each["status"] async for each in memory.memories.find({})}


async def test_each_memory_takes_the_step_that_is_due_and_no_other(family: Family, memory: Database) -> None:
    await memory.memories.insert_many(
        [
            expired("active", "active", 400),
            expired("archived", "archived", 31),
            expired("archived lately", "archived", 29),
            expired("soft", "soft_deleted", 31),
            expired("soft lately", "soft_deleted", 29),
            expired("pending", "hard_delete_pending", 8),
            expired("pending lately", "hard_delete_pending", 6),
            expired("tomorrow", "active", 400, retentionExpiresAt=ago(-1)),
            expired("for ever", "active", 400, retentionExpiresAt=None),
            expired("extended", "hard_delete_pending", 400, retentionExpiresAt=ago(-1)),
            expired("archived by hand", "archived", 400, retentionExpiresAt=None),
            expired("changed in the future", "archived", -3),
            expired("undated", "hard_delete_pending", 0, statusChangedAt=None),
        ]
    )
    before = await statuses(memory)

    dry = await family.run("memories.retain", {"dryRun": True})
    untouched = await statuses(memory)
    counts = await family.run("retention_enforcement_job")
    again = await family.run("memories.retain")

    due = {"archived": 1, "soft_deleted": 1, "hard_delete_pending": 1, "purged": 1, "scanned": 4}
    assert dry == ZERO | due
    assert untouched == before
    assert counts == ZERO | due | {"dated": 1}
    assert again == ZERO
    moved = {"active": "archived", "archived": "soft_deleted", "soft": "hard_delete_pending", "pending": "purged"}
    assert await statuses(memory) == before | moved
    undated = await memory.memories.find_one({"_id": "undated"}) or {}
    assert undated["statusChangedAt"] > ago(0)


async def test_from_active_to_a_tombstone_it_takes_five_runs_however_late_they_are(
    family: Family, memory: Database, vectors: LanceStore
) -> None:
    """Without any grace, too, a run is one step."""
    at_once = {"softDeleteAfter": "0s", "hardDeleteAfter": "0s", "purgeAfter": "0s"}
    await memory.memories.insert_many([expired("a", "active", 400), expired("b", "active", 400, secret="?")])
    await embed(vectors, ["a", "b", "c"])

    seen = []
    async with family.engine() as verger:
        for body in ({}, {}, at_once, at_once, at_once, at_once):
            await verger.client.enqueue("memories.retain", body)
            await verger.run_until_idle()
            seen.append((await statuses(memory))["a"])
            await verger.advance(hours=1)
        assert await verger.failed() == []

    assert seen == ["archived", "archived", "soft_deleted", "hard_delete_pending", "purged", "purged"]
    assert await owners_found(vectors) == {"c"}
    tombstone = await memory.memories.find_one({"_id": "b"}) or {}
    assert set(tombstone) == {
        "_id", "tenantId", "status", "statusChangedAt", "createdAt", "retentionExpiresAt", "purgedAt"
    }  # fmt: skip
    rows = await memory.audit_log.find({}, sort=[("_id", 1)]).to_list(None)
    assert [(row["_id"], row["tenantId"], row["action"], row["target"]) for row in rows] == [
        ("memory.purged:a", "ada", "memory.purged", "a"),
        ("memory.purged:b", "ada", "memory.purged", "b"),
    ]
    assert "says" not in str(await family.contents())


async def test_a_purge_takes_the_summary_that_may_quote_the_memory_and_the_next_is_made_of_the_others(
    family: Family, memory: Database
) -> None:
    secret = "The password of the safe is swordfish."
    await memory.clusters.insert_many(
        [
            {"_id": "c1", "tenantId": "ada", "memberCount": 10, "summary": f"Notes. {secret}", "summaryHash": "h"},
            {"_id": "c2", "tenantId": "ada", "memberCount": 10, "summary": "Others.", "summaryHash": "h"},
        ]
    )
    await memory.memories.insert_one(expired("a", "hard_delete_pending", 400, text=secret, clusterId="c1"))
    await memory.memories.insert_many(
        [a_memory(f"m{n}", "ada", clusterId="c1", text="We went home.") for n in range(9)]
    )

    await family.run("memories.retain", {})

    assert "swordfish" not in str(await family.contents())
    kept = await memory.clusters.find_one({"_id": "c2"}) or {}
    assert kept["summary"] == "Others."
    assert (await family.run("memories.summarize", {}))["summarised"] == 1
    made = await memory.clusters.find_one({"_id": "c1"}) or {}
    assert made["summary"] == "We went home."


@pytest.mark.parametrize("status", STEPS[:-1])
async def test_nothing_on_hold_takes_a_step(family: Family, memory: Database, vectors: LanceStore, status: str) -> None:
    holds: list[Any] = [ago(-0.5), ago(-10_000), "until the case is closed", True, [ago(1), ago(-1)], [], {"by": "x"}]
    await memory.memories.insert_many([expired(n, status, 400, holdUntil=hold) for n, hold in enumerate(holds)])
    await memory.memories.insert_one(expired("over", status, 400, holdUntil=ago(0.1)))
    await embed(vectors, [*range(len(holds)), "over"])
    before = await memory.memories.find({"_id": {"$ne": "over"}}).to_list(None)

    counts = await family.run("memories.retain")

    after = await memory.memories.find({"_id": {"$ne": "over"}}).to_list(None)
    assert after == before
    assert counts["held"] == len(holds)
    assert (await statuses(memory))["over"] == STEPS[STEPS.index(status) + 1]
    assert await owners_found(vectors) >= {str(number) for number in range(len(holds))}


async def test_a_hold_that_comes_while_the_vectors_go_saves_the_text(
    family: Family, memory: Database, vectors: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.memories.insert_many(
        [expired(n, "hard_delete_pending", 8, embeddingUpdatedAt=ago(9)) for n in ("a", "b")]
    )
    await embed(vectors, ["a", "b"])
    delete = LanceStore.delete

    async def delete_and_hold(self: LanceStore, table: str, **what: Any) -> int:
        await memory.memories.update_one({"_id": "a"}, {"$set": {"holdUntil": ago(-1)}})
        return await delete(self, table, **what)

    monkeypatch.setattr(LanceStore, "delete", delete_and_hold)
    counts = await family.run("memories.retain")

    held = await memory.memories.find_one({"_id": "a"}) or {}
    assert (held["status"], held["text"], held["embeddingUpdatedAt"]) == ("hard_delete_pending", "what a says", None)
    assert (counts["purged"], counts["held"]) == (1, 1)
    assert await memory.audit_log.distinct("_id") == [audit_id("b")]


async def test_a_memory_that_the_database_refuses_does_not_hold_up_the_others(family: Family, memory: Database) -> None:
    keeps_text = {"$or": [{"_id": {"$nin": [1, 4]}}, {"text": {"$exists": True}, "status": {"$ne": "archived"}}]}
    await memory.create_collection("memories", validator=keeps_text)
    await memory.memories.insert_many([expired(n, "hard_delete_pending", 8) for n in range(3)])
    await memory.memories.insert_many([expired(n, "active", 8) for n in range(3, 6)])

    counts = await family.run("memories.retain")

    assert counts == ZERO | {"scanned": 6, "purged": 2, "archived": 2, "failed": 2}
    assert await statuses(memory) == {
        0: "purged", 1: "hard_delete_pending", 2: "purged", 3: "archived", 4: "active", 5: "archived"
    }  # fmt: skip
    assert await memory.audit_log.distinct("target") == ["0", "2"]


async def test_most_memories_are_not_purged_without_force(family: Family, memory: Database) -> None:
    """And nothing else is done: what is wrong with the retention may be wrong with the earlier steps."""
    await memory.memories.insert_many([expired(n, "hard_delete_pending", 8) for n in range(60)])
    await memory.memories.insert_many([expired(n, "active", 8) for n in range(60, 100)])
    await memory.memories.insert_many([expired(n, "purged", 8) for n in range(100, 200)])
    before = await statuses(memory)

    refused = await family.task("memories.retain")
    after = await statuses(memory)
    counts = await family.run("memories.retain", {"force": True})

    assert refused.status is TaskStatus.FAILED
    assert "refused to delete 60 of 100 memories" in str(refused.last_error)
    assert after == before
    assert (counts["purged"], counts["archived"]) == (60, 40)


async def test_while_the_vector_store_is_down_nothing_is_purged_and_the_rest_goes_on(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    await memory.memories.insert_many([expired("pending", "hard_delete_pending", 8), expired("active", "active", 8)])

    task = await family.task("memories.retain", vectors_dir=tmp_path / "file" / "vectors")

    assert task.status is TaskStatus.FAILED
    assert await statuses(memory) == {"pending": "hard_delete_pending", "active": "archived"}
    assert (await memory.memories.find_one({"_id": "pending"}) or {})["text"] == "what pending says"


@pytest.mark.parametrize("after", [1, 2, 3, 5])
async def test_killed_between_any_two_writes_the_next_run_mends_it(
    family: Family, memory: Database, vectors: LanceStore, after: int
) -> None:
    """Text, audit row, tombstone, of the first batch and of the second, then an earlier step."""
    await memory.memories.insert_many([expired(n, "hard_delete_pending", 8) for n in range(4)])
    await memory.memories.insert_many([expired(n, "active", 8) for n in range(4, 8)])
    await embed(vectors, range(8))

    await family.die("memories.retain", {"batchSize": 2}, after=after)
    await family.run("memories.retain", {"batchSize": 2})

    assert await statuses(memory) == dict(enumerate(["purged"] * 4 + ["archived"] * 4))
    assert await memory.audit_log.distinct("_id") == [audit_id(number) for number in range(4)]
    assert await memory.memories.count_documents({"status": "purged", "text": {"$exists": True}}) == 0
    assert await owners_found(vectors) == {str(number) for number in range(4, 8)}


async def test_a_row_of_a_purge_that_is_mended_later_is_not_dated_back(family: Family, memory: Database) -> None:
    """Else it would lie behind the cursor of a SIEM that has read on."""
    await memory.memories.insert_one(
        {key: value for key, value in expired("a", "hard_delete_pending", 8, purgedAt=ago(1)).items() if key != "text"}
    )

    await family.run("memories.retain")

    row = await memory.audit_log.find_one({}) or {}
    assert row["at"] > ago(0)
    assert row["detail"]["purgedAt"] == ago(1)


async def test_cancelled_it_stops_at_a_batch_and_small_tenants_had_their_turn(family: Family, memory: Database) -> None:
    """One tenant has 99 % of the backlog."""
    await memory.memories.insert_many([expired(number, "active", 8, "huge") for number in range(300)])
    await memory.memories.insert_many([expired(f"small {n}", "active", 8, f"t{n}") for n in range(3)])

    task = await cancel(family, "memories.retain", {"batchSize": 5}, after=6)

    archived = {key for key, status in (await statuses(memory)).items() if status == "archived"}
    assert (task.status, set(task.checkpoint)) == (TaskStatus.CANCELLED, {"at"})
    assert {"small 0", "small 1", "small 2"} < archived
    assert len(archived) % 5 == 3
    assert len(archived) < 303


async def test_an_attempt_that_goes_on_takes_no_second_step(
    family: Family, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker stops in the middle; the next one goes on as of the same moment, even where no step has a grace."""
    at_once = {"softDeleteAfter": "0s", "hardDeleteAfter": "0s", "purgeAfter": "0s"}
    await memory.memories.insert_many([expired(number, "active", 8) for number in range(4)])
    checkpoints: list[Any] = []

    async def stumbling(self: Context, done: int, *more: Any) -> None:
        checkpoints.append(self.task.checkpoint)
        if len(checkpoints) == 1:
            raise OSError("the first attempt ends after its first batch")
        await progress(self, done, *more)

    progress = Context.progress
    monkeypatch.setattr(Context, "progress", stumbling)
    async with family.engine() as verger:
        task = await verger.client.enqueue("memories.retain", {**at_once, "batchSize": 2}, max_attempts=2)
        await verger.run_until_idle()
        half = await statuses(memory)
        await verger.advance(timedelta(seconds=30))
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.COMPLETED

    assert checkpoints[0] is None
    assert set(checkpoints[1]) == {"at"}
    assert sorted(half.values()) == ["active", "active", "archived", "archived"]
    assert set((await statuses(memory)).values()) == {"archived"}


async def test_an_empty_collection_is_no_trouble(family: Family) -> None:
    assert await family.run("memories.retain") == ZERO


async def test_every_query_is_served_by_an_index(family: Family, memory: Database) -> None:
    await memory.memories.insert_many([expired(n, STEPS[n % 5], n, f"t{n % 3}") for n in range(300)])

    seen = await plans(family, "memories.retain", {"batchSize": 10})

    assert ("memories", "IXSCAN { tenantId: 1, status: 1, retentionExpiresAt: 1, statusChangedAt: 1, _id: 1 }") in seen
    assert not [plan for plan in seen if "COLLSCAN" in plan[1]]
