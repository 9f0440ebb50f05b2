"""memories.audit_retain: old audit rows go, but none that a SIEM still waits for."""

from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from structlog.testing import capture_logs

from actors.maintenance.database import Database
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.memories.rows import ago
from tests.actors.observing import cancel, plans


def row(key: Any, days: float, tenant: str = "ada") -> dict[str, Any]:
    return {"_id": key, "tenantId": tenant, "at": ago(days), "action": "memory.read"}


def endpoint(tenant: str, cursor: Any, *, enabled: bool = True) -> dict[str, Any]:
    return {"_id": tenant, "url": "https://siem.example", "enabled": enabled, "cursor": cursor}


async def left(memory: Database, tenant: str = "ada") -> list[Any]:
    return [each["_id"] async for each in memory.audit_log.find({"tenantId": tenant}, sort=[("at", 1), ("_id", 1)])]


async def test_rows_go_after_their_tenants_retention(family: Family, memory: Database) -> None:
    rows = [row(f"{tenant}{days}", days, tenant) for tenant in ("ada", "bob") for days in (400, 366, 364, 91, 89, 1)]
    await memory.audit_log.insert_many([*rows, {"_id": 1, "tenantId": "ada", "at": None}, {"_id": 2, "at": ago(999)}])
    body = {"retentionByTenant": {"bob": "90d"}, "maxDeleteRatio": 0.6}

    dry = await family.run("memories.audit_retain", {**body, "dryRun": True})
    untouched = await memory.audit_log.count_documents({})
    counts = await family.run("Audit Log Retention", body)
    again = await family.run("memories.audit_retain", body)

    assert dry == {"scanned": 14, "expired": 6, "held": 0, "deleted": 0, "failed": 0}
    assert untouched == 14
    assert counts == dry | {"deleted": 6}
    assert again == {"scanned": 8, "expired": 0, "held": 0, "deleted": 0, "failed": 0}
    assert await left(memory) == [1, "ada364", "ada91", "ada89", "ada1"]
    assert await left(memory, "bob") == ["bob89", "bob1"]


async def test_no_row_goes_that_was_not_forwarded(family: Family, memory: Database) -> None:
    """A disabled endpoint may be enabled again; one without a cursor has forwarded nothing."""
    for tenant in ("ada", "disabled", "new", "odd", "beyond"):
        rows = [(1, 500), (2, 450), (3, 450), (4, 450), (5, 400), (6, 1)]
        await memory.audit_log.insert_many([row(f"{tenant}{number}", days, tenant) for number, days in rows])
    await memory.siem_endpoints.insert_many(
        [
            endpoint("ada", {"at": ago(450), "id": "ada3"}),
            endpoint("disabled", {"at": ago(500), "id": "disabled1"}, enabled=False),
            endpoint("new", None),
            endpoint("odd", "2025-01-01"),
            endpoint("beyond", {"at": ago(2), "id": "x"}),
        ]
    )

    with capture_logs() as logs:
        counts = await family.run("memories.audit_retain", {"batchSize": 2})

    assert await left(memory) == ["ada4", "ada5", "ada6"]
    assert len(await left(memory, "disabled")) == 5
    assert len(await left(memory, "new")) == 6
    assert len(await left(memory, "odd")) == 6
    assert await left(memory, "beyond") == ["beyond6"]
    assert counts == {"scanned": 30, "expired": 9, "held": 16, "deleted": 9, "failed": 1}
    assert [line["tenant"] for line in logs if line["event"] == "cursor.unreadable"] == ["odd"]


async def test_a_cursor_among_ids_of_another_kind_keeps_them_until_it_moves_on(
    family: Family, memory: Database
) -> None:
    at = ago(450)
    await memory.audit_log.insert_many([row(ObjectId(), 450), row("a", 450), row("b", 450)])
    await memory.siem_endpoints.insert_one(endpoint("ada", {"at": at, "id": "a"}))

    first = await family.run("memories.audit_retain")
    await memory.siem_endpoints.update_one({}, {"$set": {"cursor.at": at + timedelta(milliseconds=1)}})
    second = await family.run("memories.audit_retain")

    assert (first["deleted"], first["held"]) == (1, 2)
    assert (second["deleted"], second["held"]) == (2, 0)


async def test_most_of_the_log_does_not_go_without_force(family: Family, memory: Database) -> None:
    await memory.audit_log.insert_many([row(number, 400 if number < 60 else 1) for number in range(100)])

    refused = await family.task("memories.audit_retain")
    kept = len(await left(memory))
    counts = await family.run("memories.audit_retain", {"force": True})

    assert refused.status is TaskStatus.FAILED
    assert "refused to delete 60 of 100 audit rows" in str(refused.last_error)
    assert (kept, counts["deleted"]) == (100, 60)


@pytest.mark.parametrize("after", [1, 3])
async def test_killed_in_the_middle_and_run_again_it_is_as_if_it_had_not_been(
    family: Family, memory: Database, after: int
) -> None:
    await memory.audit_log.insert_many([row(number, 400 if number < 12 else 1) for number in range(24)])

    await family.die("memories.audit_retain", {"batchSize": 3}, after=after)
    half = await left(memory)
    await family.run("memories.audit_retain", {"batchSize": 3})

    assert len(half) == 24 - 3 * after
    assert await left(memory) == list(range(12, 24))


async def test_cancelled_it_stops_at_a_batch_and_small_tenants_had_their_turn(family: Family, memory: Database) -> None:
    """One tenant has 99 % of the backlog."""
    await memory.audit_log.insert_many([row(number, 400, "huge") for number in range(300)])
    await memory.audit_log.insert_many([row(f"small {n}", 400, f"t{n}") for n in range(3)])

    task = await cancel(family, "memories.audit_retain", {"batchSize": 5, "force": True}, after=5)

    assert (task.status, set(task.checkpoint)) == (TaskStatus.CANCELLED, {"at"})
    assert await memory.audit_log.count_documents({"tenantId": {"$ne": "huge"}}) == 0
    assert await memory.audit_log.count_documents({}) % 5 == 0
    assert await memory.audit_log.count_documents({}) > 0


async def test_a_clock_that_is_set_back_keeps_more(family: Family, memory: Database) -> None:
    await memory.audit_log.insert_many([row(number, number * 100) for number in range(-5, 4)])

    assert (await family.run("memories.audit_retain"))["expired"] == 0


async def test_an_empty_collection_is_no_trouble(family: Family) -> None:
    counts = await family.run("memories.audit_retain")

    assert counts == {"scanned": 0, "expired": 0, "held": 0, "deleted": 0, "failed": 0}


async def test_every_query_is_served_by_an_index(family: Family, memory: Database) -> None:
    await memory.audit_log.insert_many([row(n, n * 5, f"t{n % 3}") for n in range(150)])
    await memory.siem_endpoints.insert_one(endpoint("t1", {"at": ago(500), "id": 100}))

    seen = await plans(family, "memories.audit_retain", {"batchSize": 10})

    assert ("audit_log", "IXSCAN { tenantId: 1, at: 1, _id: 1 }") in seen
    assert not [plan for plan in seen if "COLLSCAN" in plan[1]]
