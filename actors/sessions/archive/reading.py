"""Read an archive from begin to end, member by member; what is wrong with it is told, at the latest at its end."""

import io
import lzma
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import DecimalException
from hashlib import sha256
from pathlib import Path

from actors.maintenance.blocking import Steps
from actors.maintenance.disk import forget_cached
from actors.maintenance.tar import PERMISSIONS, PieceStream, entries, inside, mtime_ns
from actors.maintenance.xz import PIECE_BYTES, decompress
from actors.sessions.archive.members import SUMS, Content, Place, Readable, pieces, place_of, spooled, sum_line
from service.errors import VergerError


class ArchiveDamaged(VergerError):
    """An archive is not what was written."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A member, readable until the next one is asked for."""

    name: str
    place: Place
    size: int
    mode: int
    mtime_ns: int
    file: "_Hashed"
    spool: Path

    @property
    def shown(self) -> str:
        """Its name for people: bytes that are no UTF-8 are written as ``\\xff``."""
        return self.name.encode(errors="surrogateescape").decode(errors="backslashreplace")

    def take(self, *, hashed: bool) -> Steps[Content | None]:
        """See ``Candidate``."""
        file: Readable = self.file
        digest = None
        if hashed:
            file, _, digest = yield from spooled(self.file, self.size, self.spool)
        return Content(self.size, self.mode, self.mtime_ns, file, digest)


class Reading:
    """One pass through an archive. ``sums`` and ``members`` are known after it."""

    def __init__(self, path: Path, spool: Path | None = None) -> None:
        """``spool``: a folder for copies of large members; not needed by those who only read."""
        self.path, self._spool = path, spool or path.parent
        self.members = 0
        self.sums = ""
        """SHA-256 of ``SHA256SUMS``."""
        self._all = sha256()
        self._last: Place | None = None
        self._number = 0
        """How many contents of that place there have been."""

    def files(self) -> Generator[ArchivedFile, None, None]:
        """Every member.

        Raises:
            ArchiveDamaged: the archive is not what was written. So does reading a member.
        """
        with self.telling(), self.path.open("rb") as file:
            forget_cached(file)
            stream = io.BufferedReader(PieceStream(decompress(iter(lambda: file.read(PIECE_BYTES), b""))), PIECE_BYTES)
            for entry, content in entries(stream):
                if content is None or self.sums:
                    raise self._damaged(f"{entry.name[:200]!r} is no member of an archive")
                if entry.name == SUMS:
                    self._end(content, entry.size)
                else:
                    yield from self._member(entry, content)
            if not self.sums:
                raise self._damaged("it ends too early")
            while rest := stream.read(PIECE_BYTES):
                if rest.strip(b"\0"):
                    raise self._damaged("something follows after its end")

    def _member(self, entry: tarfile.TarInfo, content: Readable) -> Iterator[ArchivedFile]:
        parts = inside(entry)
        place = place_of(parts) if parts is not None else None
        number = self._number + 1 if place == self._last else 1
        name = "/".join(parts or ())
        if place is None or (self._last is not None and place < self._last) or name != place.member(number):
            raise self._damaged(f"{entry.name[:200]!r} is no member of an archive, or not in its place")
        hashed = _Hashed(self, content)
        yield ArchivedFile(name, place, entry.size, entry.mode & PERMISSIONS, mtime_ns(entry), hashed, self._spool)
        for _ in pieces(hashed, entry.size):
            pass
        self._last, self._number = place, number
        self.members += 1
        self._all.update(sum_line(hashed.digest.hexdigest(), name))

    def _end(self, content: Readable, size: int) -> None:
        said = sha256()
        for piece in pieces(content, size):
            said.update(piece)
        if said.hexdigest() != self._all.hexdigest():
            raise self._damaged(f"its members are not those that {SUMS} names")
        self.sums = said.hexdigest()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Whatever reading may raise becomes an ArchiveDamaged."""
        try:
            yield
        except lzma.LZMAError as error:
            raise self._damaged(f"it cannot be decompressed: {error}") from error
        except (tarfile.TarError, EOFError, DecimalException, UnicodeError) as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise self._damaged(f"it cannot be read: {error.strerror or error}") from error

    def _damaged(self, problem: str) -> ArchiveDamaged:
        return ArchiveDamaged(self.path, problem)


class _Hashed:
    """A member's content, summed up by whoever reads it."""

    def __init__(self, reading: Reading, content: Readable) -> None:
        self._reading, self._content = reading, content
        self.digest = sha256()

    def read(self, size: int, /) -> bytes:
        with self._reading.telling():
            piece = self._content.read(size)
        self.digest.update(piece)
        return piece

    def close(self) -> None:
        """Nothing: it is part of the archive."""


def read_back(path: Path) -> Steps[Reading]:
    """Read all of an archive; in small steps.

    Raises:
        ArchiveDamaged: it is not what was written.
    """
    reading = Reading(path)
    for member in reading.files():
        for piece in pieces(member.file, member.size):
            yield len(piece)
    return reading
