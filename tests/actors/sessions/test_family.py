"""The family as a whole: run by a real worker, installed by the schedules that ship."""

from pathlib import Path

from actors.sessions.database import Client
from actors.testing import sandbox
from schemas.task import TaskStatus
from service.registry import load
from service.schedule_file import read_file

EXAMPLES = Path(__file__).parents[3] / "examples"


async def test_collect_and_backup_run_as_tasks(mongo_url: str, database: str, client: Client, tmp_path: Path) -> None:
    settings = {
        "database": f"{database}_engine",
        "memory_database": database,
        "data_dir": tmp_path,
        "claude_projects": EXAMPLES / "sessions",
    }
    async with sandbox(["actors.sessions"], mongodb_url=mongo_url, **settings) as verger:
        first = await verger.client.enqueue("collect_all", {})
        await verger.run_until_idle()
        again = await verger.client.enqueue("sessions.collect", {"batchSize": 10})
        backup = await verger.client.enqueue("Backup", {"preset": 0})
        await verger.run_until_idle()

        assert await verger.failed() == []
        results = [(await verger.client.get(task.id)).result for task in (first, again, backup)]
    assert (results[0]["files"], results[0]["inserted"], results[0]["malformed"]) == (5, 83, 4)
    assert (results[1]["files"], results[1]["unchanged"], results[1]["inserted"]) == (5, 5, 0)
    assert results[2]["databases"] == 2
    assert results[2]["documents"] > 83
    assert (tmp_path / "backups" / results[2]["backup"] / "manifest.json").is_file()


async def test_wrong_params_are_a_dead_letter_that_names_them(mongo_url: str, tmp_path: Path) -> None:
    async with sandbox(["actors.sessions"], mongodb_url=mongo_url, data_dir=tmp_path) as verger:
        task = await verger.client.enqueue("sessions.backup", {"keep": 5})
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.COMPLETED


def test_the_schedules_that_ship_are_for_handlers_that_exist() -> None:
    file = read_file((EXAMPLES / "schedules.json").read_bytes())
    registry = load(["actors.sessions"])

    cadences = {entry.task_type: entry.schedule for entry in file.schedules if entry.task_type.startswith("sessions.")}
    assert cadences["sessions.collect"] == "@every 30s"
    assert cadences["sessions.backup"] == "30 2 * * *"
    for entry in file.schedules:
        handler = registry.find(entry.task_type)
        if handler is not None and handler.body_model is not None:
            handler.body_model.model_validate(entry.args)
