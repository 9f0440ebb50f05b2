"""sessions.archive: old files go into archives, archives into coarser ones; nothing is lost, nothing is there twice."""

import asyncio
import errno
import hashlib
import os
import resource
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from actors.maintenance import blocking, disk
from actors.maintenance.breaker import CircuitOpen
from actors.maintenance.database import Database
from actors.maintenance.disk import NotEnoughSpace
from actors.maintenance.folder_lock import FolderLock
from actors.sessions import archive_sessions, collect_sessions
from actors.sessions.archive import members, pack as packing, sources
from actors.sessions.archive.job import ArchiveParams, ArchivesDamaged, NotWritten
from actors.sessions.archive.members import SUMS
from actors.sessions.archive.sources import Taking
from actors.sessions.collect import CollectParams
from service.errors import ConfigError
from tests.actors.sessions.archived import MONDAY, archives, contents, put, unpacked
from tests.actors.sessions.double import Double, capture_logs
from tests.actors.sessions.files import line, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def folder(context: Double) -> Path:
    return context.settings.data_dir / "archives"


async def run(context: Double, now: date, root: Path | None = None, **params: Any) -> dict[str, int]:
    context.time = datetime(now.year, now.month, now.day, 0, 30, tzinfo=UTC)
    roots = (root,) if root is not None else ()
    found = await archive_sessions(ArchiveParams(**{"roots": roots, "preset": 0, **params}), context.as_context())
    return dict(found)


# -- daily, weekly, monthly, yearly ------------------------------------------------------------------------------------


async def test_a_day_is_archived_when_it_ended_seven_days_ago(context: Double, root: Path, folder: Path) -> None:
    for number in range(5):
        put(root, f"a/{number}.jsonl", MONDAY + timedelta(days=number), hour=23)
    before = contents(root)

    early = await run(context, MONDAY + timedelta(days=7), root)
    assert (early["archived"], archives(folder)) == (0, [])

    first = await run(context, MONDAY + timedelta(days=8), root)
    again = await run(context, MONDAY + timedelta(days=8), root)
    assert archives(folder) == ["daily/2026-02-02.tar.xz"]
    assert (first["files"], first["archived"], first["written"], first["merged"]) == (5, 1, 1, 0)
    assert (again["files"], again["archived"], again["written"], again["merged"]) == (4, 0, 0, 0)
    assert unpacked(folder) | contents(root) == before
    assert sorted(path.name for path in (root / "a").iterdir()) == [f"{number}.jsonl" for number in range(1, 5)]


async def test_two_rounds_of_merging_later_every_file_is_byte_for_byte_there(
    context: Double, root: Path, folder: Path
) -> None:
    for number in range(0, 70, 3):
        put(root, f"p/{number}.jsonl", MONDAY + timedelta(days=number), os.urandom(3000))
    put(root, "ünïcödé 日本/\\x\n'", MONDAY)
    put(root, "n" * 200 + "/" + "m" * 200, MONDAY)
    put(root, "empty", MONDAY, b"")
    put(root, "old", date(1969, 12, 30))
    (root / "empty").chmod(0o4640)
    put(root, os.fsdecode(b"no utf-8 \xff\xfe"), MONDAY)
    before = contents(root)
    seen = []

    for days in range(4, 100, 8):
        await run(context, MONDAY + timedelta(days=days), root)
        seen.append({name.split("/", maxsplit=1)[0] for name in archives(folder)})
        assert unpacked(folder) | contents(root) == before, days

    assert {"daily", "weekly", "monthly"} <= set().union(*seen)
    assert archives(folder)[:2] == ["monthly/2026-02.tar.xz", "monthly/2026-03.tar.xz"]
    assert archives(folder)[-1] == "yearly/1970.tar.xz"
    with tarfile.open(folder / "monthly/2026-02.tar.xz") as archive:
        [empty] = [entry for entry in archive if entry.name.endswith("/empty")]
        assert (empty.mode, empty.uid, empty.gid, empty.uname) == (0o640, 0, 0, "")


async def test_all_of_it_ends_in_the_year_and_stays_there(context: Double, root: Path, folder: Path) -> None:
    days = [date(2024, 12, 29), date(2024, 12, 30), date(2025, 6, 1), date(2025, 12, 28), date(2025, 12, 29)]
    for day in days:
        put(root, f"{day}.jsonl", day)
    before = contents(root)

    counts = await run(context, date(2026, 12, 27), root)
    assert archives(folder) == [
        "monthly/2025-01.tar.xz",
        "monthly/2025-05.tar.xz",  # the first of June was a Sunday
        "monthly/2025-12.tar.xz",
        "monthly/2026-01.tar.xz",
        "yearly/2024.tar.xz",
    ]
    assert (counts["archived"], counts["written"], counts["merged"]) == (5, 5, 11)

    await run(context, date(2027, 6, 1), root)
    assert archives(folder) == ["monthly/2026-01.tar.xz", "yearly/2024.tar.xz", "yearly/2025.tar.xz"]
    await run(context, date(2099, 1, 1), root)
    assert archives(folder) == ["yearly/2024.tar.xz", "yearly/2025.tar.xz", "yearly/2026.tar.xz"]
    assert unpacked(folder) == before


async def test_a_week_53_is_merged_into_the_year_of_its_thursday(context: Double, root: Path, folder: Path) -> None:
    for day in (date(2020, 12, 28), date(2020, 12, 31), date(2021, 1, 3), date(2021, 1, 4)):
        put(root, f"{day}.jsonl", day)
    before = contents(root)

    await run(context, date(2021, 1, 15), root)
    assert archives(folder) == ["daily/2021-01-04.tar.xz", "weekly/2020-W53.tar.xz"]
    await run(context, date(2021, 2, 15), root)
    assert archives(folder) == ["monthly/2020-12.tar.xz", "weekly/2021-W01.tar.xz"]
    await run(context, date(2023, 1, 1), root)
    assert archives(folder) == ["monthly/2021-01.tar.xz", "yearly/2020.tar.xz"]
    assert unpacked(folder) == before


async def test_one_file_of_two_days_survives_every_merge_twice(context: Double, root: Path, folder: Path) -> None:
    put(root, "a.jsonl", MONDAY, b"first")
    await run(context, MONDAY + timedelta(days=8), root)
    put(root, "a.jsonl", MONDAY + timedelta(days=1), b"first, and more")
    for days in (9, 30, 80, 1000):
        await run(context, MONDAY + timedelta(days=days), root)

    assert archives(folder) == ["yearly/2026.tar.xz"]
    path = str(root / "a.jsonl")[1:]
    assert {name: content for name, (content, _) in unpacked(folder).items()} == {
        f"2026-02-02/{path}": b"first", f"2026-02-03/{path}": b"first, and more",
    }  # fmt: skip


async def test_a_late_file_is_added_to_the_archive_that_covers_its_day(
    context: Double, root: Path, folder: Path
) -> None:
    path = str(root)[1:]
    put(root, "a.jsonl", MONDAY, b"first")
    put(root, "z.jsonl", MONDAY + timedelta(days=6), b"sunday")
    await run(context, MONDAY + timedelta(days=15), root)
    assert archives(folder) == ["weekly/2026-W06.tar.xz"]

    put(root, "b.jsonl", MONDAY, b"late")
    put(root, "a.jsonl", MONDAY, b"first")
    late = await run(context, MONDAY + timedelta(days=15), root)
    put(root, "a.jsonl", MONDAY, b"other")
    other = await run(context, MONDAY + timedelta(days=15), root)
    put(root, "a.jsonl", MONDAY, b"other", hour=13)
    await run(context, MONDAY + timedelta(days=16), root)
    await run(context, MONDAY + timedelta(days=80), root)

    assert (late["archived"], late["duplicates"], late["written"], late["merged"]) == (2, 1, 1, 0)
    assert (other["archived"], other["duplicates"]) == (1, 0)
    assert archives(folder) == ["monthly/2026-02.tar.xz"]
    assert {name: content for name, (content, _) in unpacked(folder).items()} == {
        f"2026-02-02/{path}/a.jsonl": b"first",
        f"2026-02-02.2/{path}/a.jsonl": b"other",
        f"2026-02-02/{path}/b.jsonl": b"late",
        f"2026-02-08/{path}/z.jsonl": b"sunday",
    }
    assert not contents(root)


async def test_a_clock_that_jumps_back_and_forth_loses_nothing(context: Double, root: Path, folder: Path) -> None:
    put(root, "a.jsonl", MONDAY)
    put(root, "b.jsonl", MONDAY + timedelta(days=30))
    before = contents(root)
    await run(context, date(2031, 1, 1), root)
    assert archives(folder) == ["yearly/2026.tar.xz"]

    put(root, "c.jsonl", MONDAY + timedelta(days=1))
    put(root, "d.jsonl", date(2031, 5, 5))
    before |= contents(root)
    back = await run(context, MONDAY - timedelta(days=30), root)
    assert back["archived"] == 0
    await run(context, MONDAY + timedelta(days=20), root)

    assert archives(folder) == ["yearly/2026.tar.xz"]
    assert unpacked(folder) | contents(root) == before
    assert [path.name for path in root.iterdir()] == ["d.jsonl"]


async def test_archives_are_the_same_bytes_for_the_same_files(context: Double, root: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        for each in "cab" if name == "one" else "bca":
            put(root, f"{each}/{each}", MONDAY)
        await run(context, MONDAY + timedelta(days=20), root, folder=tmp_path / name)
        digests.append(hashlib.sha256((tmp_path / name / "weekly/2026-W06.tar.xz").read_bytes()).hexdigest())

    assert digests[0] == digests[1]


async def test_tar_and_sha256sum_need_nothing_of_ours(
    context: Double, root: Path, folder: Path, tmp_path: Path
) -> None:
    for name in ("a.jsonl", "dir/b c.jsonl", "back\\slash", "new\nline"):
        put(root, name, MONDAY)
    before = contents(root)
    await run(context, MONDAY + timedelta(days=8), root)
    out = tmp_path / "out"
    out.mkdir()

    def by_hand(*command: str) -> str:
        return subprocess.run(command, cwd=out, check=True, capture_output=True, text=True).stdout

    by_hand("tar", "-xJf", str(folder / "daily/2026-02-02.tar.xz"))
    checked = by_hand("sha256sum", "--check", "--strict", SUMS)

    assert checked.count(": OK") == 4
    assert {name: (out / name).read_bytes() for name in before} == {name: each[0] for name, each in before.items()}


# -- which files -------------------------------------------------------------------------------------------------------


async def test_symlinks_and_special_files_are_neither_followed_nor_removed(
    context: Double, root: Path, folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    put(outside, "secret", MONDAY, b"secret")
    put(root, "a.jsonl", MONDAY)
    (root / "link").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    os.mkfifo(root / "fifo")

    counts = await run(context, MONDAY + timedelta(days=8), root)

    assert (counts["archived"], counts["special"]) == (1, 3)
    assert sorted(path.name for path in root.iterdir()) == ["fifo", "folder", "link"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert [name for name in unpacked(folder) if "secret" in name] == []


async def test_a_folder_that_becomes_a_symlink_leads_nowhere(
    context: Double, root: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "a/same", MONDAY, b"inside")
    put(tmp_path / "outside", "same", MONDAY, b"outside")
    whole = Taking.remove

    def swapped(self: Taking) -> Iterator[None]:
        (root / "a").rename(root / "b")
        (root / "a").symlink_to(tmp_path / "outside")
        yield from whole(self)  # type: ignore[misc]

    monkeypatch.setattr(Taking, "remove", swapped)
    counts = await run(context, MONDAY + timedelta(days=8), root)

    assert (counts["archived"], counts["failed_files"]) == (1, 1)
    assert (tmp_path / "outside" / "same").read_bytes() == b"outside"
    assert (root / "b" / "same").read_bytes() == b"inside"


async def test_every_name_of_a_hard_link_is_a_file_of_its_own(context: Double, root: Path, folder: Path) -> None:
    one = put(root, "one", MONDAY)
    (root / "two").hardlink_to(one)
    before = contents(root)

    counts = await run(context, MONDAY + timedelta(days=8), root)

    assert (counts["archived"], counts["changed"], list(root.iterdir())) == (2, 0, [])
    assert unpacked(folder) == before


async def test_only_what_was_collected_is_archived_from_where_sessions_are_collected(
    context: Double, tmp_path: Path, folder: Path
) -> None:
    context.settings = context.settings.model_copy(update={"claude_projects": tmp_path / "projects"})
    read, unread, other = (write(tmp_path / "projects", line(), name=f"{name}.jsonl") for name in ("a", "b", "c"))
    await collect_sessions(CollectParams(), context.as_context())
    write(tmp_path / "projects", line(), line(), name="b.jsonl")
    for path in (read, unread, other):
        seen = path.stat()
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    later = datetime.now(UTC).date() + timedelta(days=9)

    counts = await run(context, later)
    await collect_sessions(CollectParams(), context.as_context())
    after = await run(context, later)

    assert (counts["archived"], counts["uncollected"]) == (2, 1)
    assert (after["archived"], after["uncollected"]) == (1, 0)
    collected = await context.resources["memory"].messages.count_documents({})
    assert (collected, len(unpacked(folder))) == (5, 3)


async def test_roots_in_roots_and_the_archives_themselves_are_no_trouble(
    context: Double, root: Path, tmp_path: Path
) -> None:
    put(root, "a/b.jsonl", MONDAY)
    inside = root / "archives"

    first = await run(context, MONDAY + timedelta(days=8), roots=(root, root / "a", root), folder=inside)
    put(inside, "daily/2026-02-02.tar.xz", MONDAY, (inside / "daily/2026-02-02.tar.xz").read_bytes())
    again = await run(context, MONDAY + timedelta(days=20), roots=(root,), folder=inside)

    assert (first["archived"], first["files"]) == (1, 1)
    assert (again["archived"], again["files"], again["merged"]) == (0, 0, 1)
    with pytest.raises(ConfigError, match="where the archives are"):
        await run(context, MONDAY, roots=(inside / "weekly",), folder=inside)


async def test_nothing_to_do_is_no_trouble(context: Double, root: Path, folder: Path, tmp_path: Path) -> None:
    empty = await run(context, MONDAY, root)
    missing = await run(context, MONDAY, tmp_path / "nowhere")
    unset = await run(context, MONDAY)

    assert set(empty.values()) == {0}
    assert (missing["missing_roots"], unset["missing_roots"]) == (1, 1)
    assert archives(folder) == []


async def test_a_dry_run_counts_and_touches_nothing(
    context: Double, root: Path, folder: Path, memory: Database
) -> None:
    put(root, "a.jsonl", MONDAY)
    put(root, "b.md", MONDAY)

    counts = await run(context, MONDAY + timedelta(days=20), root, dry_run=True, pattern="*.jsonl")

    assert (counts["files"], counts["archived"], counts["written"]) == (1, 1, 1)
    assert len(contents(root)) == 2
    assert not folder.exists()
    assert await memory.list_collection_names() == []


# -- while it works ----------------------------------------------------------------------------------------------------


async def test_a_file_that_grows_while_it_is_read_is_left_for_later(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grows, stays = put(root, "grows", MONDAY), put(root, "stays", MONDAY)
    whole = members.spooled

    def growing(file: Any, size: int, spool: Path) -> Any:
        answer = yield from whole(file, size, spool)
        if file.name and os.fstat(file.fileno()).st_ino == grows.stat().st_ino:
            with grows.open("ab") as more:
                more.write(b"more")
        return answer

    monkeypatch.setattr(sources, "spooled", growing)
    counts = await run(context, MONDAY + timedelta(days=8), root)

    assert (counts["archived"], counts["changed"]) == (1, 1)
    assert grows.read_bytes().endswith(b"more")
    assert not stays.exists()
    assert len(unpacked(folder)) == 1


async def test_a_file_that_changes_between_reading_and_removal_is_kept(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = put(root, "written", MONDAY, b"old content")
    disguised = put(root, "disguised", MONDAY, b"old content")
    whole = Taking.remove

    def changed(self: Taking) -> Iterator[None]:
        written.write_bytes(b"new, larger content")
        put(root, "disguised", MONDAY, b"new content")  # the same size, and the same time
        yield from whole(self)  # type: ignore[misc]

    monkeypatch.setattr(Taking, "remove", changed)
    counts = await run(context, MONDAY + timedelta(days=8), root)
    monkeypatch.undo()
    assert (counts["archived"], counts["changed"]) == (2, 2)
    assert (written.read_bytes(), disguised.read_bytes()) == (b"new, larger content", b"new content")

    await run(context, datetime.now(UTC).date() + timedelta(days=8), root)

    assert sorted(content for content, _ in unpacked(folder).values()) == [
        b"new content", b"new, larger content", b"old content", b"old content",
    ]  # fmt: skip
    assert list(root.iterdir()) == []


async def test_what_was_written_wrong_is_not_published_and_nothing_is_removed(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, memory: Database
) -> None:
    put(root, "a.jsonl", MONDAY, os.urandom(5000))
    before = contents(root)
    sync = os.fsync

    def rotten(descriptor: int) -> None:
        sync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".xz":
            os.pwrite(descriptor, b"rot", 600)

    monkeypatch.setattr(os, "fsync", rotten)
    with pytest.raises(NotWritten, match="nothing was removed"):
        await run(context, MONDAY + timedelta(days=8), root)
    monkeypatch.undo()

    assert (contents(root), list(folder.rglob("*.xz"))) == (before, [])
    state = await memory.maintenance_state.find_one({"_id": "sessions.archive"})
    assert state is not None
    assert "cannot be read back" in state["lastError"]
    await run(context, MONDAY + timedelta(days=8), root)
    state = await memory.maintenance_state.find_one({"_id": "sessions.archive"})
    assert state is not None
    assert (state["lastError"], state["lastSuccessAt"], state["counts"]["archived"]) == (None, context.now(), 1)


async def test_another_archive_in_the_place_of_the_one_that_was_written_is_noticed(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "a.jsonl", MONDAY)
    await run(context, MONDAY + timedelta(days=8), root)
    put(root, "b.jsonl", MONDAY + timedelta(days=1))
    sync = os.fsync

    def swapped(descriptor: int) -> None:
        sync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".xz":
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (folder / "daily/2026-02-02.tar.xz").read_bytes(), 0)

    monkeypatch.setattr(os, "fsync", swapped)
    with pytest.raises(NotWritten, match="is not what was written"):
        await run(context, MONDAY + timedelta(days=9), root)

    assert (len(contents(root)), archives(folder)) == (1, ["daily/2026-02-02.tar.xz"])


async def test_a_copy_that_rots_before_it_is_packed_is_not_published(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "a.jsonl", MONDAY, b"content")
    whole = members.pieces
    monkeypatch.setattr(packing, "pieces", lambda file, size: (piece.upper() for piece in whole(file, size)))

    with pytest.raises(NotWritten, match="not those that SHA256SUMS names"):
        await run(context, MONDAY + timedelta(days=8), root)

    assert (len(contents(root)), archives(folder)) == (1, [])


async def test_a_cancelled_run_stops_between_archives_and_the_next_goes_on(
    context: Double, root: Path, folder: Path
) -> None:
    for number in range(16):
        put(root, f"{number}.jsonl", MONDAY + timedelta(days=number), os.urandom(100))
    before = contents(root)
    now = MONDAY + timedelta(days=100)
    stops, left = 0, set()

    while True:
        context.checkpoints, context.stop_after = 0, stops
        try:
            await run(context, now, root)
            break
        except asyncio.CancelledError:
            left.add(len(archives(folder)))
            assert not list(folder.rglob(".draft-*"))
            assert {**unpacked(folder, merging=True), **contents(root)} == before
        stops += 6

    assert len(left) > 3
    assert archives(folder) == ["monthly/2026-02.tar.xz"]
    assert unpacked(folder) == before


async def test_two_runs_at_once_are_one_and_a_killed_one_locks_nobody_out(
    context: Double, root: Path, folder: Path, memory: Database
) -> None:
    put(root, "a.jsonl", MONDAY)
    (folder / "daily").mkdir(parents=True)
    (folder / "daily" / ".draft-2026-02-02.tar.xz").write_bytes(b"half")
    (folder / "daily" / "README").write_bytes(b"mine")

    with FolderLock(folder):
        skipped = await run(context, MONDAY + timedelta(days=8), root)
    assert (skipped["skipped"], skipped["archived"]) == (1, 0)
    assert await memory.list_collection_names() == []
    both = await asyncio.gather(*(run(context, MONDAY + timedelta(days=8), root) for _ in range(2)))

    assert sorted((each["skipped"], each["archived"]) for each in both) == [(0, 1), (1, 0)]
    assert sorted(path.name for path in (folder / "daily").iterdir()) == ["2026-02-02.tar.xz", "README"]


# -- what fails --------------------------------------------------------------------------------------------------------


async def test_too_full_a_disk_is_told_before_anything_is_written(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "a.jsonl", MONDAY, bytes(10_000_000))
    monkeypatch.setattr(disk, "free_bytes", lambda _: 70_000_000)

    with pytest.raises(NotEnoughSpace, match=r"daily/2026-02-02 may need 83\.1 MiB .* 66\.8 MiB are free; make room"):
        await run(context, MONDAY + timedelta(days=8), root)

    assert (len(contents(root)), archives(folder)) == (1, [])


async def test_a_disk_that_becomes_full_loses_nothing(context: Double, root: Path, folder: Path) -> None:
    put(root, "a.jsonl", MONDAY, os.urandom(300_000))
    put(root, "b.jsonl", MONDAY + timedelta(days=1), os.urandom(300_000))
    before = contents(root)
    await run(context, MONDAY + timedelta(days=9), root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(NotEnoughSpace, match="became full while weekly/2026-W06 was written; make room"):
            await run(context, MONDAY + timedelta(days=20), root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert archives(folder) == ["daily/2026-02-02.tar.xz", "daily/2026-02-03.tar.xz"]
    assert not list(folder.rglob(".draft-*"))

    await run(context, MONDAY + timedelta(days=20), root)
    assert (archives(folder), unpacked(folder)) == (["weekly/2026-W06.tar.xz"], before)


async def test_a_file_whose_copy_finds_no_room_does_not_pass_for_unreadable(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "a.jsonl", MONDAY)

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "spooled", full)
    with pytest.raises(NotEnoughSpace, match="became full"):
        await run(context, MONDAY + timedelta(days=8), root)


async def test_a_file_that_cannot_be_read_is_skipped_and_many_in_a_row_end_the_run(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        put(root, name, MONDAY)
    whole = blocking.open_below
    broken = {"b"}

    def broken_disk(at: Path, parts: tuple[str, ...]) -> Any:
        if parts[-1] in broken:
            raise OSError(errno.EIO, "Input/output error")
        return whole(at, parts)

    monkeypatch.setattr(sources, "open_below", broken_disk)
    with capture_logs() as logs:
        counts = await run(context, MONDAY + timedelta(days=8), root, max_failures_in_row=2)
    assert (counts["archived"], counts["failed_files"]) == (3, 1)
    assert [log["path"] for log in logs if log["event"] == "file.failed"] == [str(root / "b")]

    put(root, "c", MONDAY + timedelta(days=1))
    broken.add("c")
    with pytest.raises(CircuitOpen, match="2 files in a row failed"):
        await run(context, MONDAY + timedelta(days=9), root, max_failures_in_row=2)


async def test_a_damaged_archive_is_never_replaced_nor_removed_and_fails_the_run_after_all_the_rest(
    context: Double, root: Path, folder: Path
) -> None:
    for number in (0, 1, 7):
        put(root, f"{number}.jsonl", MONDAY + timedelta(days=number), os.urandom(2000))
        await run(context, MONDAY + timedelta(days=8 + number), root, weekly_after="100d")
    rotten = folder / "daily/2026-02-03.tar.xz"
    whole = rotten.read_bytes()
    rotten.write_bytes(whole[:1500] + b"rot" + whole[1503:])
    late = put(root, "late.jsonl", MONDAY + timedelta(days=1))

    with capture_logs() as logs, pytest.raises(ArchivesDamaged, match="2026-02-03"):
        await run(context, MONDAY + timedelta(days=30), root)

    assert archives(folder) == ["daily/2026-02-02.tar.xz", "daily/2026-02-03.tar.xz", "weekly/2026-W07.tar.xz"]
    assert late.exists()
    assert {log["archive"] for log in logs if log["event"] == "archive.damaged"} == {str(rotten)}
    rotten.write_bytes(whole)
    assert (await run(context, MONDAY + timedelta(days=30), root))["damaged"] == 0
    assert archives(folder) == ["weekly/2026-W06.tar.xz", "weekly/2026-W07.tar.xz"]
    assert len(unpacked(folder)) == 4


async def test_an_archive_that_is_brought_back_is_merged_into_what_was_made_without_it(
    context: Double, root: Path, folder: Path, tmp_path: Path
) -> None:
    for number in (0, 1, 8):
        put(root, f"{number}.jsonl", MONDAY + timedelta(days=number))
    before = contents(root)
    await run(context, MONDAY + timedelta(days=9), root)
    away = (folder / "daily/2026-02-02.tar.xz").rename(tmp_path / "away")
    await run(context, MONDAY + timedelta(days=80), root)
    assert (archives(folder), len(unpacked(folder))) == (["monthly/2026-02.tar.xz"], 2)

    away.rename(folder / "daily/2026-02-02.tar.xz")
    await run(context, MONDAY + timedelta(days=80), root)

    assert archives(folder) == ["monthly/2026-02.tar.xz"]
    assert unpacked(folder) == before


# -- how much ----------------------------------------------------------------------------------------------------------


async def test_memory_stays_flat(context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, "large", MONDAY, bytes(25_000_000))
    put(root, "small", MONDAY + timedelta(days=1))
    tracemalloc.start()

    await run(context, MONDAY + timedelta(days=20), root)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert archives(folder) == ["weekly/2026-W06.tar.xz"]
    assert peak < 20_000_000


async def test_more_files_than_are_held_at_once_are_all_archived(
    context: Double, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.sessions.archive.job.AT_ONCE", 3)
    monkeypatch.setattr(sources, "AT_ONCE", 3)
    monkeypatch.setattr(sources, "LOOKED_AT", 2)
    for number in range(11):
        put(root, f"{number:02}", MONDAY + timedelta(days=number % 4))
    before = contents(root)

    counts = await run(context, MONDAY + timedelta(days=15), root)

    assert (counts["archived"], list(root.iterdir())) == (11, [])
    assert unpacked(folder) == before
