"""``sessions.collect``: new messages from session files.

Reads `<root>/<encoded project path>/<session>.jsonl`; writes ``projects``, ``sessions``, ``messages`` and
``collector_files`` (how far each file was read); deletes nothing.

- A file that looks as it did last time costs one `stat`. One that has grown is read from where it was left. One that
  is shorter, has another inode, or whose beginning is not what was read, is read afresh.
- A last line without its end waits, unless it is a whole JSON object: the line end of a crashed writer never comes.
- Messages are inserted by `uuid` and the position in the file is kept after them: a run that is stopped anywhere, and
  two runs at once, lose nothing and double nothing. A second run right after finds nothing to do.
- The project is the working folder (`cwd`) that the folder is named for, else the first one in the file, else the
  folder's name decoded (a guess: `/` and `.` have both become `-`).
- Without a root there is nothing to do: the run counts `missing_roots=1` and logs how to set one. A root may be a
  symlink, nothing below it is followed.
- Each malformed line is logged with file, line and reason, up to `maxLogged` of a file.

To collect another assistant's files, write an adapter (`actors/sessions/adapters/port.py`: find files, parse one from
a position) and add it to ``ADAPTERS``.
"""

import errno
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pydantic import Field, field_validator

from actors import Context, actor
from actors.maintenance.blocking import in_thread, open_below
from actors.maintenance.breaker import Breaker
from actors.maintenance.counts import Counts
from actors.sessions.adapters import ADAPTERS
from actors.sessions.adapters.lines import fingerprint
from actors.sessions.adapters.port import Adapter, FoundFile, Limits, Malformed, Portion, Position
from actors.sessions.collected import Collected, FileState, encode, int64
from actors.sessions.indexes import Collections
from actors.sessions.roots import find_roots, shown_path
from schemas.base import Duration, Model
from service.log_events import LogEvent

FILES_AT_ONCE = 500
"""Files whose states are read in one query."""
SESSIONS_AT_ONCE = 200
"""Sessions whose messages are counted in one query."""
MIB = 1024 * 1024
ONE_FILES_TROUBLE = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EINVAL})
"""Errors that say nothing about the next file. Others, such as EIO, may mean that the disk is gone."""


class CollectParams(Model):
    """Options of ``sessions.collect``."""

    roots: tuple[Path, ...] = Field((), description="Folders to scan; empty: the setting VERGER_CLAUDE_PROJECTS.")
    adapter: str = Field("claude_code", description="What kind of session files they hold.")
    batch_size: int = Field(500, ge=1, le=10_000, description="Lines read, and messages inserted, at once.")
    batch_bytes: int = Field(4 * MIB, ge=1024, le=64 * MIB, description="Bytes read at once; one line may take more.")
    max_line_bytes: int = Field(8 * MIB, ge=1024, le=64 * MIB, description="A longer line is malformed.")
    max_file_bytes: int = Field(256 * MIB, ge=MIB, description="Bytes read of one file in one run; the next goes on.")
    max_future: Duration = Field(timedelta(hours=1), description="Timestamps further ahead of now are cut down to now.")
    max_logged: int = Field(10, ge=0, description="Malformed lines of one file that are logged one by one in a run.")
    max_failures_in_row: int = Field(20, ge=1, description="So many I/O errors one after the other end the run.")
    collections: Collections = Field(Collections(), description="Names of the collections.")

    @field_validator("adapter")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ADAPTERS:
            raise ValueError(f"there is no adapter {value!r}; known: {', '.join(ADAPTERS)}")
        return value


@dataclass(slots=True)
class CollectCounts(Counts):
    """What a run did."""

    files: int = 0
    unchanged: int = 0
    grown: int = 0
    """Read on from where the last run stopped."""
    reread: int = 0
    """Truncated or replaced since the last run: read afresh."""
    sessions: int = 0
    """Made or brought up to date."""
    inserted: int = 0
    duplicates: int = 0
    malformed: int = 0
    ignored: int = 0
    """Lines that are no messages, such as summaries."""
    clamped: int = 0
    """Messages whose timestamp lay in the future."""
    failed_files: int = 0
    """Files or folders that could not be read."""
    missing_roots: int = 0
    bytes_read: int = 0


@actor("sessions.collect", aliases=["collect_all"], max_attempts=1, timeout="30m", concurrency=1)
async def collect_sessions(params: CollectParams, ctx: Context) -> dict[str, int]:
    """Collect new messages from session files."""
    run = _Run(params, ctx)
    for root in run.roots():
        async for batch in ctx.batches(run.found(root), size=FILES_AT_ONCE):
            await run.collect(batch)
    return run.result()


@dataclass(slots=True)
class _Opened:
    """A file that is being read."""

    found: FoundFile
    file: BinaryIO
    position: Position
    project_id: str
    sessions: set[str] = field(default_factory=set)
    """Those whose messages are to be counted."""
    malformed: int = 0


class _Run:
    def __init__(self, params: CollectParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._adapter: Adapter = ADAPTERS[params.adapter]
        self._collected = Collected(ctx.resources["memory"], params.collections)
        self._counts = CollectCounts()
        self._breaker = Breaker(params.max_failures_in_row, "files")

    def result(self) -> dict[str, int]:
        return self._counts.result()

    def roots(self) -> list[Path]:
        present, self._counts.missing_roots = find_roots(self._params.roots, self._ctx.settings, self._ctx.log)
        return present

    async def found(self, root: Path) -> AsyncIterator[FoundFile]:
        files = self._adapter.find(root, self._failed)
        while some := await in_thread(lambda: list(islice(files, FILES_AT_ONCE))):
            for each in some:
                yield each

    def _failed(self, path: str, error: OSError) -> None:
        self._counts.failed_files += 1
        self._ctx.log.warning(LogEvent.FILE_FAILED, path=shown_path(path), error=str(error.strerror or error))

    async def collect(self, batch: list[FoundFile]) -> None:
        states = await self._collected.states([found.path for found in batch])
        for found in batch:
            self._counts.files += 1
            state = states.get(found.path)
            if state is not None and state.is_unchanged(found):
                self._counts.unchanged += 1
                continue
            await self._ctx.checkpoint()
            await self._collected.ensure_indexes()
            try:
                await self._collect_file(found, state)
            except FileNotFoundError:
                continue  # removed since it was found, as old sessions are
            except OSError as error:
                # One file is no reason to leave the others; an unreachable database is another kind of error.
                self._failed(found.path, error)
                if error.errno not in ONE_FILES_TROUBLE:
                    self._breaker.failed(error)
            else:
                self._breaker.worked()

    async def _collect_file(self, found: FoundFile, state: FileState | None) -> None:
        opened = await in_thread(_open, found, state)
        try:
            if state is not None:
                if opened.position.offset:
                    self._counts.grown += 1
                elif state.position.offset:
                    self._counts.reread += 1
            await self._read(opened)
        finally:
            await in_thread(opened.file.close)

    async def _read(self, opened: _Opened) -> None:
        """Portion by portion: parse in a thread, insert, note the sessions, and only then keep the position."""
        started_at = opened.position.offset
        limits = self._limits()
        while True:
            portion = await in_thread(self._adapter.parse, opened.file, opened.found, opened.position, limits)
            await self._store(opened, portion)
            self._counts.bytes_read += portion.position.offset - opened.position.offset
            opened.position = portion.position
            enough = opened.position.offset - started_at >= self._params.max_file_bytes
            if not portion.more or enough:
                break
            await self._save_state(opened, finished=False)
            await self._ctx.checkpoint()
        await self._count_sessions(opened, at_least=1)
        await self._save_state(opened, finished=not portion.more)
        if opened.malformed > self._params.max_logged:
            self._ctx.log.warning(
                LogEvent.LINES_SKIPPED, path=shown_path(opened.found.path), malformed=opened.malformed
            )

    def _limits(self) -> Limits:
        params = self._params
        now = self._ctx.now()
        return Limits(params.batch_size, params.batch_bytes, params.max_line_bytes, now, now + params.max_future)

    async def _store(self, opened: _Opened, portion: Portion) -> None:
        self._counts.ignored += portion.ignored
        if portion.messages:
            if not opened.project_id:
                opened.project_id = await self._project(opened.found, portion)
            kept, documents = await in_thread(encode, portion.messages, opened.project_id, portion.malformed)
            outcome = await self._collected.insert(kept, documents)
            self._counts.inserted += outcome.inserted
            self._counts.duplicates += outcome.duplicates
            self._counts.clamped += sum(message.clamped for message in kept)
            portion.malformed.extend(outcome.refused)
            refused = {problem.line for problem in outcome.refused}
            taken = [message for message in kept if message.line not in refused]
            opened.sessions |= await self._collected.note_sessions(taken, opened.project_id, self._adapter.name)
            await self._count_sessions(opened, at_least=SESSIONS_AT_ONCE)
        self._note_malformed(opened, portion.malformed)

    async def _project(self, found: FoundFile, portion: Portion) -> str:
        """Once for each file: a session that walks through subfolders is one project."""
        folders = dict.fromkeys(message.cwd for message in portion.messages if message.cwd)
        return await self._collected.project_id(self._adapter.project_path(found, list(folders)))

    async def _count_sessions(self, opened: _Opened, *, at_least: int) -> None:
        if len(opened.sessions) >= at_least:
            await self._collected.count_sessions(opened.sessions)
            self._counts.sessions += len(opened.sessions)
            opened.sessions.clear()

    async def _save_state(self, opened: _Opened, *, finished: bool) -> None:
        mark = await in_thread(fingerprint, opened.file, opened.position.offset)
        found = opened.found
        state = FileState(
            size=found.size,
            mtime_ns=found.mtime_ns,
            inode=found.inode,
            position=opened.position,
            fingerprint=mark,
            project_id=opened.project_id,
            finished=finished,
            uncounted=tuple(opened.sessions),
        )
        await self._collected.save_state(found.path, self._adapter.name, state)

    def _note_malformed(self, opened: _Opened, malformed: list[Malformed]) -> None:
        self._counts.malformed += len(malformed)
        for problem in malformed:
            opened.malformed += 1
            if opened.malformed <= self._params.max_logged:
                path = shown_path(opened.found.path)
                self._ctx.log.warning(LogEvent.LINE_SKIPPED, path=path, line=problem.line, reason=problem.reason)


def _open(found: FoundFile, state: FileState | None) -> _Opened:
    file = open_below(found.root, found.parts)
    try:
        now = os.fstat(file.fileno())
        if not stat.S_ISREG(now.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file any more")
        # It may have grown since it was found: what is read belongs to this look at it.
        found = FoundFile(found.root, found.parts, now.st_size, now.st_mtime_ns, now.st_ino)
        uncounted = set(state.uncounted) if state is not None else set()
        if state is None or not _continues(file, found, state):
            return _Opened(found, file, Position(), "", uncounted)
        return _Opened(found, file, state.position, state.project_id, uncounted)
    except BaseException:
        file.close()
        raise


def _continues(file: BinaryIO, found: FoundFile, state: FileState) -> bool:
    """Whether what was read of the file is still its beginning."""
    same = state.inode == int64(found.inode) and found.size >= state.position.offset
    return same and fingerprint(file, state.position.offset) == state.fingerprint
