"""``sessions.compact`` through the engine."""

from pathlib import Path

import pytest

from actors.maintenance.database import Database
from actors.maintenance.vector_store.lance import LanceStore
from actors.maintenance.vector_store.port import Vector
from schemas.task import TaskStatus
from tests.actors.families import Family


@pytest.fixture
def family(mongo_url: str, memory: Database, tmp_path: Path) -> Family:
    return Family(("actors.sessions",), mongo_url, memory, {"data_dir": tmp_path})


async def fill(store: LanceStore, table: str) -> None:
    for number in range(4):
        await store.put(table, [Vector(f"{number}", f"o{number}", "g", "m", "h", "text", [1.0, float(number)])])


async def test_all_tables_are_compacted_and_searches_find_what_they_found(family: Family, tmp_path: Path) -> None:
    store = LanceStore(tmp_path / "vectors")
    await fill(store, "messages")
    await fill(store, "entries")
    before = await store.search("messages", [1.0, 2.0])

    result = await family.run("compact")
    again = await family.run("sessions.compact", {"tables": ["messages"]})

    assert (result["tables"], result["fragments_before"], result["fragments_after"]) == (2, 8, 2)
    assert result["bytes_before"] > 0 < result["bytes_after"]
    assert (again["tables"], again["fragments_before"], again["fragments_after"]) == (1, 1, 1)
    assert await store.search("messages", [1.0, 2.0]) == before
    await store.close()


async def test_a_damaged_table_does_not_keep_the_others_from_being_compacted(family: Family, tmp_path: Path) -> None:
    store = LanceStore(tmp_path / "vectors")
    await fill(store, "broken")
    await fill(store, "messages")
    for manifest in tmp_path.glob("vectors/broken*.lance/_versions/*.manifest"):
        manifest.write_bytes(b"nonsense")

    task = await family.task("sessions.compact")

    assert task.status is TaskStatus.FAILED and task.last_error
    assert task.last_error.message == "could not be compacted: broken; the others were"
    assert (await family.run("sessions.compact", {"tables": ["messages"]}))["fragments_before"] == 1
    await store.close()


async def test_no_table_at_all_is_in_order(family: Family) -> None:
    assert set((await family.run("sessions.compact")).values()) == {0}


async def test_killed_between_two_tables_the_next_run_compacts_the_rest_and_nothing_is_lost(
    family: Family, tmp_path: Path
) -> None:
    store = LanceStore(tmp_path / "vectors")
    await fill(store, "messages")
    await fill(store, "entries")
    before = {table: await store.search(table, [1.0, 2.0]) for table in ("messages", "entries")}

    await family.die("sessions.compact", after=2, of="opens", below=str(tmp_path / "vectors"))
    result = await family.run("sessions.compact")

    assert (result["tables"], result["fragments_before"], result["fragments_after"]) == (2, 5, 2)
    assert {table: await store.search(table, [1.0, 2.0]) for table in before} == before
    await store.close()
