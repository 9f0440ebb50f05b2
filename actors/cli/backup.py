"""``verger backup``: look at backups, read them back, restore them."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.cli.failure import REFUSED
from actors.cli.files import Bar, run_on_files
from actors.cli.options import Json
from actors.cli.output import print_json, say, styled, table
from actors.cli.session import client_settings
from actors.maintenance.database import connect
from actors.maintenance.disk import shown
from actors.sessions.backup.job import shelf_folder
from actors.sessions.backup.manifest import Backup, BackupDamaged, Kind, Member
from actors.sessions.backup.restore import restore_database
from actors.sessions.backup.restore_files import restore_files
from actors.sessions.backup.shelf import LATEST, Shelf
from actors.sessions.backup.verify import Problem, verify as verify_backup
from service.settings import Settings

PASSES = 2
"""A restore reads everything before it writes anything."""

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")

Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where the backups are; default: `backups` in VERGER_DATA_DIR.")
]
Which = Annotated[str, typer.Argument(metavar="BACKUP", help="Its id, or `latest`.")]


@app.callback()
def backup() -> None:
    """Look at backups, read them back, restore them. `sessions.backup` makes them (docs/actors/sessions.md)."""


@app.command("list")
def list_backups(folder: Folder = None, json: Json = False) -> None:
    """List the backups, newest first. Exit code 1: one of them is damaged."""
    backups, damaged = run_on_files(_shelf(folder)[0].backups())
    if json:
        print_json({"backups": [_described(each) for each in backups], "damaged": damaged})
    elif backups:
        table(("BACKUP", "HOLDS", "DOCUMENTS", "SIZE", "PACKED"), map(_row, backups), fold=1)
    elif not damaged:
        say("There are no backups.")
    if not json:
        for problem in damaged:
            styled("damaged", "failed", problem)
    if damaged:
        raise typer.Exit(REFUSED)


@app.command()
def verify(
    backup: Which = LATEST,
    every: Annotated[bool, typer.Option("--all", help="Every backup there is.")] = False,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Read a backup back: every file is hashed, unpacked, hashed again and counted. Exit code 1: it is damaged."""
    reports = run_on_files(_verify(_shelf(folder)[0], None if every else backup, json))
    if json:
        print_json({"backups": reports})
    if not all(report["ok"] for report in reports):
        raise typer.Exit(REFUSED)


@app.command()
def restore(
    backup: Which,
    into: Annotated[str, typer.Option("--into", help="The database, file or folder to make.")],
    database: Annotated[str | None, typer.Option("--database", help="A database of the backup.")] = None,
    sqlite: Annotated[str | None, typer.Option("--sqlite", help="A SQLite file of the backup, by its path.")] = None,
    directory: Annotated[str | None, typer.Option("--directory", help="A folder of the backup, by its path.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a database or a SQLite file that exists.")] = False,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Restore a database, a SQLite file or a folder, under a name that you give.

    Nothing is written, or dropped, before all of it was read back. A database that is not empty is replaced only with
    --force: stop the workers first if they use it.
    """
    if sum(each is not None for each in (database, sqlite, directory)) != 1:
        raise typer.BadParameter("name one of --database, --sqlite and --directory")
    shelf, settings = _shelf(folder)
    if database is not None:
        restored = run_on_files(_restore_database(shelf, backup, database, into, force, settings))
    else:
        kind: Kind = "sqlite" if sqlite is not None else "directory"
        restored = run_on_files(
            _restore_files(shelf, backup, kind, sqlite or directory or "", Path(into).absolute(), force)
        )
    if json:
        print_json(restored)
    else:
        counts = (f"{value} {key}" for key, value in restored.items() if isinstance(value, int) and key != "bytes")
        say(f"Restored into {into}: {', '.join(counts)}, {shown(restored['bytes'])}.")


async def _verify(shelf: Shelf, name: str | None, quiet: bool) -> list[dict[str, Any]]:
    names = sorted(await shelf.names(), reverse=True) if name is None else [name]
    return [await _verify_one(shelf, each, quiet) for each in names]


async def _verify_one(shelf: Shelf, name: str, quiet: bool) -> dict[str, Any]:
    files = 0
    try:
        found = await shelf.get(name)
        name, files = found.manifest.id, len(found.manifest.members)
        with Bar(f"verify {name}", found.manifest.bytes) as bar:
            problems = await verify_backup(found, bar.advance)
    except BackupDamaged as error:
        problems = [Problem("manifest.json", str(error))]
    if not quiet:
        for problem in problems:
            styled("damaged", "failed", f"{name} {problem.file}: {problem.problem}")
        if not problems:
            styled("ok", "ok", f"{name}: {files} files are as they were written")
    return {"backup": name, "ok": not problems, "files": files, "problems": [asdict(each) for each in problems]}


async def _restore_database(
    shelf: Shelf, name: str, database: str, into: str, force: bool, settings: Settings
) -> dict[str, Any]:
    found = await shelf.get(name)
    held = next((each for each in found.manifest.databases if each.name == database), None)
    files = {entry.data for entry in held.collections} if held else set()
    members = (member for member in found.manifest.members if member.file in files)
    with closing(connect(settings)) as client, Bar(f"restore {database}", _total(members)) as bar:
        return asdict(await restore_database(found, database, client, into, force=force, advance=bar.advance))


async def _restore_files(shelf: Shelf, name: str, kind: Kind, source: str, into: Path, force: bool) -> dict[str, Any]:
    found = await shelf.get(name)
    members = (member for member in found.manifest.members if member.source == source)
    with Bar(f"restore {source}", _total(members)) as bar:
        return asdict(await restore_files(found, kind, source, into, force=force, advance=bar.advance))


def _total(members: Iterable[Member]) -> int:
    return PASSES * sum(member.bytes for member in members)


def _shelf(folder: Path | None) -> tuple[Shelf, Settings]:
    settings = client_settings()
    return Shelf(shelf_folder(settings, folder)), settings


def _described(found: Backup) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "backup": manifest.id,
        "folder": str(found.folder),
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


def _row(found: Backup) -> tuple[str, str, str, str, str]:
    manifest = found.manifest
    holds = [f"{each.name} ({each.snapshot.mode})" for each in manifest.databases]
    holds += [*manifest.targets.sqlite, *manifest.targets.directories]
    holds += [f"NOT {failure.target}" for failure in manifest.failures]
    sizes = shown(manifest.bytes), shown(manifest.file_bytes)
    return manifest.id, ", ".join(holds), f"{manifest.documents:,}", *sizes
