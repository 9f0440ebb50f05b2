"""Bring a SQLite file or a folder back from a backup, to a place that the caller gives."""

import io
import os
import secrets
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from actors.maintenance.blocking import Advance, Steps, in_steps, in_thread
from actors.maintenance.tar import PERMISSIONS, PieceStream, entries, inside
from actors.sessions.backup.manifest import Backup, BackupDamaged, Kind, Member
from actors.sessions.backup.members import STEP_BYTES
from actors.sessions.backup.verify import contents, verify_members
from service.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class RestoredFiles:
    """What was brought back."""

    path: str
    files: int
    bytes: int


async def restore_files(
    backup: Backup, kind: Kind, source: str, into: Path, *, force: bool = False, advance: Advance
) -> RestoredFiles:
    """Restore the SQLite file or the folder that a backup calls ``source`` as ``into``; it appears complete, or not.

    Args:
        force: replace a file; a folder is never replaced.

    Raises:
        NotFound: the backup does not hold it.
        Conflict: there is something at ``into``.
        BackupDamaged: the member is not what was written.
        OSError: it cannot be written.
    """
    held = [member for member in backup.manifest.members if member.kind == kind]
    member = next((each for each in held if each.source == source), None)
    if member is None:
        known = ", ".join(each.source for each in held) or "none"
        raise NotFound(f"backup {backup.manifest.id} holds no {kind} {source!r}; it holds {known}")
    await in_thread(_refuse_taken, into, kind, force)
    problems = await verify_members(backup.folder, [member], advance)
    if problems:
        raise BackupDamaged(f"backup {backup.manifest.id} is damaged, nothing was restored: {problems[0].problem}")
    write = _write_file if kind == "sqlite" else _unpack
    files = await in_steps(write(backup.folder, member, into), advance)
    return RestoredFiles(str(into), files, member.bytes)


def _refuse_taken(into: Path, kind: Kind, force: bool) -> None:
    if os.path.lexists(into) and not (force and kind == "sqlite" and into.is_file()):
        raise Conflict(f"there is something at {into}" + ("; use --force to replace it" if kind == "sqlite" else ""))


def _draft(into: Path) -> Path:
    into.parent.mkdir(parents=True, exist_ok=True)
    return into.parent / f".{into.name[:100]}.{secrets.token_hex(4)}"


def _write_file(folder: Path, member: Member, into: Path) -> Steps[int]:
    draft = _draft(into)
    try:
        with draft.open("xb") as out:
            os.fchmod(out.fileno(), 0o600)
            for piece in contents(folder, member):
                out.write(piece)
                yield len(piece)
            out.flush()
            os.fsync(out.fileno())
        # Logs of the file that was here before would be played into the new one.
        for suffix in ("-wal", "-shm", "-journal"):
            into.with_name(into.name + suffix).unlink(missing_ok=True)
        draft.replace(into)
    finally:
        draft.unlink(missing_ok=True)
    return 1


def _unpack(folder: Path, member: Member, into: Path) -> Steps[int]:
    """Our own way out of a tar: only files and folders, only below ``into``, whatever the entries say."""
    draft = _draft(into)
    draft.mkdir(mode=0o700)
    files = 0
    folders: list[tuple[Path, int, float]] = []  # no more of an entry: its headers may be long
    try:
        stream = io.BufferedReader(PieceStream(contents(folder, member)), STEP_BYTES)
        for entry, content in entries(stream):
            parts = inside(entry)
            if parts is None:
                raise BackupDamaged(f"{member.file} holds {entry.name[:200]!r}, not a file or folder inside it")
            path = draft.joinpath(*parts)
            if content is None:
                path.mkdir(mode=0o700)
                folders.append((path, entry.mode & PERMISSIONS, entry.mtime))
                continue
            with path.open("xb") as out:
                while piece := content.read(STEP_BYTES):
                    out.write(piece)
                    yield len(piece)
                os.fchmod(out.fileno(), entry.mode & PERMISSIONS)
            os.utime(path, (entry.mtime, entry.mtime))
            files += 1
        # At the end, innermost first: a read-only folder takes no files, and each file moves its folder's time.
        for path, mode, mtime in reversed(folders):
            path.chmod(mode)
            os.utime(path, (mtime, mtime))
        draft.rename(into)
    except tarfile.TarError as error:
        raise BackupDamaged(f"{member.file} is no tar: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return files
