"""``graph.tag_cleanup``: tags that nothing carries go, and none that something is about to carry."""

from typing import Any

import pytest

from actors.graph.tag_cleanup import carried
from actors.maintenance.database import Database
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.graph.moments import ago
from tests.actors.interleaving import After, cancelled_after
from tests.actors.observing import plans
from tests.conftest import DatabaseClient

JOB = "graph.tag_cleanup"
OLD = "1h"


async def tag(memory: Database, name: str, unused: str | None = None) -> None:
    seen = {} if unused is None else {"unusedSince": ago(unused)}
    await memory.tags.insert_one({"_id": name, "name": f"name of {name}", **seen})


async def tags_of(memory: Database) -> list[Any]:
    return [each["_id"] async for each in memory.tags.find({}, sort=[("_id", 1)])]


async def test_a_tag_goes_once_it_was_unused_for_the_grace_period(family: Family, memory: Database) -> None:
    for name, unused in {
        "carried": None,
        "by-name": OLD,
        "taken-up": OLD,
        "unused": OLD,
        "fresh": None,
        "recent": "5m",
        "ahead": "-2h",
    }.items():
        await tag(memory, name, unused)
    await memory.tags.insert_one({"_id": "nameless"})
    await memory.graph_nodes.insert_many(
        [{"_id": 1, "tags": ["carried", "taken-up"]}, {"_id": 2, "tags": ["name of by-name", "unknown"]}, {"_id": 3}]
    )

    dry = await family.run(JOB, {"dryRun": True})
    assert (dry["deleted"], len(await tags_of(memory))) == (1, 8)
    assert await memory.tags.count_documents({"unusedSince": {"$exists": True}}) == 5

    result = await family.run("TagCleanupTask", {"batchSize": 3})
    assert result == {"scanned": 8, "carried": 3, "condemned": 3, "pardoned": 2, "deleted": 1}
    assert await tags_of(memory) == ["ahead", "by-name", "carried", "fresh", "nameless", "recent", "taken-up"]

    before = await family.contents()
    again = await family.run(JOB)
    assert (again["condemned"], again["pardoned"], again["deleted"]) == (0, 0, 0)
    assert await family.contents() == before

    async with family.engine() as verger:
        await verger.advance(hours=1)
        await verger.client.enqueue(JOB)
        await verger.run_until_idle()
    assert await tags_of(memory) == ["by-name", "carried", "taken-up"]


@pytest.mark.parametrize("moment", ["before the last look", "after the last look"])
async def test_a_tag_that_is_attached_meanwhile_is_not_lost(
    family: Family, memory: Database, database_client: DatabaseClient, moment: str
) -> None:
    await tag(memory, "wanted", OLD)
    await tag(memory, "other", OLD)
    own = database_client[memory.name]

    def attach() -> None:
        # As the contract says.
        if not own.tags.update_one({"_id": "wanted"}, {"$unset": {"unusedSince": ""}}).matched_count:
            own.tags.insert_one({"_id": "wanted", "name": "anew"})
        own.graph_nodes.insert_one({"_id": "node", "tags": ["wanted"]})

    # Its looks at the carriers are asked of the tags: while it marks, and right before it deletes.
    with After(memory.name, "aggregate", "tags", attach, nth=1 if moment.startswith("before") else 2) as attached:
        result = await family.run(JOB)

    assert attached.happened
    assert (await tags_of(memory), result["deleted"]) == (["wanted"], 1)
    assert (await family.run(JOB))["carried"] == 1


async def test_other_collections_may_carry_tags_too(family: Family, memory: Database) -> None:
    await tag(memory, "of-a-document", OLD)
    await memory.documents.insert_one({"tags": ["of-a-document"]})

    assert (await family.run(JOB, {"carriers": ["graph_nodes", "documents"], "dryRun": True}))["deleted"] == 0
    assert (await family.run(JOB, {"dryRun": True}))["deleted"] == 1


async def test_most_tags_do_not_go_at_once(family: Family, memory: Database) -> None:
    for number in range(30):
        await tag(memory, f"t{number}", OLD)

    refused = await family.task(JOB)

    assert (refused.status, len(await tags_of(memory))) == (TaskStatus.FAILED, 30)
    assert refused.last_error is not None
    assert "refused to delete 30 of 30 tags" in refused.last_error.message
    assert (await family.run(JOB, {"force": True}))["deleted"] == 30


async def test_cut_short_it_comes_to_the_same_end(family: Family, memory: Database) -> None:
    for number in range(20):
        await tag(memory, f"t{number:02}", OLD)
    body = {"batchSize": 4, "force": True}

    await family.die(JOB, body, after=2)
    left = len(await tags_of(memory))
    stopped = await cancelled_after(family, JOB, body, "delete", "tags", nth=1)
    less = len(await tags_of(memory))
    await family.run(JOB, body)

    assert 0 < left < 20
    assert (stopped.status, less) == (TaskStatus.CANCELLED, left - 4)
    assert await tags_of(memory) == []


async def test_it_asks_indexes_and_runs_on_nothing(family: Family, memory: Database) -> None:
    assert set((await family.run(JOB)).values()) == {0}

    await memory.tags.insert_many([{"_id": f"t{number}", "unusedSince": ago(OLD)} for number in range(50)])
    await memory.graph_nodes.insert_many([{"tags": ["t1", "t2"]} for _ in range(50)])
    seen = await plans(family, JOB, {"force": True, "batchSize": 20})
    assert "tags" in {collection for collection, _ in seen}
    assert [each for each in seen if "COLLSCAN" in each[1]] == []

    command = {"aggregate": "tags", "pipeline": carried(["t1", "t2"], ["graph_nodes"]), "cursor": {}}
    plan = await memory.command("explain", command, verbosity="executionStats")
    looks = [stage for stage in plan["stages"] if "$lookup" in stage]
    assert len(looks) == 2
    assert [look["collectionScans"] for look in looks] == [0, 0]
    assert sum(look["totalDocsExamined"] for look in looks) == 0, "one key of the index is enough"
