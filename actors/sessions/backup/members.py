"""A backup that is being written: each member is linked to the same content of the last backup, or compressed.

A source is first copied, uncompressed, into the draft's ``spool``: a database is read at its own pace, not at xz's,
which keeps the copy inside the time that the server can look back; and what has not changed is never compressed.
"""

import hashlib
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from actors.maintenance.blocking import Advance, Steps, in_steps, in_thread, open_below
from actors.sessions.backup.manifest import Backup, Kind, Member
from service.log_events import LogEvent

STEP_BYTES = 1024 * 1024
SPOOL = "spool"


class Draft:
    """The folder of a backup that nobody sees yet."""

    def __init__(self, folder: Path, previous: Backup | None, preset: int, advance: Advance, log: Any) -> None:
        self.folder, self._preset, self._log = folder, preset, log
        self.advance = advance
        self.members: list[Member] = []
        self._spooled = 0
        self._previous = previous
        self._known = {_content(member): member for member in previous.manifest.members} if previous else {}

    def spool(self) -> Path:
        """A new path to copy a source to, uncompressed."""
        self._spooled += 1
        return self.folder / SPOOL / str(self._spooled)

    async def add(
        self,
        spool: Path,
        file: str,
        kind: Kind,
        source: str,
        *,
        documents: int | None = None,
        entries: int | None = None,
    ) -> Member:
        """Make a member of a spooled file, which is removed. ``file`` says whether it is compressed."""
        digest, size = await in_steps(_hash(spool), self.advance)
        member = Member(
            file=file,
            kind=kind,
            source=source,
            bytes=size,
            sha256=digest,
            file_bytes=0,
            file_sha256="",
            documents=documents,
            entries=entries,
        )
        await in_thread((self.folder / file).parent.mkdir, parents=True, exist_ok=True)
        linked = await self._link(member)
        if linked is None:
            target = self.folder / file
            write = _compress(spool, target, self._preset) if member.compressed else _copy(spool, target)
            file_digest, file_size = await in_steps(write, self.advance)
            linked = member.model_copy(update={"file_sha256": file_digest, "file_bytes": file_size})
        await in_thread(spool.unlink)
        self.members.append(linked)
        return linked

    async def _link(self, member: Member) -> Member | None:
        """Share the file of the last backup that has the same content; None: there is none that can be trusted."""
        known = self._known.get(_content(member))
        if known is None or self._previous is None:
            return None
        old = self._previous
        try:
            digest, size = await in_steps(_hash_member(old.folder, known), self.advance)
            if (digest, size) != (known.file_sha256, known.file_bytes):
                self._log.warning(
                    LogEvent.MEMBER_DAMAGED, backup=old.manifest.id, file=known.file, fix="it is written again"
                )
                return None
            await in_thread(os.link, old.folder / known.file, self.folder / member.file, follow_symlinks=False)
        except OSError as error:
            # Gone, or a file system without links, or with no room for another one.
            self._log.info(LogEvent.MEMBER_UNLINKABLE, backup=old.manifest.id, file=known.file, error=str(error))
            return None
        return member.model_copy(
            update={"file_sha256": known.file_sha256, "file_bytes": known.file_bytes, "linked_from": old.manifest.id}
        )

    async def drop_after(self, count: int) -> None:
        """Forget all members but the first ``count``, and whatever is spooled: their target failed."""
        for member in self.members[count:]:
            await in_thread((self.folder / member.file).unlink, missing_ok=True)
        del self.members[count:]
        await in_thread(_empty, self.folder / SPOOL)


def _content(member: Member) -> tuple[str, int, bool]:
    return member.sha256, member.bytes, member.compressed


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _pieces(file: BinaryIO, digest: "hashlib._Hash") -> Steps[int]:
    size = 0
    while piece := file.read(STEP_BYTES):
        digest.update(piece)
        size += len(piece)
        yield len(piece)
    return size


def _hash(path: Path) -> Steps[tuple[str, int]]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = yield from _pieces(file, digest)
    return digest.hexdigest(), size


def _hash_member(folder: Path, member: Member) -> Steps[tuple[str, int]]:
    digest = hashlib.sha256()
    with open_below(folder, member.parts) as file:
        size = yield from _pieces(file, digest)
    return digest.hexdigest(), size


def _compress(source: Path, target: Path, preset: int) -> Steps[tuple[str, int]]:
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=preset)
    return _rewrite(source, target, compressor.compress, compressor.flush)


def _copy(source: Path, target: Path) -> Steps[tuple[str, int]]:
    return _rewrite(source, target, lambda piece: piece, lambda: b"")


def _rewrite(
    source: Path, target: Path, change: Callable[[bytes], bytes], end: Callable[[], bytes]
) -> Steps[tuple[str, int]]:
    """Answers hash and size of what was written, which is on the disk then."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("xb") as out:
        while True:
            piece = file.read(STEP_BYTES)
            written = change(piece) if piece else end()
            out.write(written)
            digest.update(written)
            size += len(written)
            if not piece:
                break
            yield len(piece)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest(), size
