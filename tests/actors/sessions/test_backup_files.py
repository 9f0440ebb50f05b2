"""sessions.backup of SQLite files and folders: what is restored is what was there, and nothing gets in or out."""

import asyncio
import io
import lzma
import os
import sqlite3
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, strategies

from actors.maintenance.blocking import unwatched
from actors.sessions import back_up
from actors.sessions.backup import directories, restore_files as restoring, sqlite as copying
from actors.sessions.backup.job import BackupIncomplete, BackupParams, shelf_folder
from actors.sessions.backup.manifest import Backup, BackupDamaged
from actors.sessions.backup.names import LONGEST, escape
from actors.sessions.backup.restore_files import RestoredFiles, restore_files
from actors.sessions.backup.shelf import LATEST, Shelf
from service.errors import Conflict, NotFound
from tests.actors.sessions.double import Double


@pytest.fixture
def shelf(context: Double) -> Shelf:
    return Shelf(shelf_folder(context.settings, None))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for path, content in {
        "a.txt": b"a",
        "b/deep/er/c.bin": bytes(range(256)) * 5000,
        "b/empty": b"",
        "b/" + "n" * 250: b"long name",
        "ünïcödé 日本/\\x\n'": b"hostile",
        "-rf": b"dash",
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
        os.utime(tree / path, (1_700_000_000, 1_700_000_000))
    Path(os.fsdecode(os.fsencode(tree) + b"/\xff\xfe")).write_bytes(b"no utf-8")
    (tree / "none").mkdir()
    (tree / "a.txt").chmod(0o4755)
    return tree


async def made(context: Double, shelf: Shelf, **params: Any) -> Backup:
    params = {"databases": (), "preset": 0, "force": True, **params}
    await back_up(BackupParams(**params), context.as_context())
    return await shelf.get(LATEST)


async def restored(
    backup: Backup, kind: Literal["sqlite", "directory"], source: Path, into: Path, *, force: bool = False
) -> RestoredFiles:
    return await restore_files(backup, kind, str(source), into, force=force, advance=unwatched)


def contents(folder: Path) -> dict[str, tuple[bytes | None, int, int]]:
    return {
        os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace"): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mode & 0o777,
            int(path.stat().st_mtime),
        )
        for path in folder.rglob("*")
    }


# -- folders -----------------------------------------------------------------------------------------------------------


async def test_a_restored_folder_equals_the_original(context: Double, shelf: Shelf, tree: Path, tmp_path: Path) -> None:
    backup = await made(context, shelf, directories=(tree,))

    counts = await restored(backup, "directory", tree, tmp_path / "restored")

    assert contents(tmp_path / "restored") == contents(tree)
    assert counts.files == 7
    assert backup.manifest.members[0].entries == len(contents(tree)) == 12


async def test_a_folder_packs_to_the_same_bytes_until_it_changes(
    context: Double, shelf: Shelf, tree: Path, tmp_path: Path
) -> None:
    first = await made(context, shelf, directories=(tree,))
    # Read in another order, by another owner's clock: none of that shows.
    for path in sorted(tree.rglob("*"), reverse=True):
        path.stat()
    second = await made(context, shelf, directories=(tree,))
    (tree / "a.txt").write_bytes(b"b")
    third = await made(context, shelf, directories=(tree,))

    hashes = [backup.manifest.members[0].sha256 for backup in (first, second, third)]
    assert hashes[0] == hashes[1] != hashes[2]


async def test_tar_reads_what_was_packed(context: Double, shelf: Shelf, tree: Path) -> None:
    backup = await made(context, shelf, directories=(tree,))
    [member] = backup.manifest.members

    with tarfile.open(backup.folder / member.file) as archive:
        entries = archive.getmembers()

    assert {(entry.uid, entry.gid, entry.uname, entry.gname) for entry in entries} == {(0, 0, "", "")}
    assert all(entry.isreg() or entry.isdir() for entry in entries)
    assert {entry.name: entry.mode for entry in entries}["a.txt"] == 0o755


async def test_symlinks_and_special_files_are_left_out(
    context: Double, shelf: Shelf, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("secret")
    before = contents(tree)
    (tree / "link").symlink_to(tmp_path / "secret")
    (tree / "b" / "folder").symlink_to(tmp_path / "secrets")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "fifo")

    backup = await made(context, shelf, directories=(tree,))

    assert backup.manifest.members[0].entries == len(before)
    raw = lzma.decompress((backup.folder / backup.manifest.members[0].file).read_bytes())
    assert b"secret" not in raw


async def test_a_file_that_becomes_a_symlink_meanwhile_is_not_followed(
    context: Double, shelf: Shelf, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret")
    whole = directories._open

    def swapped(entry: Any, packed: Any) -> Any:
        if entry.path == "a.txt":
            (tree / "a.txt").unlink()
            (tree / "a.txt").symlink_to(tmp_path / "secret")
        return whole(entry, packed)

    monkeypatch.setattr(directories, "_open", swapped)
    with pytest.raises(BackupIncomplete, match=r"1 files are missing or torn: a\.txt"):
        await made(context, shelf, directories=(tree,))

    backup = await shelf.get(LATEST)
    assert b"secret" not in lzma.decompress((backup.folder / backup.manifest.members[0].file).read_bytes())


async def test_the_backups_themselves_are_not_backed_up(context: Double, shelf: Shelf, tree: Path) -> None:
    folder = tree / "b" / "backups"
    shelf = Shelf(folder)
    entries = [
        (await made(context, shelf, directories=(tree,), folder=folder)).manifest.members[0].entries for _ in range(3)
    ]

    assert entries == [12, 12, 12]


async def test_a_file_that_shrinks_while_it_is_read_is_told(
    context: Double, shelf: Shelf, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = directories._copy_content

    def shrinking(file: Any, *rest: Any) -> Iterator[int]:
        if rest[2] == "b/deep/er/c.bin":
            os.truncate(tree / "b/deep/er/c.bin", 10)
        yield from whole(file, *rest)

    monkeypatch.setattr(directories, "_copy_content", shrinking)
    with pytest.raises(BackupIncomplete, match=r"c\.bin: lost 1279990 of its 1280000 bytes"):
        await made(context, shelf, directories=(tree,))

    # What could be read is there, the others whole.
    await restored(await shelf.get(LATEST), "directory", tree, tmp_path / "restored")
    assert (tmp_path / "restored" / "a.txt").read_bytes() == b"a"


async def test_a_folder_is_never_restored_over_something(
    context: Double, shelf: Shelf, tree: Path, tmp_path: Path
) -> None:
    backup = await made(context, shelf, directories=(tree,))

    for force in (False, True):
        with pytest.raises(Conflict, match="there is something"):
            await restored(backup, "directory", tree, tree, force=force)
    with pytest.raises(NotFound, match="tree"):
        await restored(backup, "directory", tmp_path, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../outside"},
        {"name": "/tmp/outside"},
        {"name": "a/../../outside"},
        {"name": "link", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": "link", "type": tarfile.LNKTYPE, "linkname": "../secret"},
        {"name": "device", "type": tarfile.CHRTYPE},
        {"name": "fifo", "type": tarfile.FIFOTYPE},
    ],
)
async def test_a_tar_that_was_not_made_here_cannot_reach_outside(
    context: Double, shelf: Shelf, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any]
) -> None:
    backup = await made(context, shelf, directories=(tree,))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(entry["name"])
        for field, value in entry.items():
            setattr(info, field, value)
        archive.addfile(info, io.BytesIO())
    monkeypatch.setattr(restoring, "contents", lambda *_: iter([stream.getvalue()]))

    with pytest.raises(BackupDamaged, match="not a file or folder inside"):
        await restored(backup, "directory", tree, tmp_path / "restored")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tree"]


async def test_memory_stays_flat(context: Double, shelf: Shelf, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    (large / "zeros").write_bytes(bytes(60_000_000))
    tracemalloc.start()

    backup = await made(context, shelf, directories=(large,))
    await restored(backup, "directory", large, tmp_path / "restored")

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


# -- SQLite ------------------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM notes ORDER BY id").fetchall()


@pytest.fixture(params=["wal", "delete"])
def notes(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "notes?#%20.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={request.param}")
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text, pair)")
        connection.executemany("INSERT INTO notes VALUES (?, ?, 0)", ((n, "x" * 500) for n in range(1500)))
        connection.commit()
    return path


async def test_a_restored_sqlite_file_equals_the_original(
    context: Double, shelf: Shelf, notes: Path, tmp_path: Path
) -> None:
    first = await made(context, shelf, sqlite=(notes,))
    second = await made(context, shelf, sqlite=(notes,))

    await restored(second, "sqlite", notes, tmp_path / "restored.db")

    assert rows(tmp_path / "restored.db") == rows(notes)
    assert second.manifest.members[0].linked_from == first.manifest.id


async def test_a_sqlite_file_is_replaced_only_by_force_and_not_mixed_with_its_old_log(
    context: Double, shelf: Shelf, notes: Path, tmp_path: Path
) -> None:
    backup = await made(context, shelf, sqlite=(notes,))
    original = rows(notes)
    log = notes.with_name(notes.name + "-wal")
    with closing(sqlite3.connect(notes)) as connection:
        connection.execute("DELETE FROM notes")
        connection.commit()
        left = log.read_bytes() if log.exists() else b"of the file that was here before"

        with pytest.raises(Conflict, match="--force"):
            await restored(backup, "sqlite", notes, notes)
    log.write_bytes(left)  # as a crash of its writer leaves it
    await restored(backup, "sqlite", notes, notes, force=True)

    assert rows(notes) == original
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


async def test_a_sqlite_file_is_copied_whole_while_others_write_it(
    context: Double, shelf: Shelf, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAGES", 5)
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with closing(sqlite3.connect(notes, timeout=30)) as connection:
            while not stop.is_set():
                # Both rows change, or none: a copy that is torn shows it.
                connection.execute("UPDATE notes SET pair = pair + 1 WHERE id IN (1, 1499)")
                connection.commit()
                written += 1
                time.sleep(0.002)

    writing = asyncio.create_task(asyncio.to_thread(write))
    backups: list[Backup] = []
    try:
        while written < 5 or len(backups) < 2:
            backups.append(await made(context, shelf, sqlite=(notes,)))
    finally:
        stop.set()
        await writing

    for number, backup in enumerate(backups):
        await restored(backup, "sqlite", notes, tmp_path / f"{number}.db")
        pairs = {row[0]: row[2] for row in rows(tmp_path / f"{number}.db")}
        assert pairs[1] == pairs[1499]


async def test_a_sqlite_file_that_stays_locked_is_not_waited_for_without_end(
    context: Double, notes: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BUSY_SECONDS", 0.2)
    with closing(sqlite3.connect(notes)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE notes SET pair = 1")

        with pytest.raises(BackupIncomplete, match="locked"):
            await made(context, shelf, sqlite=(notes,))


async def test_a_damaged_sqlite_file_is_no_backup_of_it(context: Double, shelf: Shelf, notes: Path, tree: Path) -> None:
    with notes.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(os.urandom(4096 * 3))
    (tree / "text.db").write_text("this is no database, and never was one, whatever its name says")

    with pytest.raises(BackupIncomplete, match="not a database") as caught:
        await made(context, shelf, sqlite=(notes, tree / "text.db"), directories=(tree,))

    assert "notes" in str(caught.value)
    assert [member.kind for member in (await shelf.get(LATEST)).manifest.members] == ["directory"]


# -- names -------------------------------------------------------------------------------------------------------------


@given(strategies.text(min_size=1, max_size=300), strategies.text(min_size=1, max_size=300))
def test_every_name_has_a_file_name_of_its_own(one: str, other: str) -> None:
    escaped = escape(one)

    assert len(escaped) <= LONGEST
    assert escaped.isascii()
    assert not escaped.startswith(".")
    assert not {"/", "\\", "\0", " ", "\n"} & set(escaped)
    assert (escaped == escape(other)) == (one == other)
