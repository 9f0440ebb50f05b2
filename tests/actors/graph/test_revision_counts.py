"""``graph.revision_counts``: the cached number of revisions is the real one."""

from typing import Any

from actors.graph.revision_counts import by_node, recent
from actors.maintenance.database import Database
from schemas.task import TaskStatus
from tests.actors.families import Family, stages
from tests.actors.graph.moments import ago
from tests.actors.interleaving import After, cancelled_after
from tests.actors.observing import plans
from tests.conftest import DatabaseClient

JOB = "graph.revision_counts"


async def revise(memory: Database, node: str, *spans: str) -> None:
    await memory.node_revisions.insert_many([{"nodeId": node, "at": ago(span)} for span in spans])


async def counts_of(memory: Database) -> dict[str, Any]:
    return {node["_id"]: node.get("revisionCount") async for node in memory.graph_nodes.find()}


async def test_counts_are_exact_and_only_nodes_with_new_revisions_are_counted(family: Family, memory: Database) -> None:
    await memory.graph_nodes.insert_many([{"_id": "a", "revisionCount": 7}, {"_id": "b"}, {"_id": "c"}, {"_id": "d"}])
    await revise(memory, "a", "3h", "2h", "1h")
    await revise(memory, "b", "2h")
    await revise(memory, "deleted", "2h")
    await revise(memory, "d", "5s")

    first = await family.run("RevisionCountRefreshTask", {"batchSize": 2, "behind": "20m"})
    assert (first["scanned"], first["updated"], first["gone"]) == (3, 2, 1)
    assert await counts_of(memory) == {"a": 3, "b": 1, "c": None, "d": None}, "the newest are left for later"

    again = await family.run(JOB, {"behind": "20m"})
    assert (again["updated"], await counts_of(memory)) == (0, {"a": 3, "b": 1, "c": None, "d": None})

    await revise(memory, "b", "25m")
    early = await family.run(JOB, {"behind": "20m", "overlap": "0s"})
    assert early["scanned"] == 0, "it was committed late, behind the cursor"
    late = await family.run(JOB, {"behind": "20m", "overlap": "30m"})
    assert (late["scanned"], late["updated"]) == (1, 1)

    await memory.node_revisions.delete_one({"nodeId": "a"})
    last = await family.run(JOB, {"behind": "0s"})
    assert (last["scanned"], await counts_of(memory)) == (2, {"a": 3, "b": 2, "c": None, "d": 1})


async def test_a_cursor_ahead_of_now_counts_for_nothing(family: Family, memory: Database) -> None:
    await memory.graph_nodes.insert_one({"_id": "a"})
    await revise(memory, "a", "3h")
    await memory.maintenance_state.insert_one({"_id": JOB, "cursor": ago("-1d"), "left": None})

    result = await family.run(JOB)

    assert (result["updated"], await counts_of(memory)) == (1, {"a": 1})
    kept = await memory.maintenance_state.find_one({})
    assert kept is not None
    assert kept["cursor"] < ago("20s")


async def test_of_two_counts_at_once_the_older_does_not_win(
    family: Family, memory: Database, database_client: DatabaseClient
) -> None:
    await memory.graph_nodes.insert_one({"_id": "a", "revisionCount": 1})
    await revise(memory, "a", "3h", "2h")
    nodes = database_client[memory.name].graph_nodes

    # Between its count and its write another run counts 5.
    def another_run() -> None:
        nodes.update_one({"_id": "a"}, {"$set": {"revisionCount": 5}})

    with After(memory.name, "aggregate", "node_revisions", another_run, nth=2) as other:
        result = await family.run(JOB)

    assert other.happened
    assert (result["raced"], await counts_of(memory)) == (1, {"a": 5})


async def test_a_node_that_the_database_refuses_to_change_does_not_hold_up_the_others(
    family: Family, memory: Database
) -> None:
    await memory.create_collection("graph_nodes", validator={"revisionCount": {"$ne": 2}})
    await memory.graph_nodes.insert_many([{"_id": "a"}, {"_id": "b"}])
    await revise(memory, "a", "3h", "2h")
    await revise(memory, "b", "3h")

    result = await family.run(JOB)

    assert (result["failed"], result["updated"], await counts_of(memory)) == (1, 1, {"a": None, "b": 1})


async def test_cut_short_it_goes_on_and_comes_to_the_same_end(family: Family, memory: Database) -> None:
    for number in range(30):
        await memory.graph_nodes.insert_one({"_id": f"n{number:02}"})
        await revise(memory, f"n{number:02}", "1h", "2h")
    body = {"batchSize": 5}

    await family.die(JOB, body, after=8)
    part = await counts_of(memory)
    assert {None, 2} == set(part.values())

    stopped = await cancelled_after(family, JOB, body, "update", "graph_nodes", nth=1)
    more = list((await counts_of(memory)).values()).count(2)
    result = await family.run(JOB, body)

    assert (stopped.status, more) == (TaskStatus.CANCELLED, list(part.values()).count(2) + 5)
    assert result["updated"] == 30 - more
    assert set((await counts_of(memory)).values()) == {2}


async def test_it_asks_indexes_and_runs_on_nothing(family: Family, memory: Database) -> None:
    assert set((await family.run(JOB)).values()) == {0}

    for number in range(5):
        await memory.graph_nodes.insert_one({"_id": f"n{number}"})
        await revise(memory, f"n{number}", "1h")
    seen = await plans(family, JOB, {"batchSize": 2, "overlap": "3h"})
    assert {collection for collection, _ in seen} >= {"graph_nodes", "node_revisions"}
    assert [each for each in seen if "COLLSCAN" in each[1]] == []

    since, until = ago("1h"), ago("0s")
    for pipeline, hint, refused in (
        (recent(since, until), "recent", {"COLLSCAN", "FETCH"}),
        (recent(since, until, "a"), "recent", {"COLLSCAN"}),
        (by_node(["a"]), "node", {"COLLSCAN", "FETCH"}),
    ):
        command = {"aggregate": "node_revisions", "pipeline": pipeline, "hint": hint, "cursor": {}}
        plan = await memory.command("explain", command)
        assert "IXSCAN" in stages(plan)
        assert not refused & stages(plan)
