"""Walking through a stretch of an index, and sampling one."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from pymongo import IndexModel

from actors.maintenance.database import Client, Collection
from actors.maintenance.ranges import BEYOND, OLDEST, PAGE, keys, sample
from tests.actors.families import connect

FIELDS = ("group", "at", "_id")
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def client(mongo_url: str) -> AsyncIterator[Client]:
    client = connect(mongo_url)
    yield client
    client.close()


@pytest.fixture
async def rows(client: Client, database: str) -> Collection:
    found = client[database].rows
    await found.create_indexes([IndexModel([(field, 1) for field in FIELDS], name="order")])
    return found


async def walk(rows: Collection, first: Any, beyond: Any, **options: Any) -> list[list[Any]]:
    found = keys(rows, "order", FIELDS, first, beyond, **{"size": 3, **options})
    return [[key["_id"] for key in page] async for page in found]


async def test_a_stretch_is_walked_through_page_by_page_whatever_its_keys_have_in_common(rows: Collection) -> None:
    await rows.insert_many([{"_id": number, "group": "a", "at": DAY} for number in range(7)])
    await rows.insert_many([{"_id": number, "group": "a", "at": DAY.replace(day=number)} for number in range(8, 10)])
    await rows.insert_many([{"_id": "b", "group": "b", "at": DAY}, {"_id": "none", "group": "a"}])
    await rows.insert_one({"_id": "text", "group": "a", "at": "2026"})

    assert await walk(rows, ["a", OLDEST], ["a", BEYOND]) == [[0, 1, 2], [3, 4, 5], [6, 8, 9]]
    assert await walk(rows, ["a", DAY, 2], ["a", DAY, 5]) == [[2, 3, 4]]
    assert await walk(rows, ["a"], ["a", OLDEST]) == [["none", "text"]]
    assert await walk(rows, ["a", OLDEST], ["a", BEYOND], query={"_id": {"$gt": 5}}) == [[6, 8, 9]]
    assert await walk(rows, ["c"], ["d"]) == []


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages_that_are_deleted_as_they_come_are_no_larger_and_leave_nothing(rows: Collection, size: int) -> None:
    await rows.insert_many([{"_id": number, "group": "a", "at": DAY} for number in range(10)])

    async for page in keys(rows, "order", FIELDS, ["a"], ["b"], size=size):
        assert len(page) <= size
        await rows.delete_many({"_id": {"$in": [key["_id"] for key in page]}})

    assert await rows.count_documents({}) == 0


async def test_a_document_with_several_keys_does_not_lead_astray(rows: Collection) -> None:
    await rows.insert_many([{"_id": number, "group": "a", "at": DAY.replace(day=number)} for number in range(1, 9)])
    await rows.insert_one({"_id": 9, "group": "a", "at": [DAY.replace(day=2, hour=5), DAY.replace(day=7, hour=5)]})

    seen = [key for page in await walk(rows, ["a"], ["b"], size=2) for key in page]

    assert set(seen) == set(range(1, 10))
    assert len(seen) <= 10


async def test_a_sample_is_of_the_whole_stretch_and_the_same_again(rows: Collection) -> None:
    await rows.insert_many([{"_id": number, "group": "a", "at": DAY} for number in range(1010)])

    async def drawn(size: int, seed: int = 0) -> list[Any]:
        found = sample(rows, "order", FIELDS, ["a"], ["b"], total=1010, size=size, random=Random(seed))
        return [key["_id"] async for page in found for key in page]

    some = await drawn(200)
    assert len(some) == len(set(some)) == 200
    assert all(some[at : at + PAGE] == [*range(some[at], some[at] + PAGE)] for at in range(0, 200, PAGE))
    assert some == await drawn(200)
    assert some != await drawn(200, seed=1)
    assert await drawn(5000) == list(range(1010))


async def test_a_sample_of_nothing_is_empty(rows: Collection) -> None:
    found = sample(rows, "order", FIELDS, ["a"], ["b"], total=0, size=100, random=Random(0))

    assert [page async for page in found] == []
