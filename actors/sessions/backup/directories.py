"""Pack a folder into a tar that is the same, byte for byte, as long as the folder is.

Entries are sorted by name. Kept: names, contents, permission bits, times of last change (in seconds: a restored file
should not look newer than it is). Not kept: owners (0), links, devices, sockets, FIFOs, extended attributes. Symlinks
are neither followed nor kept, so that nothing outside the folder gets in.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from actors.maintenance.blocking import Steps, in_steps
from actors.maintenance.tar import END, header, padding
from actors.maintenance.tree import TreeEntry, walk
from actors.sessions.backup.manifest import COMPRESSED
from actors.sessions.backup.members import STEP_BYTES, Draft
from actors.sessions.backup.names import escape

FOLDER = "directories"
REPORTED = 20


@dataclass(slots=True)
class Packed:
    """What became of a folder."""

    entries: int = 0
    skipped: int = 0
    """Neither file nor folder."""
    problems: list[str] = field(default_factory=list)
    """Files that could not be read, or changed meanwhile; the first few."""
    failed: int = 0

    def skip(self, _path: str) -> None:
        self.skipped += 1

    def fail(self, path: str, problem: str) -> None:
        self.failed += 1
        if len(self.problems) < REPORTED:
            self.problems.append(f"{path}: {problem}")


async def copy_directory(source: Path, draft: Draft, leave_out: Path) -> Packed:
    """Add a folder to the draft, without ``leave_out`` (the backups themselves) should that lie in it.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    spool = draft.spool()
    packed = await in_steps(_pack(source, spool, leave_out), draft.advance)
    file = f"{FOLDER}/{escape(str(source))}.tar{COMPRESSED}"
    await draft.add(spool, file, "directory", str(source), entries=packed.entries)
    return packed


def measure(source: Path, leave_out: Path) -> int:
    """About how many bytes it will take, uncompressed."""
    return sum(1024 + each.seen.st_size for each in _walk_all(source, leave_out, Packed()))


def _walk_all(source: Path, leave_out: Path, packed: Packed) -> Iterator[TreeEntry]:
    return walk(
        source, leave_out, skipped=packed.skip, failed=lambda path, error: packed.fail(path, str(error.strerror))
    )


def _pack(source: Path, spool: Path, leave_out: Path) -> Steps[Packed]:
    packed = Packed()
    with spool.open("wb") as out:
        for each in _walk_all(source, leave_out, packed):
            if each.is_folder:
                out.write(_header(each.path, each.seen))
            else:
                opened = _open(each, packed)
                if opened is None:
                    continue
                with opened as file:
                    # Of the opened file: it may be another one by now.
                    seen = os.fstat(file.fileno())
                    out.write(_header(each.path, seen))
                    yield from _copy_content(file, out, seen.st_size, each.path, packed)
            packed.entries += 1
        out.write(END)
    return packed


def _open(entry: TreeEntry, packed: Packed) -> BinaryIO | None:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(entry.name, flags, dir_fd=entry.parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        packed.fail(entry.path, str(error.strerror))
        return None
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        packed.skipped += 1
        return None
    return file


def _header(path: str, seen: os.stat_result) -> bytes:
    whole = int(seen.st_mtime) * 10**9
    folder = stat.S_ISDIR(seen.st_mode)
    return header(path, size=seen.st_size, mode=seen.st_mode, mtime_ns=whole, folder=folder)


def _copy_content(file: IO[bytes], out: IO[bytes], size: int, path: str, packed: Packed) -> Steps[None]:
    """Exactly ``size`` bytes, as the header says, whatever becomes of the file meanwhile."""
    left = size
    while left:
        piece = file.read(min(STEP_BYTES, left))
        if not piece:
            packed.fail(path, f"lost {left} of its {size} bytes while it was read")
            piece = bytes(min(STEP_BYTES, left))
        out.write(piece)
        left -= len(piece)
        yield len(piece)
    out.write(padding(size))
