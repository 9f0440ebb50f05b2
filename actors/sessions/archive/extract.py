"""Bring the files of an archive back, into a new folder."""

import os
import secrets
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from actors.maintenance.blocking import Steps
from actors.maintenance.disk import MARGIN_BYTES, NotEnoughSpace, free_bytes, shown, sync_folder
from actors.sessions.archive.members import pieces
from actors.sessions.archive.reading import ArchivedFile, Reading
from service.errors import Conflict


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was brought back."""

    files: int
    bytes: int


def extract(archive: Path, into: Path, match: str = "*") -> Steps[Extracted]:
    """Unpack an archive as ``into/<day>/<path>``; it appears when all of the archive was read and in order, or not.

    Only files are made, only below ``into``, whatever the archive says.

    Args:
        match: only members with such a name; ``*`` also stands for slashes.

    Raises:
        Conflict: there is something at ``into``.
        ArchiveDamaged: the archive is not what was written.
        NotEnoughSpace: the disk would be full: a small archive may hold a lot.
        OSError: it cannot be written.
    """
    if os.path.lexists(into):
        raise Conflict(f"there is something at {into}")
    into.parent.mkdir(parents=True, exist_ok=True)
    draft = into.parent / f".{into.name[:100]}.{secrets.token_hex(4)}"
    draft.mkdir(mode=0o700)
    files = size = 0
    try:
        for member in Reading(archive).files():
            if fnmatchcase(member.name, match):
                _check_room(member, into.parent)
                yield from _write(member, draft / member.name)
                files += 1
                size += member.size
        draft.rename(into)
        sync_folder(into.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Extracted(files, size)


def _check_room(member: ArchivedFile, folder: Path) -> None:
    free = free_bytes(folder)
    if free < member.size + MARGIN_BYTES:
        raise NotEnoughSpace(f"{member.shown} has {shown(member.size)}, and {shown(free)} are free in {folder}")


def _write(member: ArchivedFile, path: Path) -> Steps[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        for piece in pieces(member.file, member.size):
            out.write(piece)
            yield len(piece)
        os.fchmod(out.fileno(), member.mode)
    os.utime(path, ns=(member.mtime_ns, member.mtime_ns))
