"""Read a backup back: every file is hashed, decompressed, hashed again and counted."""

import hashlib
import lzma
import struct
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from actors.maintenance.blocking import Advance, Steps, in_steps, in_thread, open_below
from actors.maintenance.disk import forget_cached
from actors.maintenance.xz import decompress
from actors.sessions.backup.manifest import MANIFEST, SUMS, Backup, BackupDamaged, Member
from actors.sessions.backup.members import STEP_BYTES

SMALLEST_DOCUMENT = 5
LARGEST_DOCUMENT = 16 * 1024 * 1024 + 16 * 1024
"""What MongoDB itself allows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is not what the manifest says."""

    file: str
    problem: str


class _Wrong(BackupDamaged):
    """The text is the problem."""


async def verify(backup: Backup, advance: Advance) -> list[Problem]:
    """What is wrong with a backup whose manifest is in order."""
    problems = await verify_members(backup.folder, backup.manifest.members, advance)
    known = {MANIFEST, SUMS, *(member.file for member in backup.manifest.members)}
    files = await in_thread(lambda: sorted(_files(backup.folder)))
    return problems + [Problem(file, "is not in the manifest") for file in files if file not in known]


async def verify_members(folder: Path, members: Iterable[Member], advance: Advance) -> list[Problem]:
    """What is wrong with these members."""
    problems = []
    for member in members:
        problem = await in_steps(check_member(folder, member), advance)
        if problem is not None:
            problems.append(Problem(member.file, problem))
    return problems


def check_member(folder: Path, member: Member) -> Steps[str | None]:
    """What is wrong with a member, or None."""
    try:
        with open_below(folder, member.parts) as file:
            forget_cached(file)
            counted = _Counted()
            read = _Reading(file, member)
            for piece in read.pieces():
                if member.kind == "collection":
                    counted.add(piece)
                yield len(piece)
            read.check()
            if member.kind == "collection":
                counted.check(member.documents)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (lzma.LZMAError, EOFError) as error:
        return f"cannot be decompressed: {error}"
    except _Wrong as error:
        return str(error)
    return None


def contents(folder: Path, member: Member) -> Iterator[bytes]:
    """A member's content in pieces of at most 1 MiB, memory flat.

    Raises:
        BackupDamaged, OSError, lzma.LZMAError: it cannot be read; what was yielded before may be wrong.
    """
    with open_below(folder, member.parts) as file:
        reading = _Reading(file, member)
        yield from reading.pieces()
        reading.check()


class _Reading:
    """Reads a member piece by piece and sums it up on both sides of the decompressor."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._file, self._member = file, member
        self._outside, self._inside = hashlib.sha256(), hashlib.sha256()
        self._bytes = 0

    def pieces(self) -> Generator[bytes, None, None]:
        for piece in decompress(self._stored()) if self._member.compressed else self._stored():
            self._inside.update(piece)
            self._bytes += len(piece)
            if self._bytes > self._member.bytes:
                raise _Wrong(f"holds more than {self._member.bytes} bytes")
            yield piece

    def check(self) -> None:
        """After the last piece."""
        if self._outside.hexdigest() != self._member.file_sha256:
            raise _Wrong("the file is not the one that was written: its SHA-256 differs")
        if self._bytes != self._member.bytes or self._inside.hexdigest() != self._member.sha256:
            raise _Wrong("its content is not the one that was written: its SHA-256 differs")

    def _stored(self) -> Iterator[bytes]:
        while piece := self._file.read(STEP_BYTES):
            self._outside.update(piece)
            yield piece


class _Counted:
    """Counts the documents of a BSON stream that comes in pieces."""

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._count = 0

    def add(self, piece: bytes) -> None:
        self._count += sum(1 for _ in self._splitter.add(piece))

    def check(self, expected: int | None) -> None:
        if self._splitter.rest:
            raise _Wrong("its last document is cut")
        if self._count != expected:
            raise _Wrong(f"holds {self._count} documents, not {expected}")


class Splitter:
    """Cuts a BSON stream that comes in pieces into documents."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of the next document."""

    def add(self, piece: bytes) -> Iterator[bytes]:
        """The documents that are complete now. Exhaust it before the next piece."""
        data = self.rest + piece if self.rest else piece
        at = 0
        while at + 4 <= len(data):
            (length,) = struct.unpack_from("<i", data, at)
            if not SMALLEST_DOCUMENT <= length <= LARGEST_DOCUMENT:
                raise _Wrong(f"a document claims to have {length} bytes")
            if at + length > len(data):
                break
            if data[at + length - 1]:
                raise _Wrong(f"a document of {length} bytes does not end there")
            yield data[at : at + length]
            at += length
        self.rest = data[at:]


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()
