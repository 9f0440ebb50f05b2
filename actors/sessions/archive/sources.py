"""The files that are archived: find the old ones, take their contents, remove those that are safe."""

import heapq
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from actors.maintenance.blocking import Steps, folder_below, open_below
from actors.maintenance.disk import FULL
from actors.maintenance.tree import walk
from actors.sessions.adapters.port import FoundFile
from actors.sessions.archive.members import Content, Place, spooled

AT_ONCE = 50_000
"""Files that are held in memory."""
LOOKED_AT = 2_000
"""Files between two places to stop."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Troubles:
    """What could not be archived; told as it happens."""

    failed: Callable[[str, OSError], None]
    skipped: int = 0
    """Neither file nor folder."""
    changed: int = 0

    def skip(self, _path: str) -> None:
        self.skipped += 1


@dataclass(frozen=True, slots=True)
class OldFile:
    """A file whose day is over for long enough."""

    place: Place
    found: FoundFile

    @property
    def day(self) -> date:
        return date.fromisoformat(self.place.day)


@dataclass(slots=True)
class Search:
    """Looks for old files below some roots."""

    roots: Sequence[Path]
    leave_out: Path
    pattern: str
    before: date
    """Of this day and later ones a file is not old."""
    troubles: Troubles
    looked_at: int = 0

    def oldest(self, after: Place | None) -> Steps[list[OldFile]]:
        """The oldest of those whose place comes after this one, sorted; no more than are held at once."""
        self.looked_at = 0
        found: list[OldFile] = []
        files = self._old(after)
        while some := list(islice(files, LOOKED_AT)):
            found += some
            if len(found) >= 2 * AT_ONCE:
                found = heapq.nsmallest(AT_ONCE, found, key=_place)
            yield 0
        return heapq.nsmallest(AT_ONCE, found, key=_place)

    def _old(self, after: Place | None) -> Iterator[OldFile]:
        for root in self.roots:
            try:
                for found in self._files(root):
                    self.looked_at += 1
                    day = _day(found.mtime_ns)
                    place = Place(day.isoformat(), str(root.joinpath(*found.parts))[1:])
                    if day < self.before and (after is None or place > after):
                        yield OldFile(place, found)
            except OSError as error:
                self.troubles.failed(str(root), error)

    def _files(self, root: Path) -> Iterator[FoundFile]:
        for entry in walk(root, self.leave_out, skipped=self.troubles.skip, failed=self.troubles.failed):
            if not entry.is_folder and fnmatchcase(entry.name, self.pattern):
                seen = entry.seen
                yield FoundFile(root, tuple(entry.path.split("/")), seen.st_size, seen.st_mtime_ns, seen.st_ino)


def _place(old: OldFile) -> Place:
    return old.place


def _day(mtime_ns: int) -> date:
    try:
        return (_EPOCH + timedelta(microseconds=mtime_ns // 1000)).date()
    except OverflowError:
        return date.min if mtime_ns < 0 else date.max


@dataclass(slots=True)
class Taking:
    """Takes files for one archive, and remembers what they looked like."""

    spool: Path
    troubles: Troubles
    taken: list[tuple[FoundFile, os.stat_result]] = field(default_factory=list)

    def candidates(self, files: Sequence[OldFile]) -> Iterator["_Source"]:
        for old in files:
            yield _Source(old.place, old.found, self)

    def remove(self) -> Steps[None]:
        """Remove what was taken, unless it has changed since."""
        for found, seen in self.taken:
            try:
                self._remove(found, seen)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.troubles.failed(found.path, error)
            yield 0

    def _remove(self, found: FoundFile, seen: os.stat_result) -> None:
        name = found.parts[-1]
        with folder_below(found.root, found.parts[:-1]) as folder:
            now = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not _is_same(seen, now):
                self.troubles.changed += 1
            else:
                os.unlink(name, dir_fd=folder)


@dataclass(frozen=True, slots=True)
class _Source:
    place: Place
    found: FoundFile
    taking: Taking

    def take(self, *, hashed: bool) -> Steps[Content | None]:
        """A copy: what becomes of the file afterwards is seen when it is to be removed."""
        troubles = self.taking.troubles
        try:
            with open_below(self.found.root, self.found.parts) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    troubles.skipped += 1
                    return None
                self._check_removable()
                copy, size, digest = yield from spooled(file, before.st_size, self.taking.spool)
                after = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in FULL:
                raise  # it is the copy that has no room
            troubles.failed(self.found.path, error)
            return None
        is_old = (before.st_size, before.st_mtime_ns) == (self.found.size, self.found.mtime_ns)
        if not is_old or not _is_same(before, after) or size != before.st_size:
            copy.close()
            troubles.changed += 1
            return None
        self.taking.taken.append((self.found, before))
        return Content(size, before.st_mode, before.st_mtime_ns, copy, digest)

    def _check_removable(self) -> None:
        # What cannot be removed would be archived again by every run.
        with folder_below(self.found.root, self.found.parts[:-1]) as folder:
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
                raise PermissionError(13, "it could not be removed afterwards: its folder cannot be written")


def _is_same(seen: os.stat_result, now: os.stat_result) -> bool:
    """Whether nobody has touched the file between two looks at it."""
    # The removal of another name of the same file moves its ctime.
    alone = seen.st_nlink == 1
    return _identity(seen, alone) == _identity(now, alone)


def _identity(seen: os.stat_result, alone: bool) -> tuple[int, ...]:
    whole = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
    return (*whole, seen.st_ctime_ns) if alone else whole
