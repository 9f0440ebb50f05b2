"""What is being reindexed, over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.actors.api.conftest import Api, serving
from tests.conftest import DatabaseClient


def state(path: str, *, silent: float, **fields: Any) -> dict[str, Any]:
    """Of a run that was last heard of so many seconds ago."""
    now = datetime.now(UTC)
    times = {"startedAt": now - timedelta(hours=1), "heartbeatAt": now - timedelta(seconds=silent)}
    return {
        "_id": path,
        "reindexing": True,
        "progress": 0.65,
        "done": 650,
        "total": 1000,
        "taskId": "t",
        **times,
        **fields,
    }


async def test_what_is_reindexed_is_listed_with_its_progress(
    mongo_url: str, database: str, database_client: DatabaseClient
) -> None:
    memory = database_client[f"{database}_memory"]
    memory.index_state.insert_many(
        [
            state("/killed/", silent=120),
            state("/data/", silent=5),
            state("/done/", silent=120, reindexing=False, progress=1.0, finishedAt=datetime.now(UTC)),
            {"_id": "/strange/"},
        ]
    )

    async with serving(mongo_url, database, memory_database=memory.name) as api:
        found = (await api.viewer.get("/admin/index-state")).json()["states"]
        first = (await api.viewer.get("/admin/index-state", params={"limit": 1})).json()["states"]

    assert {each["path"]: each["reindexing"] for each in found} == {
        "/data/": True,
        "/killed/": False,
        "/done/": False,
        "/strange/": False,
    }
    [running] = [each for each in found if each["reindexing"]]
    assert (running["progress"], running["done"], running["total"], running["taskId"]) == (0.65, 650, 1000, "t")
    assert len(first) == 1


async def test_a_database_without_any_has_none_and_a_wrong_limit_is_refused(api: Api) -> None:
    assert (await api.viewer.get("/admin/index-state")).json() == {"states": []}
    assert (await api.viewer.get("/admin/index-state", params={"limit": 0})).status_code == 422
    assert (await api.stranger.get("/admin/index-state")).status_code == 401


@pytest.mark.parametrize("field", ["progress", "total"])
async def test_what_others_wrote_there_is_no_fault(
    mongo_url: str, database: str, database_client: DatabaseClient, field: str
) -> None:
    memory = database_client[f"{database}_memory"]
    memory.index_state.insert_one(state("/odd/", silent=5, **{field: "much"}))

    async with serving(mongo_url, database, memory_database=memory.name) as api:
        [found] = (await api.viewer.get("/admin/index-state")).json()["states"]

    assert (found["path"], found[field]) == ("/odd/", 0)
