"""What the maintenance actors have in common."""

from collections.abc import AsyncIterator

import pytest
from pymongo import IndexModel

from actors.maintenance.breaker import Breaker, CircuitOpen
from actors.maintenance.database import Client, Database
from actors.maintenance.fairness import AT_ONCE, in_turn, tenants
from actors.maintenance.guard import FEW, TooMuch, check
from actors.maintenance.indexes import ensure_indexes
from actors.maintenance.pages import pages
from actors.maintenance.params import DeletingParams
from tests.actors.families import Family, connect, stages


@pytest.fixture
async def client(mongo_url: str) -> AsyncIterator[Client]:
    client = connect(mongo_url)
    yield client
    client.close()


@pytest.fixture
def memory(client: Client, database: str) -> Database:
    return client[database]


async def each(*names: str) -> AsyncIterator[str]:
    for name in names:
        yield name


# ---- pages -----------------------------------------------------------------------------------------------------------


async def test_pages_show_every_document_once_and_go_on_after_a_key(memory: Database) -> None:
    await memory.things.insert_many([{"_id": number, "odd": number % 2} for number in range(10)])

    odd = [[each["_id"] for each in page] async for page in pages(memory.things, {"odd": 1}, size=2)]
    rest = [each["_id"] async for page in pages(memory.things, {"odd": 1}, size=10, after=5) for each in page]

    assert odd == [[1, 3], [5, 7], [9]]
    assert rest == [7, 9]
    assert [page async for page in pages(memory.nothing, {}, size=5)] == []


# ---- fairness --------------------------------------------------------------------------------------------------------


async def test_tenants_are_told_once_each_by_looks_into_an_index(memory: Database) -> None:
    rows = [{"tenantId": name, "n": number} for name in ("b", "a", "c") for number in range(50)]
    await memory.things.insert_many([*rows, {"tenantId": None}, {"n": 1}])
    await ensure_indexes(memory, {"things": [IndexModel([("tenantId", 1), ("n", 1)], name="tenant")]})

    assert [name async for name in tenants(memory.things)] == ["a", "b", "c"]
    assert [name async for name in tenants(memory.things, {"n": {"$lt": 0}})] == []
    plan = await memory.things.find({"tenantId": {"$gt": "a"}}, sort=[("tenantId", 1)], limit=1).explain()
    assert "COLLSCAN" not in stages(plan)


async def test_a_long_backlog_waits_for_its_turn() -> None:
    async def batches(name: str) -> AsyncIterator[list[int]]:
        for number in range({"huge": 5, "small": 1, "none": 0}[name]):
            yield [number]

    order = [(name, list(batch)) async for name, batch in in_turn(each("huge", "none", "small"), batches)]

    assert order == [("huge", [0]), ("small", [0]), ("huge", [1]), ("huge", [2]), ("huge", [3]), ("huge", [4])]


async def test_more_tenants_than_are_open_at_once_all_get_their_turn() -> None:
    async def batches(name: str) -> AsyncIterator[list[str]]:
        yield [name]
        yield [name]

    names = [f"t{number}" for number in range(AT_ONCE * 2 + 1)]
    order = [name async for name, _ in in_turn(each(*names), batches)]

    assert sorted(order) == sorted(names * 2)


# ---- guard and breaker -----------------------------------------------------------------------------------------------


def test_most_of_what_there_is_is_not_deleted_without_force() -> None:
    params = DeletingParams(max_delete_ratio=0.25)

    check(params, deleting=250, looked_at=1000, what="rows")
    check(params, deleting=FEW, looked_at=FEW, what="rows")
    with pytest.raises(TooMuch, match="251 of 1000 rows, more than maxDeleteRatio 0.25; .* force"):
        check(params, deleting=251, looked_at=1000, what="rows")
    check(DeletingParams(force=True), deleting=1000, looked_at=1000, what="rows")


def test_failures_in_a_row_open_the_circuit_and_a_success_closes_it() -> None:
    breaker = Breaker(3, "files")
    breaker.failed(OSError("a"))
    breaker.failed(OSError("b"))
    breaker.worked()
    breaker.failed(OSError("c"))
    breaker.failed(OSError("d"))

    with pytest.raises(CircuitOpen, match="3 files in a row failed, at last: e"):
        breaker.failed(OSError("e"))


# ---- the tests' own tools --------------------------------------------------------------------------------------------


async def test_a_job_dies_where_it_was_told_to(mongo_url: str, memory: Database, tmp_path: object) -> None:
    family = Family(
        ("actors.sessions",), mongo_url, memory, {"data_dir": tmp_path, "claude_projects": "examples/sessions"}
    )

    await family.die("sessions.collect", {"batchSize": 5}, after=4)
    left = await family.contents()
    result = await family.run("sessions.collect")

    assert 0 < len(left["messages"]) < 83
    assert result["inserted"] == 83 - len(left["messages"])
