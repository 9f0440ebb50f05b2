"""Tar as both ends of it use it here: the same bytes for the same files, and nothing but files and folders inside."""

import io
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Self, cast

PERMISSIONS = 0o777
END = bytes(2 * tarfile.BLOCKSIZE)
_SECOND = 10**9
_LARGEST_EXTRA = 64 * 1024
"""Bytes of a header before the header: room for any path that a system takes."""
_EXTRA = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_NEVER = (tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_SPARSE)
_LARGEST = 2**63
"""Bytes of a file: none is as long, but a header may say so."""
_FURTHEST = 10**11
"""Seconds from 1970, either way: more than three thousand years."""


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
    if not (entry.isreg() or entry.isdir()) or not parts or parts[0] == "/" or ".." in parts or "\0" in entry.name:
        return None
    return parts


def entries(stream: io.BufferedIOBase) -> Iterator[tuple[tarfile.TarInfo, tarfile.ExFileObject | None]]:
    """What a tar holds, from begin to end, and the content of each file; memory is bounded, whatever it holds.

    Raises:
        tarfile.TarError: it is none, or holds what is never written here.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry, encoding="utf-8", errors="surrogateescape") as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would remember every one
                possible = 0 <= entry.size < _LARGEST and -_FURTHEST < entry.mtime < _FURTHEST
                if entry.issparse() or not possible:
                    raise tarfile.ReadError(f"{entry.name[:200]!r} is sparse, or of an impossible size or time")
                # Headers before the header may say one size for the content and another for the way to the next header:
                # the library would look for that behind the end of the tar, for years.
                if entry.isreg() and tar.offset - entry.offset_data != entry.size + -entry.size % tarfile.BLOCKSIZE:
                    raise tarfile.ReadError(f"{entry.name[:200]!r} has two sizes")
                yield entry, cast("tarfile.ExFileObject | None", tar.extractfile(entry) if entry.isreg() else None)
    except RecursionError:
        raise tarfile.ReadError("a header stands before a header before a header, and so on") from None
    except ValueError as error:  # where the library takes a text of a header for a number
        raise tarfile.ReadError(f"a header is wrong: {str(error)[:200]}") from None


class _Entry(tarfile.TarInfo):
    """Refuses what the library would read into memory as a whole, before it does."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        if entry.type in _NEVER or (entry.type in _EXTRA and not 0 <= entry.size <= _LARGEST_EXTRA):
            raise tarfile.ReadError(f"a header of the kind {entry.type!r} and {entry.size} bytes")
        return entry

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file")


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
