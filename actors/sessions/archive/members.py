"""What an archive is made of.

A member is called ``<day>/<path>``: the day (UTC) of its last change, and the absolute path of the file. So the same
file of two days is two members in every archive that is merged later. Should one path hold two contents with times of
the same day, the second is ``<day>.2/<path>``, and so on; the same content is never kept twice.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from actors.maintenance.blocking import Steps
from actors.maintenance.xz import PIECE_BYTES

SUMS = "SHA256SUMS"
"""The last member: of all others, as ``sha256sum`` writes and checks them."""
DRAFT = ".draft-"
"""How names begin of what is being written."""
IN_MEMORY = 8 * 1024 * 1024
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.([1-9]\d*))?")


class Place(NamedTuple):
    """Where a file was, and on which day it was changed last. Archives are sorted by it."""

    day: str
    path: str

    def member(self, number: int) -> str:
        """The name of its so-manieth content, from 1."""
        return f"{self.day}/{self.path}" if number == 1 else f"{self.day}.{number}/{self.path}"


def place_of(parts: tuple[str, ...]) -> Place | None:
    """Of a member with this name; None if it is none of an archive."""
    named = _DAY.fullmatch(parts[0])
    if named is None or len(parts) < 2:
        return None
    try:
        return Place(date.fromisoformat(named[1]).isoformat(), "/".join(parts[1:]))
    except ValueError:
        return None


class Readable(Protocol):
    """As much of a file as is needed here."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Content:
    """A file about to be packed, by one who closes it."""

    size: int
    mode: int
    mtime_ns: int
    file: Readable
    """Yields exactly so many bytes."""
    sha256: str | None = None
    """None: known when it has been read."""


class Candidate(Protocol):
    """What may become a member."""

    @property
    def place(self) -> Place: ...

    def take(self, *, hashed: bool) -> Steps[Content | None]:
        """Its content; None if it is not to be had after all. Before the next candidate is asked for.

        Args:
            hashed: its hash is wanted beforehand.
        """


def sum_line(digest: str, name: str) -> bytes:
    """A line of ``SHA256SUMS``."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    line = f"{digest}  {escaped}\n"
    return ("\\" + line if escaped != name else line).encode(errors="surrogateescape")


def pieces(file: Readable, size: int) -> Iterator[bytes]:
    """At most so many bytes."""
    while size and (piece := file.read(min(PIECE_BYTES, size))):
        size -= len(piece)
        yield piece


def spooled(file: Readable, size: int, folder: Path) -> Steps[tuple[IO[bytes], int, str]]:
    """A copy of at most so many bytes that nobody can change any more, their number and their hash.

    A large one lies in a nameless file in the folder.
    """
    digest, copied = sha256(), 0
    copy = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(folder), prefix=DRAFT)  # noqa: SIM115
    try:
        for piece in pieces(file, size):
            copy.write(piece)
            digest.update(piece)
            copied += len(piece)
            yield len(piece)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy, copied, digest.hexdigest()
