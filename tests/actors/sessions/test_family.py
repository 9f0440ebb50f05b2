"""The family as a whole: run by a real worker, installed by the schedules that ship."""

import re
from pathlib import Path

import pytest

from actors.maintenance.database import Client
from actors.testing import sandbox
from service.registry import load
from service.schedule_file import read_file

EXAMPLES = Path(__file__).parents[3] / "examples"
DOCS = Path(__file__).parents[3] / "docs" / "actors"


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


@pytest.mark.parametrize("task_type", ["sessions.collect", "sessions.backup"])
def test_every_option_is_on_the_page(task_type: str) -> None:
    section = (DOCS / "sessions.md").read_text().split(f"## {task_type}\n")[1].split("\n## ")[0]
    model = load(["actors.sessions"]).get(task_type).body_model

    assert model is not None
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        field.alias for field in model.model_fields.values()
    ]


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
