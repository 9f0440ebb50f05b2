"""sessions.backup: when one is made, what it shares, what goes, and what becomes of an interrupted one."""

import asyncio
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from actors.maintenance import disk
from actors.maintenance.blocking import unwatched
from actors.maintenance.database import Database
from actors.maintenance.disk import NotEnoughSpace
from actors.sessions import back_up
from actors.sessions.backup import space
from actors.sessions.backup.job import BackupIncomplete, BackupParams, shelf_folder
from actors.sessions.backup.manifest import MANIFEST, SUMS, Backup, BackupDamaged, Manifest, Targets, read_backup
from actors.sessions.backup.members import Draft
from actors.sessions.backup.shelf import LATEST, Shelf, superfluous
from actors.sessions.backup.verify import verify
from service.errors import NotFound
from tests.actors.sessions.double import Double, capture_logs

DAY = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)


@pytest.fixture
def shelf(context: Double) -> Shelf:
    context.time = DAY
    return Shelf(shelf_folder(context.settings, None))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "one.txt").write_text("one\n" * 1000)
    return folder


async def run(context: Double, *, days: float | None = None, **params: Any) -> dict[str, Any]:
    if days is not None:
        context.time = DAY + timedelta(days=days)
    result: dict[str, Any] = await back_up(
        BackupParams(**{"databases": (), "preset": 0, **params}), context.as_context()
    )
    return result


def visible(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in shelf.folder.iterdir() if path.name != ".lock") if shelf.folder.exists() else []


# -- when --------------------------------------------------------------------------------------------------------------


async def test_a_second_run_on_the_same_day_finds_nothing_to_do(context: Double, shelf: Shelf, notes: Path) -> None:
    first = await run(context, directories=(notes,))
    context.time = DAY.replace(hour=23, minute=59)

    again = await run(context, directories=(notes,))

    assert (again["skipped"], again["backup"], again["members"]) == (1, first["backup"], 0)
    assert visible(shelf) == ["20260301T023000Z"]


async def test_the_next_day_and_force_make_another_one(context: Double, shelf: Shelf, notes: Path) -> None:
    await run(context, directories=(notes,))
    await run(context, directories=(notes,), force=True)
    context.time = DAY.replace(day=2, hour=0, minute=0)
    await run(context, directories=(notes,))

    assert visible(shelf) == ["20260301T023000Z", "20260301T023000Z-2", "20260302T000000Z"]


async def test_todays_backup_of_something_else_does_not_count(context: Double, notes: Path, memory: Database) -> None:
    await run(context, directories=(notes,))

    assert (await run(context, databases=(memory.name,)))["skipped"] == 0
    assert (await run(context, databases=(memory.name,), directories=(notes,)))["skipped"] == 0
    assert (await run(context, databases=(memory.name,)))["skipped"] == 1


async def test_nothing_to_back_up_is_no_backup(context: Double, shelf: Shelf) -> None:
    assert (await run(context))["skipped"] == 1
    assert visible(shelf) == []


async def test_a_dry_run_writes_nothing(context: Double, shelf: Shelf, notes: Path, memory: Database) -> None:
    await memory.a.insert_one({"text": "x" * 5000})

    result = await run(context, directories=(notes,), databases=(memory.name,), dry_run=True)

    assert (result["reason"], result["members"]) == ("dry run", 0)
    assert result["bytes"] > 9000
    assert not shelf.folder.exists()


async def test_two_at_once_make_one(context: Double, shelf: Shelf, notes: Path) -> None:
    results = await asyncio.gather(*(run(context, directories=(notes,), force=True) for _ in range(3)))

    assert sorted(result["skipped"] for result in results) == [0, 1, 1]
    assert len(visible(shelf)) == 1


# -- what is in it -----------------------------------------------------------------------------------------------------


async def test_the_manifest_tells_counts_and_hashes(
    context: Double, shelf: Shelf, notes: Path, memory: Database
) -> None:
    await memory.a.insert_many([{"_id": n} for n in range(10)])

    result = await run(context, databases=(memory.name,), directories=(notes,))

    manifest = (await shelf.get(LATEST)).manifest
    [collection] = [member for member in manifest.members if member.kind == "collection"]
    assert (collection.source, collection.documents) == (f"{memory.name}.a", 10)
    assert collection.bytes == sum(len(each) for each in [b"x" * 14] * 10)
    path = shelf.folder / manifest.id / collection.file
    assert collection.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest.created_at == DAY
    assert result["documents"] == 10
    assert (result["members"], result["entries"], result["bytes"]) == (3, 1, manifest.bytes)


async def test_the_sums_can_be_checked_without_verger(context: Double, shelf: Shelf, notes: Path) -> None:
    await run(context, directories=(notes,))
    folder = shelf.folder / visible(shelf)[0]

    said = subprocess.run(["sha256sum", "--check", "--strict", SUMS], check=True, cwd=folder, capture_output=True)

    assert len(said.stdout.splitlines()) == 2


async def test_backups_are_for_their_owner_only(context: Double, shelf: Shelf, notes: Path) -> None:
    await run(context, directories=(notes,))

    assert [(path.stat().st_mode & 0o77) for path in (shelf.folder, shelf.folder / visible(shelf)[0])] == [0, 0]


# -- what it shares ----------------------------------------------------------------------------------------------------


async def test_what_has_not_changed_is_linked_to_the_last_backup(
    context: Double, shelf: Shelf, notes: Path, memory: Database
) -> None:
    await memory.same.insert_many([{"n": n} for n in range(100)])
    await memory.changing.insert_one({"_id": 1})
    await run(context, databases=(memory.name,), directories=(notes,))
    await memory.changing.insert_one({"_id": 2})

    second = await run(context, days=1, databases=(memory.name,), directories=(notes,))

    backups, _ = await shelf.backups()
    newer, older = ({member.file: member for member in backup.manifest.members} for backup in backups)
    linked = {file for file, member in newer.items() if member.linked_from}
    base = f"mongodb/{memory.name}"
    assert set(newer) - linked == {f"{base}/changing.bson.xz"}
    assert second["linked"] == len(linked)
    for file, member in newer.items():
        same = (backups[0].folder / file).samefile(backups[1].folder / file)
        assert same == (file in linked)
        assert (member.sha256 == older[file].sha256) == same
    await shelf.remove(backups[1])
    assert await verify(backups[0], unwatched) == []


async def test_a_damaged_file_is_not_linked_but_written_again(context: Double, shelf: Shelf, notes: Path) -> None:
    await run(context, directories=(notes,))
    first = await shelf.get(LATEST)
    path = first.folder / first.manifest.members[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    with capture_logs() as logs:
        result = await run(context, days=1, directories=(notes,))

    assert result["linked"] == 0
    assert "member.damaged" in [log["event"] for log in logs]
    assert await verify(await shelf.get(LATEST), unwatched) == []


async def test_without_links_on_the_file_system_everything_is_written(
    context: Double, shelf: Shelf, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(context, directories=(notes,))

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert (await run(context, days=1, directories=(notes,)))["linked"] == 0
    assert await verify(await shelf.get(LATEST), unwatched) == []


# -- is it what was written? -------------------------------------------------------------------------------------------


async def test_a_flipped_byte_in_any_file_is_found(
    context: Double, shelf: Shelf, notes: Path, memory: Database
) -> None:
    await memory.a.insert_many([{"n": n} for n in range(20)])
    await memory.empty.insert_one({})
    await memory.empty.delete_many({})
    await run(context, databases=(memory.name,), directories=(notes,))
    backup = await shelf.get(LATEST)
    files = [path for path in backup.folder.rglob("*") if path.is_file()]
    assert len(files) == 7

    missed = []
    for path in files:
        content = path.read_bytes()
        every = 7 if path.name == MANIFEST else max(1, len(content) // 4)
        for at in {*range(0, len(content), every), len(content) - 1}:
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
            if not await wrong(backup.folder):
                missed.append((path.name, at))
        path.write_bytes(content)

    assert missed == []
    assert not await wrong(backup.folder)


async def wrong(folder: Path) -> bool:
    try:
        return bool(await verify(read_backup(folder), unwatched))
    except BackupDamaged:
        return True


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "ends too early"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "follows after its end"),
        (lambda path: path.write_bytes(path.read_bytes() * 2), "follows after its end"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(3_000_000)), "follows after its end"),
        (lambda path: path.write_bytes(b""), "ends too early"),
        (lambda path: path.write_bytes(lzma.compress(lzma.decompress(path.read_bytes()))), "SHA-256 differs"),
        (lambda path: path.write_bytes(b"not xz at all"), "cannot be decompressed"),
        (lambda path: (path.rename(path.with_suffix(".x")), path.symlink_to("x")), "cannot be read"),
        (lambda path: (path.parent / "more").write_text("x"), "is not in the manifest"),
    ],
)
async def test_what_happened_to_a_file_is_told(
    context: Double, shelf: Shelf, notes: Path, harm: Any, problem: str
) -> None:
    await run(context, directories=(notes,))
    backup = await shelf.get(LATEST)

    harm(backup.folder / backup.manifest.members[0].file)

    problems = await verify(backup, unwatched)
    assert any(problem in each.problem for each in problems), problems


@pytest.mark.parametrize("file", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", ".", "a\\b", ""])
async def test_a_manifest_that_points_outside_is_refused(context: Double, shelf: Shelf, notes: Path, file: str) -> None:
    await run(context, directories=(notes,))
    backup = await shelf.get(LATEST)
    member = backup.manifest.members[0].model_dump() | {"file": file}

    with pytest.raises(ValueError, match="not a path inside"):
        Manifest.model_validate(backup.manifest.model_dump() | {"members": [member]})


@pytest.mark.parametrize("field", ["bytes", "file_bytes", "documents", "entries"])
@pytest.mark.parametrize("number", [-1, 2**63, 10**400], ids=["-1", "2**63", "10**400"])
async def test_a_manifest_counts_no_more_than_there_can_be(
    context: Double, shelf: Shelf, notes: Path, field: str, number: int
) -> None:
    await run(context, directories=(notes,))
    backup = await shelf.get(LATEST)
    member = backup.manifest.members[0].model_dump() | {field: number}
    manifest = json.dumps(backup.manifest.model_dump(mode="json") | {"members": [member]}).encode()
    (backup.folder / MANIFEST).write_bytes(manifest)
    sums = f"{member['file_sha256']}  {member['file']}\n{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"
    (backup.folder / SUMS).write_text(sums)

    with pytest.raises(BackupDamaged, match="its manifest is wrong"):
        read_backup(backup.folder)


async def test_what_was_written_wrong_is_not_published(
    context: Double, shelf: Shelf, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def rotten(descriptor: int) -> None:
        sync(descriptor)
        if os.fstat(descriptor).st_size > 100 and Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".xz":
            os.pwrite(descriptor, b"rot", 60)

    monkeypatch.setattr(os, "fsync", rotten)
    with pytest.raises(BackupDamaged, match="cannot be read back"):
        await run(context, directories=(notes,))

    assert visible(shelf) == []


# -- interruptions -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_leaves_nothing_wherever_it_stops(
    context: Double, shelf: Shelf, notes: Path, memory: Database
) -> None:
    await memory.a.insert_many([{"text": "x" * 100} for _ in range(300)])
    (notes / "large").write_bytes(os.urandom(1_100_000))
    params: dict[str, Any] = {"databases": (memory.name,), "directories": (notes,)}
    stops = 0

    while True:
        context.checkpoints, context.stop_after = 0, stops
        try:
            await run(context, **params)
            break
        except asyncio.CancelledError:
            assert visible(shelf) == []
        stops += 2

    assert stops > 10
    assert len(visible(shelf)) == 1


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3])
async def test_a_task_that_is_cancelled_from_outside_leaves_nothing(
    context: Double, shelf: Shelf, notes: Path, seconds: float
) -> None:
    (notes / "large").write_bytes(os.urandom(12_000_000))
    running = asyncio.create_task(run(context, directories=(notes,), preset=6))
    await asyncio.sleep(seconds)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert visible(shelf) == []


KILLED = """
import asyncio, os, sys
from pathlib import Path
from actors.sessions.backup.members import Draft
from actors.sessions.backup.shelf import Shelf

async def main():
    shelf = Shelf(Path(sys.argv[1]))
    async with shelf.writing(), shelf.draft("20260301T023000Z") as folder:
        (folder / "mongodb").mkdir()
        (folder / "mongodb" / "half.bson.xz").write_bytes(b"half")
        os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_what_a_killed_run_left_is_no_backup_and_is_removed_by_the_next(
    context: Double, shelf: Shelf, notes: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, shelf.folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    )
    assert await process.wait() == -9
    assert visible(shelf) == [".draft-20260301T023000Z"]
    assert await shelf.backups() == ([], [])
    (shelf.folder / ".gone-20250101T000000Z").mkdir()

    await run(context, directories=(notes,))

    assert visible(shelf) == ["20260301T023000Z"]


# -- rotation ----------------------------------------------------------------------------------------------------------


async def test_rotation_keeps_the_last_seven(context: Double, shelf: Shelf, notes: Path) -> None:
    rotated = [(await run(context, days=day, directories=(notes,)))["rotated"] for day in range(10)]

    assert rotated == [0] * 7 + [1] * 3
    assert visible(shelf) == [f"202603{day:02}T023000Z" for day in range(4, 11)]
    backups, _ = await shelf.backups()
    assert [await verify(backup, unwatched) for backup in backups] == [[]] * 7


async def test_rotation_that_would_remove_too_much_is_refused(context: Double, shelf: Shelf, notes: Path) -> None:
    for day in range(5):
        await run(context, days=day, directories=(notes,))

    with capture_logs() as logs:
        refused = await run(context, days=5, directories=(notes,), keep=1)
    forced = await run(context, days=6, directories=(notes,), keep=1, force_rotation=True)

    assert (refused["rotated"], refused["rotation_refused"]) == (0, 5)
    assert "rotation.refused" in [log["event"] for log in logs]
    assert forced["rotated"] == 6
    assert visible(shelf) == ["20260307T023000Z"]


async def test_many_backups_of_one_thing_never_push_out_the_last_of_another(
    context: Double, shelf: Shelf, notes: Path, memory: Database
) -> None:
    await run(context, databases=(memory.name,), directories=(notes,), keep=2)
    for day in range(1, 6):
        await run(context, days=day, directories=(notes,), keep=2)

    assert visible(shelf) == ["20260301T023000Z", "20260305T023000Z", "20260306T023000Z"]


def test_the_last_one_that_holds_a_target_is_never_superfluous() -> None:
    def backup(number: int, *directories: str) -> Backup:
        return Backup(
            Path(str(number)),
            Manifest(id=str(number), created_at=DAY, verified_at=DAY, targets=Targets(directories=directories)),
        )

    backups = [backup(5, "a"), backup(4), backup(3, "a", "b"), backup(2, "b"), backup(1, "a")]

    assert [each.manifest.id for each in superfluous(backups, 1)] == ["1", "2", "4"]
    assert [each.manifest.id for each in superfluous(backups, 2)] == ["1"]


async def test_strangers_in_the_folder_are_left_alone(context: Double, shelf: Shelf, notes: Path) -> None:
    await run(context, directories=(notes,))
    (shelf.folder / "README").write_text("mine")
    (shelf.folder / "mine").mkdir()
    (shelf.folder / "link").symlink_to(notes)

    with capture_logs() as logs:
        for day in range(1, 4):
            await run(context, days=day, directories=(notes,), keep=1)

    assert visible(shelf) == ["20260304T023000Z", "README", "link", "mine"]
    assert [log["problem"].split(":")[0] for log in logs if log["event"] == "backup.damaged"] == ["mine"] * 3


async def test_a_backup_whose_manifest_is_damaged_is_never_removed_nor_counted(
    context: Double, shelf: Shelf, notes: Path
) -> None:
    await run(context, directories=(notes,))
    (shelf.folder / "20260301T023000Z" / MANIFEST).write_text("{}")

    for day in (0, 1, 2):
        await run(context, days=day, directories=(notes,), keep=1)

    assert visible(shelf) == ["20260301T023000Z", "20260303T023000Z"]
    with pytest.raises(BackupDamaged, match="manifest is wrong"):
        await shelf.get("20260301T023000Z")
    with pytest.raises(NotFound, match="20260303T023000Z"):
        await shelf.get("20260302T023000Z")


# -- what fails --------------------------------------------------------------------------------------------------------


async def test_a_target_that_fails_is_named_and_the_others_are_kept(
    context: Double, shelf: Shelf, notes: Path, tmp_path: Path, memory: Database
) -> None:
    directories = (notes, tmp_path / "nowhere")
    params: dict[str, Any] = {"databases": (memory.name,), "directories": directories, "sqlite": (tmp_path / "no.db",)}
    with pytest.raises(BackupIncomplete, match="nowhere.*no.db"):
        await run(context, **params)

    manifest = (await shelf.get(LATEST)).manifest
    assert manifest.targets == Targets(databases=(memory.name,), directories=(str(notes),))
    assert len(manifest.failures) == 2
    # It is tried again on the same day.
    (tmp_path / "nowhere").mkdir()
    shutil.copy("/dev/null", tmp_path / "no.db")
    assert (await run(context, **params))["skipped"] == 0


async def test_a_target_that_fails_half_way_leaves_nothing_of_itself(
    context: Double, shelf: Shelf, notes: Path, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memory.a.insert_one({})
    await memory.b.insert_one({})
    whole = Draft.add

    async def failing(self: Draft, spool: Path, file: str, *rest: Any, **more: Any) -> Any:
        if "/b." in file:
            raise OSError(5, "Input/output error")
        return await whole(self, spool, file, *rest, **more)

    monkeypatch.setattr(Draft, "add", failing)
    with pytest.raises(BackupIncomplete, match="Input/output error"):
        await run(context, databases=(memory.name,), directories=(notes,))

    backup = await shelf.get(LATEST)
    assert [member.kind for member in backup.manifest.members] == ["directory"]
    assert await verify(backup, unwatched) == []


async def test_if_nothing_can_be_backed_up_there_is_no_backup(context: Double, shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(BackupIncomplete, match="there is no backup"):
        await run(context, directories=(tmp_path / "nowhere",))

    assert visible(shelf) == []


async def test_too_full_a_disk_is_told_before_anything_is_written(
    context: Double, shelf: Shelf, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 10_000_000)

    with pytest.raises(NotEnoughSpace, match=r"may need 64\.0 MiB below .*, and 9\.5 MiB are free"):
        await run(context, directories=(notes,))

    assert visible(shelf) == []


async def test_a_disk_that_becomes_full_ends_the_run(
    context: Double, shelf: Shelf, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("actors.sessions.backup.members._compress", full)
    with pytest.raises(NotEnoughSpace, match="became full"):
        await run(context, directories=(notes,))

    assert visible(shelf) == []


async def test_the_next_backup_is_expected_to_pack_about_as_well_as_the_last(
    context: Double, shelf: Shelf, notes: Path
) -> None:
    (notes / "zeros").write_bytes(bytes(10_000_000))
    first = await space.check_space(shelf.folder, [10_000_000], None)
    await run(context, directories=(notes,))

    second = await space.check_space(shelf.folder, [10_000_000], await shelf.get(LATEST))

    assert first == 20_000_000
    assert second < 10_100_000
