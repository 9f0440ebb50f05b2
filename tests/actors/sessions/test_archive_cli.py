"""verger archive: what a person and a program see, and the exit codes."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors.cli.app import app
from actors.sessions import archive_sessions
from actors.sessions.archive.job import ArchiveParams
from tests.actors.sessions.archived import MONDAY, put
from tests.actors.sessions.double import Double

Verger = Callable[..., Awaitable[Result]]


@pytest.fixture
async def verger(context: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verger:
    """With archives of a week and of a day."""
    monkeypatch.setenv("VERGER_DATA_DIR", str(context.settings.data_dir))
    monkeypatch.setenv("COLUMNS", "200")
    for name, day in (("a", 0), ("[red]b", 1), (os.fsdecode(b"c\xff"), 7)):
        put(tmp_path / "root", name, MONDAY + timedelta(days=day))
    context.time = datetime(MONDAY.year, MONDAY.month, MONDAY.day, tzinfo=UTC) + timedelta(days=15)
    await archive_sessions(ArchiveParams(roots=(tmp_path / "root",), preset=0), context.as_context())

    async def verger(*arguments: object) -> Result:
        # In a thread: the command starts a loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, app, ["archive", *map(str, arguments)])

    return verger


async def test_list_shows_the_archives_and_what_is_in_one(verger: Verger, tmp_path: Path) -> None:
    table, answer = await verger("list"), await verger("list", "--json")
    inside, files = await verger("list", "2026-W06"), await verger("list", "daily/2026-02-09", "--json")

    assert [each.exit_code for each in (table, answer, inside, files)] == [0, 0, 0, 0], files.output
    assert "weekly/2026-W06   2026-02-02  2026-02-08" in table.stdout
    assert [each["archive"] for each in json.loads(answer.stdout)["archives"]] == [
        "daily/2026-02-09",
        "weekly/2026-W06",
    ]
    assert f"2026-02-03{tmp_path}/root/[red]b" in inside.stdout
    [described] = json.loads(files.stdout)["files"]
    assert described["file"] == f"2026-02-09{tmp_path}/root/c\\xff"
    assert "There are no archives" in (await verger("list", "--folder", tmp_path / "root")).stdout


async def test_verify_exits_1_when_an_archive_is_damaged(verger: Verger, context: Double) -> None:
    sound = await verger("verify")
    path = context.settings.data_dir / "archives/weekly/2026-W06.tar.xz"
    path.write_bytes(path.read_bytes()[:-9])
    damaged, one, other = (
        await verger("verify", "--json"),
        await verger("verify", "2026-W06"),
        await verger("verify", "2026-02-09"),
    )

    assert (sound.exit_code, damaged.exit_code, one.exit_code, other.exit_code) == (0, 1, 1, 0)
    assert "weekly/2026-W06: as it was written, 2 files" in sound.stdout
    assert [each["ok"] for each in json.loads(damaged.stdout)["archives"]] == [True, False]
    assert "ends too early" in one.stdout


async def test_extract_brings_files_back_into_a_new_folder(verger: Verger, tmp_path: Path) -> None:
    into = tmp_path / "into"

    said = await verger("extract", "2026-W06", "--into", into, "--match", "*/a")
    taken = await verger("extract", "2026-W06", "--into", into)
    every = await verger("extract", "2026-W06", "--into", tmp_path / "all", "--json")

    assert (said.exit_code, taken.exit_code, every.exit_code) == (0, 1, 0), said.output
    assert [path.name for path in into.rglob("*") if path.is_file()] == ["a"]
    assert "Unpacked 1 file into" in said.stdout
    assert "there is something at" in taken.stderr
    assert json.loads(every.stdout)["files"] == 2


@pytest.mark.parametrize("arguments", [["list", "2026-W99"], ["verify", "../x"], ["extract", "x", "--into", "y"]])
async def test_what_is_not_there_exits_1_and_says_what_is(verger: Verger, arguments: list[str]) -> None:
    said = await verger(*arguments)

    assert said.exit_code == 1
    assert "there is 2026-02-09, 2026-W06" in said.stderr


async def test_a_folder_that_cannot_be_written_exits_1(verger: Verger, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    said = await verger("extract", "2026-W06", "--into", tmp_path / "file" / "below")

    assert said.exit_code == 1
    assert "file: " in said.stderr
