"""sessions.archive as a task: killed anywhere, run again, and compared with a run that nobody disturbed."""

import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from actors.maintenance.database import Database
from tests.actors.families import Family
from tests.actors.sessions.archived import archives, contents, put, unpacked

YEAR_END = date(2020, 12, 30)
"""In week 53."""


@pytest.fixture
def family(mongo_url: str, memory: Database, tmp_path: Path) -> Family:
    return Family(("actors.sessions",), mongo_url, memory, {"data_dir": tmp_path / "data"})


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    for number in range(5):
        day = YEAR_END + timedelta(days=3 * number)
        put(tmp_path / "root", f"session-{number}.jsonl", day)
    return {"roots": [str(tmp_path / "root")], "preset": 0}


async def test_a_task_archives_merges_and_notes_its_success(
    family: Family, body: dict[str, Any], tmp_path: Path
) -> None:
    before = contents(tmp_path / "root")

    first = await family.run("check_and_archive_all", body)
    again = await family.run("sessions.archive", body)

    assert (first["archived"], again["archived"], again["written"], again["merged"]) == (5, 0, 0, 0)
    assert archives(tmp_path / "data" / "archives") == ["yearly/2020.tar.xz", "yearly/2021.tar.xz"]
    assert unpacked(tmp_path / "data" / "archives") == before
    state = await family.memory.maintenance_state.find_one({"_id": "sessions.archive"})
    assert state is not None
    assert (state["lastError"], state["counts"]) == (None, again)


@pytest.mark.parametrize(
    ("of", "after", "below"),
    [
        ("renames", 1, None),  # written and read back, and without its name
        ("removes", 2, "session-"),  # of two files of a week, one is removed
        ("renames", 7, None),
        ("removes", 20, None),  # among the archives that were merged
    ],
)
async def test_killed_and_run_again_it_ends_as_if_nothing_had_happened(
    family: Family, body: dict[str, Any], tmp_path: Path, of: str, after: int, below: str | None
) -> None:
    root, folder = tmp_path / "root", tmp_path / "data" / "archives"
    body["minAge"], before = "0s", contents(root)
    put(root, "session-6.jsonl", YEAR_END)
    before |= contents(root)
    shutil.copytree(root, tmp_path / "copy")

    await family.die("sessions.archive", body, after=after, of=of, **({"below": below} if below else {}))

    assert unpacked(folder, merging=True) | contents(root) == before  # nothing is lost
    await family.run("sessions.archive", body)
    assert (unpacked(folder), list(root.iterdir())) == (before, [])  # and nothing is there twice
    assert not list(folder.rglob(".draft-*"))
    disturbed = {name: (folder / name).read_bytes() for name in archives(folder)}

    shutil.rmtree(root)
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(root)
    await family.run("sessions.archive", body)
    assert {name: (folder / name).read_bytes() for name in archives(folder)} == disturbed
