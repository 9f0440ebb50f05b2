"""Write an archive: a tar in xz that is the same, byte for byte, for the same files.

Members are sorted by place. Kept: names, contents, permission bits, times of last change to the nanosecond. Not kept:
owners (0), links (each name is a file of its own), extended attributes.
"""

import lzma
import os
import tempfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from actors.maintenance.blocking import Steps
from actors.maintenance.tar import END, header, padding
from actors.maintenance.xz import PIECE_BYTES
from actors.sessions.archive.members import DRAFT, SUMS, Candidate, Content, Place, pieces, sum_line


@dataclass(slots=True)
class Packed:
    """What was written."""

    members: int = 0
    duplicates: int = 0
    """Candidates whose content was there already, under the same place."""
    bytes: int = 0
    """Before compression."""
    sums: str = ""
    """SHA-256 of ``SHA256SUMS``: it stands for all names and contents."""


def pack(draft: Path, candidates: Iterable[Candidate], preset: int) -> Steps[Packed]:
    """Write a new archive, durably.

    Args:
        candidates: sorted by place.
    """
    with draft.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        with (
            lzma.LZMAFile(file, "wb", preset=preset) as out,
            tempfile.TemporaryFile(dir=draft.parent, prefix=DRAFT) as sums,
        ):
            packing = _Packing(out, sums)
            for candidate in candidates:
                yield from packing.add(candidate)
            packed = packing.end()
        file.flush()
        os.fsync(file.fileno())
    return packed


class _Packing:
    def __init__(self, out: lzma.LZMAFile, sums: BinaryIO) -> None:
        self._out, self._sums = out, sums
        self._packed = Packed()
        self._all = sha256()
        self._place: Place | None = None
        self._held: list[str] = []
        """Hashes of the contents of this place, in the order of their numbers."""

    def add(self, candidate: Candidate) -> Steps[None]:
        again = candidate.place == self._place
        content = yield from candidate.take(hashed=again)
        if content is None:
            return
        with closing(content.file):
            if not again:
                self._place, self._held = candidate.place, []
            elif content.sha256 in self._held:
                self._packed.duplicates += 1
                return
            name = candidate.place.member(len(self._held) + 1)
            written = yield from self._write(name, content)
        # Of what was read from the source, if that was hashed: reading back then compares with it.
        digest = content.sha256 or written
        self._held.append(digest)
        line = sum_line(digest, name)
        self._sums.write(line)
        self._all.update(line)

    def _write(self, name: str, content: Content) -> Steps[str]:
        digest = sha256()
        self._out.write(header(name, size=content.size, mode=content.mode, mtime_ns=content.mtime_ns))
        for piece in pieces(content.file, content.size):
            self._out.write(piece)
            digest.update(piece)
            yield len(piece)
        self._out.write(padding(content.size))
        self._packed.members += 1
        self._packed.bytes += content.size
        return digest.hexdigest()

    def end(self) -> Packed:
        size = self._sums.tell()
        self._sums.seek(0)
        self._out.write(header(SUMS, size=size, mode=0o600, mtime_ns=0))
        while piece := self._sums.read(PIECE_BYTES):
            self._out.write(piece)
        self._out.write(padding(size) + END)
        self._packed.sums = self._all.hexdigest()
        return self._packed
