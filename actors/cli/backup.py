"""``verger backup``: look at backups, read them back, restore them.

Exit codes: 0 all is well; 1 a backup is damaged or could not be restored; 2 what was asked for does not fit (no such
backup, a database that is not empty, options that contradict each other).
"""

import asyncio
import json
from collections.abc import Awaitable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from actors.sessions.backup.job import shelf_folder
from actors.sessions.backup.manifest import Backup, BackupDamaged
from actors.sessions.backup.restore import RestoreFailed, restore_database
from actors.sessions.backup.restore_files import restore_files
from actors.sessions.backup.shelf import LATEST, Shelf
from actors.sessions.backup.space import shown
from actors.sessions.backup.verify import Problem, verify as verify_backup
from actors.sessions.blocking import Advance
from actors.sessions.database import connect
from service.errors import ConfigError, Conflict, NotFound, VergerError
from service.settings import load_settings

DAMAGED = 1
USAGE = 2
T = TypeVar("T")

app = typer.Typer(help="Look at backups, read them back, restore them.", no_args_is_help=True)
# Names of collections and files are a stranger's: nothing in them is markup.
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}
errors = Console(stderr=True, **PLAIN)

Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where the backups are; default: `backups` in VERGER_DATA_DIR.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: one JSON value on stdout.")]
Which = Annotated[str, typer.Argument(help="Its id, or `latest`.")]


@app.command("list")
def list_backups(folder: Folder = None, as_json: AsJson = False) -> None:
    """List the backups, newest first."""
    backups, damaged = _run(_shelf(folder).backups())
    if as_json:
        _print_json({"backups": [_described(backup) for backup in backups], "damaged": damaged})
    else:
        _print_table(backups, damaged)
    if damaged:
        raise typer.Exit(DAMAGED)


@app.command()
def verify(
    backup: Which = LATEST,
    every: Annotated[bool, typer.Option("--all", help="Every backup there is.")] = False,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Read a backup back: every file is hashed, unpacked, hashed again and counted."""
    reports = _run(_verify(_shelf(folder), None if every else backup, as_json))
    if as_json:
        _print_json({"backups": reports})
    if not all(report["ok"] for report in reports):
        raise typer.Exit(DAMAGED)


@app.command()
def restore(
    backup: Which,
    into: Annotated[str, typer.Option("--into", help="The database, file or folder to make.")],
    database: Annotated[str | None, typer.Option("--database", help="A database of the backup.")] = None,
    sqlite: Annotated[str | None, typer.Option("--sqlite", help="A SQLite file of the backup, by its path.")] = None,
    directory: Annotated[str | None, typer.Option("--directory", help="A folder of the backup, by its path.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a database or a SQLite file that exists.")] = False,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Restore a database, a SQLite file or a folder, under a name that you give."""
    if sum(each is not None for each in (database, sqlite, directory)) != 1:
        _fail("name one of --database, --sqlite and --directory", USAGE)
    shelf = _shelf(folder)
    if database is not None:
        restored = _run(_restore_database(shelf, backup, database, into, force, as_json))
    elif sqlite is not None:
        restored = _run(_restore_files(shelf, backup, "sqlite", sqlite, Path(into).absolute(), force, as_json))
    else:
        restored = _run(
            _restore_files(shelf, backup, "directory", directory or "", Path(into).absolute(), force, as_json)
        )
    if as_json:
        _print_json(restored)
    else:
        said = ", ".join(
            f"{value} {key}" for key, value in restored.items() if isinstance(value, int) and key != "bytes"
        )
        Console(**PLAIN).print(f"restored into {into}: {said}, {shown(restored['bytes'])}")


async def _verify(shelf: Shelf, name: str | None, quiet: bool) -> list[dict[str, Any]]:
    names = sorted(await shelf.names(), reverse=True) if name is None else [name]
    return [await _verify_one(shelf, each, quiet) for each in names]


async def _verify_one(shelf: Shelf, name: str, quiet: bool) -> dict[str, Any]:
    files = 0
    try:
        backup = await shelf.get(name)
        name, files = backup.manifest.id, len(backup.manifest.members)
        with _Bar(f"verify {name}", backup.manifest.bytes, quiet) as bar:
            problems = await verify_backup(backup, bar.advance)
    except BackupDamaged as error:
        problems = [Problem("manifest.json", str(error))]
    if not quiet:
        console = Console(**PLAIN)
        for problem in problems:
            console.print(f"{name}  {problem.file}: {problem.problem}", style="red")
        if not problems:
            console.print(f"{name}  {files} files are as they were written", style="green")
    return {"backup": name, "ok": not problems, "files": files, "problems": [asdict(each) for each in problems]}


async def _restore_database(
    shelf: Shelf, name: str, database: str, into: str, force: bool, quiet: bool
) -> dict[str, Any]:
    backup = await shelf.get(name)
    held = next((each for each in backup.manifest.databases if each.name == database), None)
    files = {entry.data for entry in held.collections} if held else set()
    total = 2 * sum(member.bytes for member in backup.manifest.members if member.file in files)
    with closing(connect(load_settings())) as client, _Bar(f"restore {database}", total, quiet) as bar:
        return asdict(await restore_database(backup, database, client, into, force=force, advance=bar.advance))


async def _restore_files(
    shelf: Shelf, name: str, kind: Any, source: str, into: Path, force: bool, quiet: bool
) -> dict[str, Any]:
    backup = await shelf.get(name)
    total = 2 * sum(member.bytes for member in backup.manifest.members if member.source == source)
    with _Bar(f"restore {source}", total, quiet) as bar:
        return asdict(await restore_files(backup, kind, source, into, force=force, advance=bar.advance))


def _shelf(folder: Path | None) -> Shelf:
    try:
        return Shelf(shelf_folder(load_settings(), folder))
    except ConfigError as error:
        _fail(str(error), USAGE)


def _run(work: Awaitable[T]) -> T:
    async def run() -> T:
        return await work

    try:
        return asyncio.run(run())
    except (NotFound, Conflict, ConfigError) as error:
        _fail(str(error), USAGE)
    except (BackupDamaged, RestoreFailed, VergerError, OSError) as error:
        _fail(str(error), DAMAGED)


def _fail(problem: str, code: int) -> NoReturn:
    errors.print(problem, style="red")
    raise typer.Exit(code)


class _Bar:
    """A progress bar on a terminal; nothing elsewhere."""

    def __init__(self, what: str, total: int, quiet: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def advance(self) -> Advance:
        async def advance(size: int) -> None:
            self._progress.advance(self._task, size)

        return advance


def _described(backup: Backup) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "backup": manifest.id,
        "folder": str(backup.folder),
        "createdAt": manifest.created_at.isoformat(),
        "verifiedAt": manifest.verified_at.isoformat(),
        "targets": manifest.targets.model_dump(mode="json", by_alias=True),
        "snapshots": {database.name: database.snapshot.mode for database in manifest.databases},
        "failures": [failure.model_dump(mode="json", by_alias=True) for failure in manifest.failures],
        "documents": manifest.documents,
        "files": len(manifest.members),
        "linked": sum(member.linked_from is not None for member in manifest.members),
        "bytes": manifest.bytes,
        "fileBytes": manifest.file_bytes,
    }


def _print_table(backups: list[Backup], damaged: list[str]) -> None:
    console = Console(**PLAIN)
    table = Table(box=None, pad_edge=False)
    table.add_column("BACKUP", no_wrap=True)
    table.add_column("HOLDS", overflow="fold")
    table.add_column("DOCUMENTS", justify="right", no_wrap=True)
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("PACKED", justify="right", no_wrap=True)
    for backup in backups:
        manifest = backup.manifest
        holds = [f"{each.name} ({each.snapshot.mode})" for each in manifest.databases]
        holds += [*manifest.targets.sqlite, *manifest.targets.directories]
        holds += [f"NOT {failure.target}" for failure in manifest.failures]
        table.add_row(
            manifest.id, ", ".join(holds), f"{manifest.documents:,}", shown(manifest.bytes), shown(manifest.file_bytes)
        )
    if backups:
        console.print(table)
    elif not damaged:
        console.print("there are no backups")
    for problem in damaged:
        console.print(f"DAMAGED {problem}", style="red")


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
