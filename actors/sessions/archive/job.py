"""``sessions.archive``: old session files, into archives of a day, a week, a month, a year.

Reads files below its roots, and ``collector_files``; writes and deletes in its own folder; notes its last success and
error in ``maintenance_state``; removes the files that it has archived.

- Files whose last change lies on one day (UTC), far enough back, go into ``daily/YYYY-MM-DD.tar.xz``. The dailies of a
  week become ``weekly/YYYY-Www``, the weeklies of a month ``monthly/YYYY-MM``, the monthlies of a year ``yearly/YYYY``:
  each once, when the whole of it is old enough. Yearlies stay.
- Weeks are ISO weeks and are never torn: a week belongs to the month, and to the year, of its Thursday. ``2020-W53``,
  which ends on 3 January 2021, is in ``2020-12`` and in ``2020``.
- A member is called ``<day>/<path>``: the same file of two days is there twice. Archives are the same bytes for the
  same files: sorted, without owners, times kept. Symlinks are not followed, nor are they archived.
- An archive is written under another name, made durable, and read back: the SHA-256 of every member must be that of
  what was read. Then it gets its name, and only then are the files, or the archives it was merged from, removed. A file
  that was touched meanwhile stays.
- Wherever a run is stopped, nothing is lost. What is there twice at that moment is there once after the next run: it
  finds the same content in the archive and adds nothing. Every finished archive is a checkpoint; cancelled, a run drops
  the one that it is writing.
- A day has one archive. A late file, whose day is in a weekly or a coarser archive already, is added to that one. A
  second content under the same path and of the same day is kept beside the first, as ``<day>.2/<path>``.
- An archive that is damaged is neither merged nor added to nor removed, and fails the run when all else is done.
- Room is checked before each archive, as if nothing could be compressed.
- Not seen: a program that keeps an old file open and writes to it after it was removed. A file that is put back has
  its old time: touch it, or the next run takes it again.

``verger archive list|verify|extract`` looks at archives, reads them back and unpacks them. Nothing of Verger is needed:
``tar --extract --xz --file 2026-W09.tar.xz && sha256sum --check SHA256SUMS``.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import date, timedelta
from heapq import merge
from itertools import groupby
from pathlib import Path

from pydantic import Field

from actors import Context, actor
from actors.maintenance.blocking import in_steps, in_thread
from actors.maintenance.breaker import Breaker
from actors.maintenance.counts import Counts
from actors.maintenance.disk import FULL, NotEnoughSpace, check_room
from actors.maintenance.params import CollectionName
from actors.sessions.archive.folder import Archives, holder
from actors.sessions.archive.members import Candidate
from actors.sessions.archive.pack import Packed, pack
from actors.sessions.archive.periods import Level, Period
from actors.sessions.archive.reading import ArchiveDamaged, Reading, read_back
from actors.sessions.archive.sources import AT_ONCE, OldFile, Search, Taking, Troubles
from actors.sessions.archive.state import State
from actors.sessions.collect import ONE_FILES_TROUBLE
from actors.sessions.collected import Collected
from actors.sessions.indexes import Collections
from actors.sessions.roots import find_roots, shown_path
from schemas.base import Duration, Model
from service.errors import ConfigError, Conflict, VergerError
from service.log_events import LogEvent

LOOKED_UP = 500
"""Files whose states are read in one query."""
HEADER_BYTES = 4096
"""A member may take so many beside its content."""
CENTURY = timedelta(days=36500)


class NotWritten(VergerError):
    """What was written cannot be read back as it was; nothing was removed."""


class ArchivesDamaged(VergerError):
    """Archives that are not what was written stand in the way; the message names them. All the rest was done."""


class ArchiveCollections(Model):
    """A service with its own names gives them here."""

    files: CollectionName = "collector_files"
    """How far ``sessions.collect`` has read each file."""
    state: CollectionName = "maintenance_state"


class ArchiveParams(Model):
    """Options of ``sessions.archive``. It loses nothing, so there is no limit to how much it may remove."""

    roots: tuple[Path, ...] = Field((), description="Folders to look in; empty: the setting VERGER_CLAUDE_PROJECTS.")
    pattern: str = Field("*", min_length=1, description="Names of the files, such as `*.jsonl`.")
    collected_only: bool | None = Field(
        None, description="Leave files that `sessions.collect` has not read to their end; null: if `roots` is empty."
    )
    folder: Path | None = Field(None, description="Where archives are kept; null: `archives` in VERGER_DATA_DIR.")
    min_age: Duration = Field(
        timedelta(days=7), le=CENTURY, description="A day's files are archived when the day ended so long ago."
    )
    weekly_after: Duration = Field(
        timedelta(days=7), le=CENTURY, description="A week's dailies become one when the week ended so long ago."
    )
    monthly_after: Duration = Field(
        timedelta(weeks=4), le=CENTURY, description="A month's weeklies become one when it ended so long ago."
    )
    yearly_after: Duration = Field(
        timedelta(days=365), le=CENTURY, description="A year's monthlies become one when it ended so long ago."
    )
    preset: int = Field(6, ge=0, le=9, description="xz preset: 0 is fast, 6 takes 100 MB of memory, 9 takes 700 MB.")
    max_failures_in_row: int = Field(20, ge=1, description="So many I/O errors one after the other end the run.")
    dry_run: bool = Field(False, description="Write and remove nothing; count what would be archived and merged.")
    collections: ArchiveCollections = Field(ArchiveCollections(), description="Names of the collections.")


@dataclass(slots=True)
class ArchiveCounts(Counts):
    """What a run did; in a dry run, what it would."""

    files: int = 0
    """Looked at."""
    archived: int = 0
    """Put into archives; and removed, unless they are counted as changed or failed."""
    bytes: int = 0
    """Of those, before compression."""
    duplicates: int = 0
    """Were in their archive already: an earlier run was stopped, or they were put back."""
    uncollected: int = 0
    """Old files that `sessions.collect` has still to read."""
    changed: int = 0
    """Touched while they were archived; they stay."""
    failed_files: int = 0
    """Files or folders that could not be read, or not removed."""
    special: int = 0
    """Symlinks, sockets and others that are neither file nor folder."""
    missing_roots: int = 0
    written: int = 0
    """Archives of days that were made, and archives that got late files."""
    merged: int = 0
    """Archives that became part of a coarser one."""
    damaged: int = 0
    """Archives that cannot be read: they stay as they are, and so do the files that belong into them."""
    skipped: int = 0
    """1: another run was at work."""


@actor("sessions.archive", aliases=["check_and_archive_all"], max_attempts=1, timeout="12h", concurrency=1)
async def archive_sessions(params: ArchiveParams, ctx: Context) -> dict[str, int]:
    """Archive old session files, and merge archives as they age."""
    run = _Run(params, ctx)
    await run.run()
    return run.counts.result()


class _Run:
    def __init__(self, params: ArchiveParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._archives = Archives.at(ctx.settings, params.folder)
        self._collected = Collected(ctx.resources["memory"], Collections(files=params.collections.files))
        self._state = State(ctx.resources["memory"][params.collections.state], ctx)
        self._breaker = Breaker(params.max_failures_in_row, "files")
        self._troubles = Troubles(self._failed)
        self._damaged: dict[Path, str] = {}
        self._done = 0
        self.counts = ArchiveCounts()

    async def run(self) -> None:
        """All of it; what others are doing is a skip."""
        if self._params.dry_run:
            await self._work()
            return
        async with AsyncExitStack() as holding:
            try:
                await holding.enter_async_context(self._archives.writing())
            except Conflict:
                self.counts.skipped = 1
                return
            await holding.enter_async_context(self._state.noted(self.counts))
            await self._work()
            if self._damaged:
                raise ArchivesDamaged("; ".join(list(self._damaged.values())[:5]))

    async def _work(self) -> None:
        try:
            await self._archive_files()
            await self._merge_archives()
        finally:
            self.counts.special, self.counts.changed = self._troubles.skipped, self._troubles.changed

    # -- files ---------------------------------------------------------------------------------------------------------

    async def _archive_files(self) -> None:
        search = Search(
            self._roots(), self._archives.folder, self._params.pattern, self._day(self._params.min_age), self._troubles
        )
        periods = set(await self._archives.periods())
        after = None
        while True:
            files = await in_steps(search.oldest(after), self._advance)
            self.counts.files = search.looked_at
            for period, group in groupby(files, key=lambda old: holder(old.day, periods)):
                due = await self._due(list(group))
                if due and await self._archive(period, due, exists=period in periods):
                    periods.add(period)
            if len(files) < AT_ONCE:
                return
            after = files[-1].place

    def _roots(self) -> list[Path]:
        roots, self.counts.missing_roots = find_roots(self._params.roots, self._ctx.settings, self._ctx.log)
        folder = self._archives.folder.resolve()
        for root in roots:
            if root.is_relative_to(folder):
                raise ConfigError(f"the root {root} lies in {folder}, where the archives are; set another `folder`")
        return [root for root in roots if not any(other in root.parents for other in roots)]

    def _day(self, age: timedelta) -> date:
        """Days before this one ended so long ago."""
        return (self._ctx.now() - age).date()

    async def _due(self, files: list[OldFile]) -> list[OldFile]:
        """Those that nobody has still to read."""
        only = self._params.collected_only
        if not (only if only is not None else not self._params.roots):
            return files
        due = []
        for start in range(0, len(files), LOOKED_UP):
            some = files[start : start + LOOKED_UP]
            states = await self._collected.states([old.found.path for old in some])
            due += [old for old in some if (s := states.get(old.found.path)) is not None and s.is_unchanged(old.found)]
        self.counts.uncollected += len(files) - len(due)
        return due

    async def _archive(self, period: Period, files: list[OldFile], *, exists: bool) -> bool:
        """Whether there is an archive of the period now."""
        size, largest = sum(old.found.size for old in files), max(old.found.size for old in files)
        if self._params.dry_run:
            self.counts.archived += len(files)
            self.counts.bytes += size
            self.counts.written += 1
            return exists
        # The largest lies beside the archive, uncompressed, while it is packed.
        await self._check_room(period, size + largest + HEADER_BYTES * len(files))
        taking = Taking(self._archives.path(period).parent, self._troubles)
        async with self._drafted(period, [period] if exists else [], taking.candidates(files)) as packed:
            if packed is None or not taking.taken:
                return exists
            await self._publish(period, packed, merged=0)
        self._breaker.worked()
        self.counts.written += 1
        self.counts.duplicates += packed.duplicates
        self.counts.archived += len(taking.taken)
        self.counts.bytes += sum(seen.st_size for _, seen in taking.taken)
        await in_steps(taking.remove(), self._advance)
        return True

    def _failed(self, path: str, error: OSError) -> None:
        self.counts.failed_files += 1
        self._ctx.log.warning(LogEvent.FILE_FAILED, path=shown_path(path), error=str(error.strerror or error))
        if error.errno not in ONE_FILES_TROUBLE:
            self._breaker.failed(error)

    # -- archives ------------------------------------------------------------------------------------------------------

    async def _merge_archives(self) -> None:
        params = self._params
        ages = {
            Level.WEEKLY: max(params.min_age, params.weekly_after),
            Level.MONTHLY: params.monthly_after,
            Level.YEARLY: params.yearly_after,
        }
        for level, age in ages.items():
            periods = await self._archives.periods()
            groups: dict[Period, list[Period]] = {}
            for period in periods:
                if period.level is level.finer:
                    groups.setdefault(period.within(level), []).append(period)
            for target, sources in groups.items():
                if target.end <= self._day(age):
                    await self._merge(target, sources, exists=target in periods)

    async def _merge(self, target: Period, sources: list[Period], *, exists: bool) -> None:
        if self._params.dry_run:
            self.counts.merged += len(sources)
            return
        # What the coarser one holds comes first: it keeps its numbers.
        held = [target, *sources] if exists else sources
        await self._check_room(target, await in_thread(self._packed_size, held))
        async with self._drafted(target, held, ()) as packed:
            if packed is None:
                return
            await self._publish(target, packed, merged=len(sources))
        for source in sources:
            await self._archives.remove(source)
        self.counts.merged += len(sources)
        await self._ctx.checkpoint()

    # -- both ----------------------------------------------------------------------------------------------------------

    def _packed_size(self, periods: list[Period]) -> int:
        return sum(self._archives.path(period).stat().st_size for period in periods) * 11 // 10

    async def _check_room(self, period: Period, size: int) -> None:
        await check_room(self._archives.folder, size, f"the archive {period}")

    @asynccontextmanager
    async def _drafted(
        self, period: Period, held: list[Period], files: Iterable[Candidate]
    ) -> AsyncIterator[Packed | None]:
        """A new archive of all these, read back, to be published; None if one of those it is made of is damaged."""
        draft = self._archives.draft(period)
        try:
            yield await self._pack(draft, [self._archives.path(each) for each in held], files)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NotEnoughSpace(f"the disk became full while {period} was written; make room: {error}") from error
        finally:
            await in_thread(draft.unlink, missing_ok=True)

    async def _pack(self, draft: Path, held: list[Path], files: Iterable[Candidate]) -> Packed | None:
        try:
            with ExitStack() as reading:
                streams = [reading.enter_context(closing(Reading(path).files())) for path in held]
                candidates: Iterable[Candidate] = merge(*streams, files, key=lambda each: each.place)
                packed = await in_steps(pack(draft, candidates, self._params.preset), self._advance)
        except ArchiveDamaged as error:
            self._damaged[error.path] = str(error)
            self.counts.damaged = len(self._damaged)
            fix = "bring it back from a backup, or move it away; `verger archive verify` reads it"
            self._ctx.log.warning(LogEvent.ARCHIVE_DAMAGED, archive=str(error.path), problem=error.problem, fix=fix)
            return None
        try:
            back = await in_steps(read_back(draft), self._advance)
        except ArchiveDamaged as error:
            raise NotWritten(f"what was written cannot be read back, nothing was removed: {error}") from error
        if (back.sums, back.members) != (packed.sums, packed.members):
            raise NotWritten(f"what is read back of {draft} is not what was written; nothing was removed")
        return packed

    async def _publish(self, period: Period, packed: Packed, *, merged: int) -> None:
        await self._archives.publish(period)
        self._ctx.log.info(
            LogEvent.ARCHIVE_PUBLISHED,
            archive=str(period),
            members=packed.members,
            bytes=packed.bytes,
            merged=merged,
        )

    async def _advance(self, size: int) -> None:
        # How much there is to do shows only when it is done: there is no total.
        self._done += size
        await self._ctx.progress(self._done)
