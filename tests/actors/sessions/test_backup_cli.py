"""verger backup: what a person and a program see, and the exit codes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors.cli.app import app
from actors.maintenance.database import OPTIONS, Client, Database
from actors.sessions import back_up
from actors.sessions.backup.job import BackupParams
from tests.actors.sessions.double import Double
from tests.actors.sessions.zoo import look

Verger = Callable[..., Awaitable[Result]]


@pytest.fixture
def verger(context: Double, mongo_url: str, monkeypatch: pytest.MonkeyPatch) -> Verger:
    monkeypatch.setenv("VERGER_MONGODB_URL", mongo_url)
    monkeypatch.setenv("VERGER_DATA_DIR", str(context.settings.data_dir))
    monkeypatch.setenv("COLUMNS", "200")

    async def verger(*arguments: object) -> Result:
        # In a thread: the command starts a loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, app, ["backup", *map(str, arguments)])

    return verger


@pytest.fixture
async def backup(context: Double, memory: Database, tmp_path: Path) -> str:
    """The id of a backup of a database and a folder."""
    await memory["[red]notes[/red]"].insert_many([{"n": n} for n in range(50)])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("content")
    params = BackupParams(databases=(memory.name,), directories=(tmp_path / "folder",), preset=0)
    return str((await back_up(params, context.as_context()))["backup"])


def harm(context: Double) -> None:
    path = next((context.settings.data_dir / "backups").rglob("*notes*.bson.xz"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")


async def test_list_is_a_table_for_people_and_json_for_programs(verger: Verger, backup: str, memory: Database) -> None:
    table, answer = await verger("list"), await verger("list", "--json")

    assert (table.exit_code, answer.exit_code) == (0, 0)
    assert backup in table.stdout
    assert f"{memory.name} (snapshot)" in table.stdout
    [described] = json.loads(answer.stdout)["backups"]
    assert (described["backup"], described["documents"], described["files"]) == (backup, 50, 3)
    assert described["snapshots"] == {memory.name: "snapshot"}


async def test_without_backups_list_says_so(verger: Verger) -> None:
    assert "There are no backups" in (await verger("list")).stdout
    assert json.loads((await verger("list", "--json")).stdout) == {"backups": [], "damaged": []}


async def test_verify_exits_1_when_a_file_is_damaged(verger: Verger, backup: str, context: Double) -> None:
    sound, every = await verger("verify"), await verger("verify", backup, "--json")
    harm(context)
    damaged, listed = await verger("verify", backup), await verger("verify", "--all", "--json")

    assert (sound.exit_code, every.exit_code, damaged.exit_code, listed.exit_code) == (0, 0, 1, 1)
    assert "3 files are as they were written" in sound.stdout
    assert json.loads(every.stdout)["backups"] == [{"backup": backup, "ok": True, "files": 3, "problems": []}]
    assert "%5Bred%5Dnotes%5B%2Fred%5D.bson.xz" in damaged.stdout
    [report] = json.loads(listed.stdout)["backups"]
    assert not report["ok"]
    assert "SHA-256 differs" in report["problems"][0]["problem"] or "decompressed" in report["problems"][0]["problem"]


async def test_a_damaged_manifest_is_told_by_list_and_verify(verger: Verger, backup: str, context: Double) -> None:
    (context.settings.data_dir / "backups" / backup / "manifest.json").write_text("{}")

    listed, verified = await verger("list"), await verger("verify", "--all", "--json")

    assert (listed.exit_code, verified.exit_code) == (1, 1)
    assert f"damaged {backup}" in listed.stdout
    assert json.loads(verified.stdout)["backups"][0]["problems"][0]["file"] == "manifest.json"


async def test_restore_brings_a_database_back_under_another_name(
    verger: Verger, backup: str, memory: Database, client: Client
) -> None:
    into = f"{memory.name}_restored"

    said = await verger("restore", backup, "--database", memory.name, "--into", into)
    refused = await verger("restore", "latest", "--database", memory.name, "--into", into)
    forced = await verger("restore", "latest", "--database", memory.name, "--into", into, "--force", "--json")

    assert (said.exit_code, refused.exit_code, forced.exit_code) == (0, 1, 0), said.output
    assert "50 documents" in said.stdout
    assert "--force" in refused.stderr
    assert json.loads(forced.stdout) == {
        "database": into, "collections": 1, "documents": 50, "indexes": 1, "bytes": 50 * 29,
    }  # fmt: skip
    assert await look(client, into) == await look(client, memory.name)


async def test_restore_brings_a_folder_back(verger: Verger, backup: str, tmp_path: Path) -> None:
    said = await verger("restore", backup, "--directory", tmp_path / "folder", "--into", tmp_path / "again")

    assert said.exit_code == 0, said.output
    assert (tmp_path / "again" / "file").read_text() == "content"


async def test_restore_of_a_damaged_backup_exits_1(
    verger: Verger, backup: str, memory: Database, context: Double
) -> None:
    harm(context)

    said = await verger("restore", backup, "--database", memory.name, "--into", f"{memory.name}_restored")

    assert said.exit_code == 1
    assert "nothing was restored" in said.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "nothing"],
        ["verify", "../escape"],
        ["restore", "nothing", "--database", "a", "--into", "b"],
        ["restore", "latest", "--database", "not there", "--into", "c"],
        ["restore", "latest", "--database", "not there", "--into", "admin", "--force"],
        ["restore", "latest", "--directory", "/not/there", "--into", "c"],
    ],
)
async def test_what_is_not_there_exits_1_and_says_what_is(verger: Verger, backup: str, arguments: list[str]) -> None:
    said = await verger(*arguments)

    assert said.exit_code == 1
    assert said.stderr.startswith("verger: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["restore", "latest", "--into", "b"],
        ["restore", "latest", "--database", "a", "--sqlite", "b", "--into", "c"],
        ["restore", "latest", "--database", "a"],
        ["restore"],
        ["nonsense"],
    ],
)
async def test_wrong_usage_exits_2(verger: Verger, backup: str, arguments: list[str]) -> None:
    said = await verger(*arguments)

    assert said.exit_code == 2
    assert said.stderr


async def test_a_folder_that_cannot_be_written_exits_1(verger: Verger, backup: str, tmp_path: Path) -> None:
    into = tmp_path / "folder" / "file" / "below a file"
    said = await verger("restore", backup, "--directory", tmp_path / "folder", "--into", into)

    assert said.exit_code == 1
    assert "file: File exists" in said.stderr


async def test_a_wrong_setting_exits_4_and_names_it(verger: Verger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERGER_MONGODB_URL", "nonsense")

    said = await verger("list")

    assert said.exit_code == 4
    assert "VERGER_MONGODB_URL" in said.stderr


async def test_restore_into_a_server_that_is_away_exits_3(
    verger: Verger, backup: str, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERGER_MONGODB_URL", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50")
    monkeypatch.setitem(OPTIONS, "serverSelectionTimeoutMS", 50)

    said = await verger("restore", backup, "--database", memory.name, "--into", "other")

    assert said.exit_code == 3
    assert "nothing was changed" in said.stderr


async def test_without_an_embedded_server_restore_says_how_to_start_one(
    verger: Verger, backup: str, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERGER_MONGODB_URL", "embedded")

    said = await verger("restore", backup, "--database", memory.name, "--into", "other")

    assert said.exit_code == 4
    assert "verger dev" in said.stderr
    assert json.loads((await verger("list", "--json")).stdout)["backups"]
