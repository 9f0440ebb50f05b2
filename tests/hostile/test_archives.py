"""Archives and backups that somebody else made: read in bounded memory, unpacked inside, or refused."""

import hashlib
import lzma
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings, strategies as st

from actors.maintenance.disk import NotEnoughSpace
from actors.maintenance.tar import END, header, padding
from actors.maintenance.xz import decompress
from actors.sessions.archive import extract as extracting
from actors.sessions.archive.extract import extract
from actors.sessions.archive.members import SUMS, sum_line
from actors.sessions.archive.reading import ArchiveDamaged, Reading, read_back
from actors.sessions.backup import restore_files
from actors.sessions.backup.manifest import BackupDamaged, Member
from tests.actors.sessions.archived import drain
from tests.hostile.child import limited
from tests.hostile.harnesses import tar

DAY = "2026-02-02"
GIB = 1024**3
MANY = settings(database=None, max_examples=150)


def extra(kind: bytes, size: int) -> bytes:
    """A header before the header, which claims to be so long."""
    info = tarfile.TarInfo("extra")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(**said: str) -> bytes:
    """A file with these PAX headers, byte for byte as they are given."""
    records = b""
    for name, value in said.items():
        text = f" {name.replace('_', '.')}={value}\n".encode()
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length += 1
        records += str(length).encode() + text
    return (
        extra(tarfile.XHDTYPE, len(records))
        + records
        + padding(len(records))
        + header(f"{DAY}/x", size=0, mode=0o600, mtime_ns=0)
    )


def sparse() -> bytes:
    """A file of a tebibyte that takes one block."""
    info = tarfile.TarInfo(f"{DAY}/x")
    info.type = tarfile.GNUTYPE_SPARSE
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[483:495] = b"\x80" + (1024 * GIB).to_bytes(11, "big")
    raw[148:156] = b"        "
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


ZEROS = bytes(1024 * 1024)


def squeezed(head: bytes, zeros: int) -> Iterator[bytes]:
    """An xz that is a ten-thousandth as long as what it holds."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=0)
    yield compressor.compress(head)
    for _ in range(zeros):
        yield compressor.compress(ZEROS)
    yield compressor.flush()


MIB = 1024 * 1024
NO_TAR = b"\xff" * 2048
BOMBS: dict[str, tuple[bytes, int]] = {
    "a PAX header of a gibibyte": (extra(tarfile.XHDTYPE, GIB), 64),
    "a name of a gibibyte": (extra(tarfile.GNUTYPE_LONGNAME, GIB), 64),
    "a header for all that follows": (extra(tarfile.XGLTYPE, GIB), 64),
    "a sparse file of a tebibyte": (sparse(), 1),
    "another sparse file": (pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize=str(1024 * GIB)), 1),
    "a sparse file by its map": (pax(GNU_sparse_map="0,1", GNU_sparse_size=str(1024 * GIB)), 1),
    "ten thousand headers before one": (pax(path="x")[:1024] * 10_000, 0),
    "a sparse size that is no number": (pax(GNU_sparse_realsize="x"), 0),
    "a sparse map that holds no numbers": (pax(GNU_sparse_map="a,b", GNU_sparse_size="1"), 0),
    "a time that is no number": (pax(mtime="NaN"), 0),
    "a time without end": (pax(mtime="Infinity"), 0),
    "a time of a million digits": (pax(mtime="1e999990"), 0),
    "a size below nothing": (pax(size="-512"), 0),
    "a size without end": (pax(size="9" * 30), 1),
    "two sizes, of which one is without end": (pax(GNU_sparse_realsize="0")[:1024] + pax(size=str(2**62)), 1),
    "a size that no float holds": (pax(size="9" * 400), 1),
    "a name with a NUL": (pax(path=f"{DAY}/a\0b"), 0),
    "a name that leads out": (pax(path=f"{DAY}/../../../outside"), 0),
    "no tar": (NO_TAR, 0),
}
"""What they begin with, and how many mebibytes of nothing follow."""


def test_a_bomb_is_refused_before_it_takes_memory_or_time() -> None:
    assert limited(refused_archives, seconds=60, megabytes=40) == dict.fromkeys(BOMBS, "refused")


def refused_archives() -> dict[str, str]:
    return {name: refused_archive(*bomb) for name, bomb in BOMBS.items()}


def refused_archive(head: bytes, zeros: int) -> str:
    with TemporaryDirectory() as folder:
        archive, into = Path(folder, "archive"), Path(folder, "into")
        with archive.open("wb") as file:
            for piece in squeezed(head, zeros):
                file.write(piece)
        try:
            drain(read_back(archive))
        except ArchiveDamaged:
            pass
        else:
            return "read"
        try:
            drain(extract(archive, into))
        except (ArchiveDamaged, NotEnoughSpace):
            pass
        else:
            return "extracted"
        return "refused" if [each.name for each in Path(folder).iterdir()] == ["archive"] else "left something"


def test_a_bomb_in_a_backup_is_refused_too() -> None:
    assert limited(refused_backups, seconds=60, megabytes=40) == dict.fromkeys(BOMBS, "refused")


def refused_backups() -> dict[str, str]:
    return {name: refused_backup(*bomb) for name, bomb in BOMBS.items()}


def refused_backup(head: bytes, zeros: int) -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder, "x.tar")
        with file.open("wb") as out:
            if head not in NO_TAR:
                out.write(header(DAY, size=0, mode=0o700, mtime_ns=0, folder=True))
            out.write(head)
            out.truncate(out.tell() + zeros * MIB)
        size = file.stat().st_size
        digest = file_hash(file)
        member = Member(
            file="x.tar", kind="directory", source="/x", bytes=size, sha256=digest, file_bytes=size, file_sha256=digest
        )
        try:
            drain(restore_files._unpack(Path(folder), member, Path(folder, "into")))
        except BackupDamaged:
            return "refused" if [each.name for each in Path(folder).iterdir()] == ["x.tar"] else "left something"
        return "restored"


def test_folders_with_long_headers_are_restored_in_flat_memory() -> None:
    assert limited(restored_folders, seconds=60, megabytes=64) == FOLDERS


FOLDERS = 2000


def restored_folders() -> int:
    with TemporaryDirectory() as folder:
        file = Path(folder, "x.tar.xz")
        digest, size = sha256(), 0
        compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=0)
        with file.open("wb") as out:
            for number in range(FOLDERS):
                long = pax(comment="x" * 60_000)[:-512]  # without the file that it is of
                raw = long + header(str(number), size=0, mode=0o700, mtime_ns=0, folder=True)
                raw += END if number == FOLDERS - 1 else b""
                digest.update(raw)
                size += len(raw)
                out.write(compressor.compress(raw))
            out.write(compressor.flush())
        member = Member(
            file=file.name,
            kind="directory",
            source="/x",
            bytes=size,
            sha256=digest.hexdigest(),
            file_bytes=file.stat().st_size,
            file_sha256=file_hash(file),
        )
        drain(restore_files._unpack(Path(folder), member, Path(folder, "into")))
        return len(list(Path(folder, "into").iterdir()))


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_small_archive_of_a_large_file_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = header(f"{DAY}/x", size=MIB * 32, mode=0o600, mtime_ns=0)
    with (tmp_path / "archive").open("wb") as file:
        for piece in squeezed(large, 32):
            file.write(piece)
    assert (tmp_path / "archive").stat().st_size < 200_000
    monkeypatch.setattr(extracting, "free_bytes", lambda _: MIB * 32)

    with pytest.raises(NotEnoughSpace, match="32.0 MiB are free"):
        drain(extract(tmp_path / "archive", tmp_path / "into"))

    assert [each.name for each in tmp_path.iterdir()] == ["archive"]


def test_a_bomb_of_xz_is_read_in_flat_memory() -> None:
    assert limited(read_all_of_it, seconds=120, megabytes=24) == 48 * MIB


def read_all_of_it() -> int:
    return sum(map(len, decompress(squeezed(b"", 48))))


@MANY
@given(
    kind=st.sampled_from([bytes([each]) for each in b"01234567xgLKSXDNVMA\0"]),
    name=st.text(max_size=30) | st.sampled_from([f"{DAY}/x", SUMS, "../x", "/etc/x", f"{DAY}/./x", "a\0b"]),
    size=st.integers(-(2**40), 2**40),
    mtime=st.integers(-(2**62), 2**62),
    mode=st.integers(0, 0o7777),
    rest=st.binary(max_size=600),
)
def test_any_member_is_read_or_refused(kind: bytes, name: str, size: int, mtime: int, mode: int, rest: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime, info.mode = kind, size, mtime, mode
    try:
        raw = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogatepass")
    except ValueError:
        return
    tar(raw + rest)


@MANY
@given(at=st.integers(0, 2047), bits=st.integers(1, 255), cut=st.integers(0, 3000))
def test_a_tar_that_was_tampered_with_is_damaged_whatever_was_changed(at: int, bits: int, cut: int) -> None:
    """Below the checksums of xz: whoever changes a tar can compress it again."""
    content = b"content"
    body = header(f"{DAY}/a", size=7, mode=0o600, mtime_ns=10**18 + 1) + content + padding(7)
    sums = sum_line(sha256(content).hexdigest(), f"{DAY}/a")
    raw = bytearray(body + header(SUMS, size=len(sums), mode=0o600, mtime_ns=0) + sums + padding(len(sums)) + END)
    raw[at] ^= bits
    del raw[len(raw) - min(cut, len(END)) :]
    with TemporaryDirectory() as folder:
        path = Path(folder, "archive")
        path.write_bytes(lzma.compress(bytes(raw), preset=0))
        reading = Reading(path)
        try:
            names = [member.name for member in reading.files()]
        except ArchiveDamaged:
            return
        assert names == [f"{DAY}/a"]
