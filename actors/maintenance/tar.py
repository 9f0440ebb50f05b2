"""Tar as both ends of it use it here: the same bytes for the same files, and nothing but files and folders inside."""

import io
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

PERMISSIONS = 0o777
END = bytes(2 * tarfile.BLOCKSIZE)
_SECOND = 10**9


def header(name: str, *, size: int, mode: int, mtime_ns: int, folder: bool = False) -> bytes:
    """Of a file or a folder: no owner, no set-user bits; a time between two seconds is kept as PAX does."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    info.size = 0 if folder else size
    info.mode = mode & PERMISSIONS
    info.mtime = mtime_ns // _SECOND
    if mtime_ns % _SECOND:
        info.pax_headers = {"mtime": f"{Decimal(mtime_ns).scaleb(-9):f}"}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """What fills the last block of so long a file."""
    return bytes(-size % tarfile.BLOCKSIZE)


def mtime_ns(entry: tarfile.TarInfo) -> int:
    """To the nanosecond: as a float it would lose some."""
    exact = entry.pax_headers.get("mtime")
    return int(Decimal(exact).scaleb(9)) if exact is not None else int(entry.mtime) * _SECOND


def inside(entry: tarfile.TarInfo) -> tuple[str, ...] | None:
    """The path of a file or folder that stays below where it is unpacked; None for everything else."""
    parts = PurePosixPath(entry.name).parts
    if not (entry.isreg() or entry.isdir()) or not parts or parts[0] == "/" or ".." in parts:
        return None
    return parts


def open_stream(stream: io.BufferedIOBase) -> tarfile.TarFile:
    """For reading from begin to end; empty its ``members`` in each round, for it would remember every one."""
    return tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape")


class PieceStream(io.RawIOBase):
    """A file made of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        wanted = memoryview(buffer)
        taken = min(len(wanted), len(self._rest))
        wanted[:taken], self._rest = self._rest[:taken], self._rest[taken:]
        return taken
