"""``verger archive``: look at archives, read them back, unpack them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from actors.cli.failure import REFUSED
from actors.cli.files import Bar, run_on_files
from actors.cli.options import Json
from actors.cli.output import print_json, say, styled, table
from actors.cli.session import client_settings
from actors.maintenance.blocking import Steps, in_steps
from actors.maintenance.disk import shown
from actors.sessions.archive.extract import Extracted, extract as unpack
from actors.sessions.archive.folder import Archives
from actors.sessions.archive.members import pieces
from actors.sessions.archive.periods import DAY, Period
from actors.sessions.archive.reading import ArchiveDamaged, Reading, read_back

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")

Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where the archives are; default: `archives` in VERGER_DATA_DIR.")
]


@app.callback()
def archive() -> None:
    """Look at archives, read them back, unpack them. `sessions.archive` makes them (docs/actors/sessions.md)."""


@app.command("list")
def list_archives(
    archive: Annotated[
        str | None, typer.Argument(metavar="[ARCHIVE]", help="What is in this one, such as `2026-W09`.")
    ] = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """List the archives, finest and oldest first; or the files that are in one."""
    archives = _archives(folder)
    if archive is not None:
        files = run_on_files(_files(archives, archive))
        if json:
            print_json({"files": files})
        else:
            table(("FILE", "SIZE"), ((each["file"], shown(each["bytes"])) for each in files), fold=0)
        return
    periods = run_on_files(archives.periods())
    found = [_described(archives, period) for period in periods]
    if json:
        print_json({"archives": found})
    elif found:
        table(
            ("ARCHIVE", "FROM", "TO", "PACKED"),
            ((each["archive"], each["from"], each["to"], shown(each["fileBytes"])) for each in found),
        )
    else:
        say("There are no archives.")


@app.command()
def verify(
    archive: Annotated[str | None, typer.Argument(metavar="[ARCHIVE]", help="Its name; default: every one.")] = None,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Read archives back: every file in them is unpacked and hashed. Exit code 1: one of them is damaged."""
    reports = run_on_files(_verify(_archives(folder), archive, quiet=json))
    if json:
        print_json({"archives": reports})
    if not all(report["ok"] for report in reports):
        raise typer.Exit(REFUSED)


@app.command()
def extract(
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Its name, such as `2026-W09`.")],
    into: Annotated[Path, typer.Option("--into", help="The folder to make.")],
    match: Annotated[
        str, typer.Option("--match", help="Only files such as `*/session.jsonl`, as `list` shows them.")
    ] = "*",
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Unpack an archive into a new folder, as `<day>/<path>`. It appears when all of the archive was in order."""
    found = run_on_files(_extract(_archives(folder), archive, into.expanduser().absolute(), match))
    if json:
        print_json({"into": str(into), "files": found.files, "bytes": found.bytes})
    else:
        say(f"Unpacked {_count(found.files)} into {into}, {shown(found.bytes)}.")


def _count(files: int) -> str:
    return f"{files} {'file' if files == 1 else 'files'}"


def _archives(folder: Path | None) -> Archives:
    return Archives.at(client_settings(), folder)


def _described(archives: Archives, period: Period) -> dict[str, Any]:
    path = archives.path(period)
    return {
        "archive": str(period),
        "path": str(path),
        "from": period.first.isoformat(),
        "to": (period.end - DAY).isoformat(),
        "fileBytes": path.stat().st_size,
    }


async def _files(archives: Archives, name: str) -> list[dict[str, Any]]:
    def files() -> Steps[list[dict[str, Any]]]:
        found = []
        for member in Reading(path).files():
            for piece in pieces(member.file, member.size):
                yield len(piece)
            found.append({"file": member.shown, "bytes": member.size})
        return found

    path = archives.path(await archives.get(name))
    with Bar(f"read {name}", None) as bar:
        return await in_steps(files(), bar.advance)


async def _verify(archives: Archives, name: str | None, *, quiet: bool) -> list[dict[str, Any]]:
    periods = await archives.periods() if name is None else [await archives.get(name)]
    return [await _verify_one(archives, period, quiet=quiet) for period in periods]


async def _verify_one(archives: Archives, period: Period, *, quiet: bool) -> dict[str, Any]:
    try:
        with Bar(f"verify {period}", None) as bar:
            files = (await in_steps(read_back(archives.path(period)), bar.advance)).members
    except ArchiveDamaged as error:
        if not quiet:
            styled("damaged", "failed", str(error))
        return {"archive": str(period), "ok": False, "problem": error.problem}
    if not quiet:
        styled("ok", "ok", f"{period}: as it was written, {_count(files)}")
    return {"archive": str(period), "ok": True, "files": files}


async def _extract(archives: Archives, name: str, into: Path, match: str) -> Extracted:
    path = archives.path(await archives.get(name))
    with Bar(f"extract {name}", None) as bar:
        return await in_steps(unpack(path, into, match), bar.advance)
