"""``vectors.delete`` through the engine."""

from pathlib import Path

from actors.maintenance.database import Database
from actors.vectors.entries import RETRY
from schemas.task import TaskStatus
from tests.actors.families import Family
from tests.actors.vectors.store import entry, shelf

STRANGE = "it's \\' OR '1'='1"


async def test_the_groups_embeddings_are_gone_and_the_others_are_not(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    await memory.entries.insert_many([entry(0, group=STRANGE), entry(1, group=STRANGE), entry(2)])
    await family.run(RETRY)

    first = await family.run("vectors.delete", {"conversationGroupId": STRANGE})
    again = await family.run("vector_store_delete", {"conversationGroupId": STRANGE})

    assert (first, again) == ({"deleted": 2}, {"deleted": 0})
    async with shelf(tmp_path) as store:
        assert await store.find("topic0") == ["e002"]


async def test_killed_before_its_turn_to_write_the_next_run_deletes_all(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    await memory.entries.insert_many([entry(0, group="gone"), entry(1, group="gone"), entry(2)])
    await family.run(RETRY)
    body = {"conversationGroupId": "gone"}

    await family.die("vectors.delete", body, after=1, of="opens", below=str(tmp_path / "vectors"))

    assert await family.run("vectors.delete", body) == {"deleted": 2}
    async with shelf(tmp_path) as store:
        assert await store.find("topic0") == ["e002"]


async def test_a_store_that_is_down_is_tried_every_ten_minutes_without_end(family: Family, tmp_path: Path) -> None:
    (tmp_path / "vectors").write_text("in the way")

    async with family.engine() as verger:
        made = await verger.client.enqueue("vectors.delete", {"conversationGroupId": "g"})
        for attempt in range(1, 4):
            await verger.run_until_idle()
            task = await verger.client.get(made.id)
            assert (task.status, task.attempt, task.max_attempts) == (TaskStatus.PENDING, attempt, None)
            assert task.last_error and "LanceDB failed" in task.last_error.message
            await verger.advance(minutes=9)
            await verger.run_until_idle()
            assert (await verger.client.get(made.id)).attempt == attempt
            await verger.advance(minutes=1, seconds=1)
        (tmp_path / "vectors").unlink()
        await verger.run_until_idle()
        await verger.advance(minutes=11)
        await verger.run_until_idle()

        assert (await verger.client.get(made.id)).status is TaskStatus.COMPLETED
