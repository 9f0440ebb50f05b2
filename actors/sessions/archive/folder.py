"""The folder of archives: who may write in it, what is in it.

::

    <folder>/daily/2026-03-01.tar.xz    weekly/2026-W09.tar.xz    monthly/2026-02.tar.xz    yearly/2026.tar.xz

An archive that is being written is called ``.draft-…``; whoever holds the lock next removes what a crash left of it.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

from actors.maintenance.blocking import in_thread
from actors.maintenance.disk import sync_folder
from actors.maintenance.folder_lock import FolderLock
from actors.sessions.archive.members import DRAFT
from actors.sessions.archive.periods import Level, Period
from service.errors import NotFound
from service.settings import Settings

SUFFIX = ".tar.xz"


class Archives:
    """One archive for each period."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def at(cls, settings: Settings, folder: Path | None) -> "Archives":
        """Those of a task or a command that names its folder, or not."""
        return cls((folder or settings.data_dir / "archives").expanduser().absolute())

    def path(self, period: Period) -> Path:
        return self.folder / period.level / (period.name + SUFFIX)

    async def periods(self) -> list[Period]:
        """Those that have an archive, the finest first, in the order of time."""
        return await in_thread(lambda: [period for level in Level for period in self._periods(level)])

    def _periods(self, level: Level) -> Iterator[Period]:
        try:
            names = sorted(path.name for path in (self.folder / level).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            period = Period.parse(level, name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
            # Whatever else lies there is somebody else's.
            if period is not None and self.path(period).is_file() and not self.path(period).is_symlink():
                yield period

    async def get(self, name: str) -> Period:
        """One by its name: ``2026-W09``, or ``weekly/2026-W09``.

        Raises:
            NotFound: there is none; names those there are.
        """
        periods = await self.periods()
        for period in periods:
            if name in (period.name, str(period)):
                return period
        known = ", ".join(period.name for period in periods[-10:]) or "none"
        raise NotFound(f"no archive {name!r} in {self.folder}; there is {known}")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Hold the lock; leftovers of crashed runs are removed first.

        Raises:
            Conflict: another run holds it.
        """
        with await in_thread(FolderLock, self.folder):
            await in_thread(self._prepare)
            yield

    def _prepare(self) -> None:
        for level in Level:
            folder = self.folder / level
            folder.mkdir(mode=0o700, exist_ok=True)
            for path in folder.glob(f"{DRAFT}*"):
                path.unlink()
        sync_folder(self.folder)

    def draft(self, period: Period) -> Path:
        """Where to write its archive."""
        return self.folder / period.level / (DRAFT + period.name + SUFFIX)

    async def publish(self, period: Period) -> None:
        """Give the draft its name: from now on it is the archive, instead of one that was there."""
        await in_thread(self._publish, period)

    def _publish(self, period: Period) -> None:
        path = self.path(period)
        self.draft(period).replace(path)
        sync_folder(path.parent)

    async def remove(self, period: Period) -> None:
        await in_thread(self.path(period).unlink, missing_ok=True)


def holder(day: date, periods: set[Period]) -> Period:
    """The archive that a file of this day belongs into: the coarsest there is that covers it, else that of the day."""
    for level in reversed(Level):
        period = Period.of(level, day)
        if period in periods:
            return period
    return Period.of(Level.DAILY, day)
