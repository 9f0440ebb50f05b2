"""Archives read back: what was harmed is found, and what others made reaches nothing."""

import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.maintenance.tar import END, header, padding
from actors.sessions.archive.extract import extract
from actors.sessions.archive.job import ArchiveParams
from actors.sessions.archive.members import SUMS, sum_line
from actors.sessions.archive.pack import pack
from actors.sessions.archive.reading import ArchiveDamaged, read_back
from actors.sessions.archive.sources import OldFile, Search, Taking, Troubles
from service.errors import Conflict
from tests.actors.sessions.archived import MONDAY, drain, put


def unexpected(path: str, error: OSError) -> None:
    raise AssertionError(path) from error


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in "abc":
        put(tmp_path / "root", name, MONDAY, os.urandom(200))
    troubles = Troubles(unexpected)
    search = Search([tmp_path / "root"], tmp_path / "archives", "*", MONDAY.replace(year=2027), troubles)
    files: list[OldFile] = drain(search.oldest(None))
    packed = drain(pack(tmp_path / "archive", Taking(tmp_path, troubles).candidates(files), 0))
    assert packed.members == len(files) == 3
    return tmp_path / "archive"


def test_a_flipped_byte_anywhere_is_found(archive: Path) -> None:
    content = archive.read_bytes()
    sums = drain(read_back(archive)).sums
    missed = []

    for at in range(0, len(content), 3):
        archive.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
        try:
            missed.append((at, drain(read_back(archive)).sums == sums))
        except ArchiveDamaged:
            continue

    assert missed == []


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda raw: raw[:-20], "ends too early"),
        (lambda raw: raw + b"more", "follows after its end"),
        (lambda raw: raw * 2, "follows after its end"),
        (lambda raw: b"", "ends too early"),
        (lambda raw: b"not xz at all", "cannot be decompressed"),
        (lambda raw: lzma.compress(lzma.decompress(raw)[:2048]), "ends too early"),
        (lambda raw: lzma.compress(lzma.decompress(raw)[:1700]), "unexpected end of data"),
        (lambda raw: lzma.compress(lzma.decompress(raw) + b"more" * 5000), "follows after its end"),
        (lambda raw: lzma.compress(lzma.decompress(raw)[2048:]), "not those that SHA256SUMS names"),
        (lambda raw: lzma.compress(b"no tar" * 1000), "invalid header"),
    ],
)
def test_what_happened_to_an_archive_is_told(archive: Path, harm: Callable[[bytes], bytes], problem: str) -> None:
    archive.write_bytes(harm(archive.read_bytes()))

    with pytest.raises(ArchiveDamaged, match=problem) as told:
        drain(read_back(archive))

    assert str(archive) in str(told.value)


def test_an_archive_that_is_gone_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(ArchiveDamaged, match="cannot be read: No such file"):
        drain(read_back(tmp_path / "nothing"))


DAY = "2026-02-02"


@pytest.mark.parametrize(
    "entry",
    [
        {"name": f"{DAY}/../../outside"},
        {"name": "../outside"},
        {"name": "/tmp/outside"},
        {"name": f"{DAY}"},
        {"name": "outside"},
        {"name": "2026-02-30/x"},
        {"name": f"{DAY}.0/x"},
        {"name": f"{DAY}/link", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": f"{DAY}/link", "type": tarfile.LNKTYPE, "linkname": "../secret"},
        {"name": f"{DAY}/device", "type": tarfile.CHRTYPE},
        {"name": f"{DAY}/fifo", "type": tarfile.FIFOTYPE},
        {"name": f"{DAY}/folder", "type": tarfile.DIRTYPE},
    ],
)
def test_an_archive_that_was_not_made_here_cannot_reach_outside(tmp_path: Path, entry: dict[str, Any]) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(entry["name"])
        for field, value in entry.items():
            setattr(info, field, value)
        archive.addfile(info, io.BytesIO())
    path = tmp_path / "archive"
    path.write_bytes(lzma.compress(stream.getvalue()))

    with pytest.raises(ArchiveDamaged, match="no member of an archive"):
        drain(extract(path, tmp_path / "into"))

    assert [each.name for each in tmp_path.iterdir()] == ["archive"]


def made(path: Path, *names: str) -> None:
    raw, sums = b"", b""
    for name in names:
        raw += header(name, size=0, mode=0o600, mtime_ns=0)
        sums += sum_line(hashlib.sha256().hexdigest(), name)
    raw += header(SUMS, size=len(sums), mode=0o600, mtime_ns=0) + sums + padding(len(sums)) + END
    path.write_bytes(lzma.compress(raw))


def test_members_that_are_not_in_their_order_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "sorted", f"{DAY}/a", f"{DAY}.2/a", f"{DAY}/b", "2026-02-03/a")
    made(tmp_path / "unsorted", f"{DAY}/b", f"{DAY}/a")

    assert drain(read_back(tmp_path / "sorted")).members == 4
    with pytest.raises(ArchiveDamaged, match="not in its place"):
        drain(read_back(tmp_path / "unsorted"))


@pytest.mark.parametrize(
    "names",
    [(f"{DAY}/a", f"{DAY}/a"), (f"{DAY}.2/a",), (f"{DAY}/a", f"{DAY}.3/a"), (f"{DAY}/a", f"{DAY}.2/b")],
    ids=str,
)
def test_contents_of_a_place_that_are_not_counted_from_one_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Two of one name would be in order for whoever reads them, and could never be extracted."""
    made(tmp_path / "archive", *names)

    with pytest.raises(ArchiveDamaged, match="not in its place"):
        drain(read_back(tmp_path / "archive"))


def test_extraction_takes_what_matches_and_never_writes_over_anything(archive: Path, tmp_path: Path) -> None:
    found = drain(extract(archive, tmp_path / "deep" / "into", "*/b"))

    [path] = [path for path in (tmp_path / "deep" / "into").rglob("*") if path.is_file()]
    assert (found.files, found.bytes, path.read_bytes()) == (1, 200, (tmp_path / "root" / "b").read_bytes())
    with pytest.raises(Conflict, match="there is something"):
        drain(extract(archive, tmp_path / "deep" / "into"))


def test_a_damaged_archive_is_not_extracted_at_all(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-30])

    with pytest.raises(ArchiveDamaged):
        drain(extract(archive, tmp_path / "into"))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "root"]


@pytest.mark.parametrize("params", [{"min_age": "-1d"}, {"weekly_after": "200y"}, {"preset": 10}, {"pattern": ""}])
def test_wrong_options_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ArchiveParams(**params)
