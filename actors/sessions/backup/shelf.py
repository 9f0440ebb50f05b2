"""The folder of backups: who may write in it, what is in it, what goes.

A backup that is being made is a folder ``.draft-…``, one that is being removed ``.gone-…``; both are invisible, and
whoever holds the lock next removes what a crash left of them.
"""

import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from actors.maintenance.blocking import in_thread
from actors.maintenance.disk import sync_folder
from actors.maintenance.folder_lock import FolderLock
from actors.sessions.backup.manifest import Backup, BackupDamaged, Manifest, Targets, read_backup, write_manifest
from actors.sessions.backup.members import SPOOL
from service.errors import Conflict, NotFound

LATEST = "latest"
DRAFT = ".draft-"
GONE = ".gone-"


class Shelf:
    """Backups, one folder each, named for the moment they were made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def backups(self) -> tuple[list[Backup], list[str]]:
        """Those whose manifest is in order, newest first, and what is wrong with the others."""
        return await in_thread(self._backups)

    def _backups(self) -> tuple[list[Backup], list[str]]:
        good, damaged = [], []
        for folder in self._folders():
            try:
                good.append(read_backup(folder))
            except BackupDamaged as error:
                damaged.append(str(error))
        good.sort(key=lambda backup: (backup.manifest.created_at, backup.manifest.id), reverse=True)
        return good, damaged

    def _folders(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if not path.name.startswith(".") and path.is_dir() and not path.is_symlink():
                yield path

    async def names(self) -> set[str]:
        """Of all backups, also the damaged ones."""
        return {folder.name for folder in await in_thread(lambda: list(self._folders()))}

    async def get(self, name: str) -> Backup:
        """One by its id, or ``latest``.

        Raises:
            NotFound: there is none; names those there are.
            BackupDamaged: its manifest is not in order.
        """
        backups, _ = await self.backups()
        if name == LATEST and backups:
            return backups[0]
        if name in await self.names():
            return await in_thread(read_backup, self.folder / name)
        known = ", ".join(backup.manifest.id for backup in backups[:10]) or "none"
        raise NotFound(f"no backup {name!r} in {self.folder}; there is {known}")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Hold the lock; leftovers of crashed runs are removed first.

        Raises:
            Conflict: another run holds it.
        """
        with await in_thread(FolderLock, self.folder):
            await in_thread(self._remove_leftovers)
            yield

    def _remove_leftovers(self) -> None:
        for path in self.folder.iterdir():
            if path.name.startswith((DRAFT, GONE)) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)

    @asynccontextmanager
    async def draft(self, name: str) -> AsyncIterator[Path]:
        """A folder that nobody sees; removed at the end, unless it was published."""
        folder = self.folder / (DRAFT + name)
        await in_thread(_make, folder)
        try:
            yield folder
        finally:
            await in_thread(shutil.rmtree, folder, ignore_errors=True)

    async def publish(self, folder: Path, manifest: Manifest) -> Backup:
        """Give a finished draft its name; from now on it is a backup."""
        return await in_thread(self._publish, folder, manifest)

    def _publish(self, folder: Path, manifest: Manifest) -> Backup:
        shutil.rmtree(folder / SPOOL)
        write_manifest(folder, manifest)
        for inner in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
            sync_folder(inner)
        named = self.folder / manifest.id
        if named.exists():
            raise Conflict(f"there is a backup {manifest.id} already")
        folder.rename(named)
        sync_folder(self.folder)
        return read_backup(named)

    async def remove(self, backup: Backup) -> None:
        await in_thread(self._remove, backup)

    def _remove(self, backup: Backup) -> None:
        # Half of a backup must never look like one.
        gone = self.folder / (GONE + backup.manifest.id)
        backup.folder.rename(gone)
        sync_folder(self.folder)
        shutil.rmtree(gone)


def covered(backups: Iterable[Backup], targets: Targets, day: datetime) -> Backup | None:
    """A backup made on this day (UTC) that holds all of the targets."""
    for backup in backups:
        made = backup.manifest.created_at
        if made.date() == day.date() and targets.keys() <= backup.manifest.targets.keys():
            return backup
    return None


def superfluous(backups: Sequence[Backup], keep: int) -> list[Backup]:
    """Those whose every target is held by at least ``keep`` newer ones, oldest first.

    Counted for each target: many backups of one thing never push out the last ones of another.

    Args:
        backups: newest first, all in order.
    """
    held: Counter[tuple[str, str]] = Counter()
    going = []
    for newer, backup in enumerate(backups):
        keys = backup.manifest.targets.keys()
        if newer >= keep and all(held[key] >= keep for key in keys):
            going.append(backup)
        held.update(keys)
    return going[::-1]


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / SPOOL).mkdir()
