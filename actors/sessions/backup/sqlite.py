"""Copy a SQLite file with its online backup: consistent, while others read and write it."""

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from actors.sessions.backup.manifest import COMPRESSED
from actors.sessions.backup.members import Draft
from actors.sessions.backup.names import escape
from service.errors import VergerError

FOLDER = "sqlite"
PAGES = 1024
"""Copied in one step; between two steps others may write."""
RESTARTS = 5
"""A writer makes the copy begin again; after so many times it holds writers off until it is through."""
BUSY_SECONDS = 10.0
"""Whoever locks the file for longer makes its backup fail."""
RETRY_SECONDS = 0.02
LOOK_SECONDS = 0.5


class SqliteDamaged(VergerError):
    """SQLite's own check of the copy found something: the source is damaged."""


class _Stopped(Exception):
    pass


async def copy_sqlite(source: Path, draft: Draft) -> None:
    """Add a SQLite file to the draft.

    Raises:
        OSError, sqlite3.Error: it cannot be read.
        SqliteDamaged: what was read is no sound database.
    """
    spool = draft.spool()
    copy = _Copy(source, spool)
    await copy.run(draft)
    await draft.add(spool, f"{FOLDER}/{escape(str(source))}.sqlite{COMPRESSED}", "sqlite", str(source))


def measure(source: Path) -> int:
    """About how many bytes it will take."""
    log = source.with_name(source.name + "-wal")
    return source.stat().st_size + (log.stat().st_size if log.exists() else 0)


class _Copy:
    """One copy in a thread: SQLite calls back while it works, which is where it can be measured and stopped."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source, target
        self._stop = threading.Event()
        self._restarts, self._remaining = 0, 0
        self._copied_pages = 0
        self._advanced_at = time.monotonic()
        self._page_bytes = 4096

    async def run(self, draft: Draft) -> None:
        told = 0
        running = asyncio.ensure_future(asyncio.to_thread(self._copy))
        try:
            while not (await asyncio.wait([running], timeout=LOOK_SECONDS))[0]:
                copied = self._copied_pages * self._page_bytes
                await draft.advance(max(0, copied - told))
                told = max(told, copied)
        except BaseException:
            self._stop.set()
            await asyncio.wait([running])
            running.exception()
            raise
        await running
        await draft.advance(max(0, self._target.stat().st_size - told))

    def _copy(self) -> None:
        if not self._source.is_file():
            raise FileNotFoundError(f"there is no file {str(self._source)!r}")
        uri = f"{self._source.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as source:
            (mode,) = source.execute("PRAGMA journal_mode").fetchone()
            (self._page_bytes,) = source.execute("PRAGMA page_size").fetchone()
            with closing(sqlite3.connect(self._target, isolation_level=None)) as target:
                if mode == "wal":
                    # Readers hold up nobody here: one transaction sees one state, whatever is written meanwhile.
                    self._copy_held(source, target)
                else:
                    self._copy_between_writes(source, target)
                if self._stop.is_set():
                    raise _Stopped
                self._check(target)

    def _copy_between_writes(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        try:
            source.backup(target, pages=PAGES, progress=self._progress_between_writes, sleep=RETRY_SECONDS)
        except _Restarting:
            self._copy_held(source, target)

    def _copy_held(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(target, pages=PAGES, progress=self._progress, sleep=RETRY_SECONDS)
        source.execute("ROLLBACK")

    def _progress(self, status: int, remaining: int, total: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        now = time.monotonic()
        if status not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            self._advanced_at = now
        elif now - self._advanced_at > BUSY_SECONDS:
            raise sqlite3.OperationalError(f"{self._source} has been locked for {BUSY_SECONDS:g} s")
        self._copied_pages = total - remaining

    def _progress_between_writes(self, status: int, remaining: int, total: int) -> None:
        self._progress(status, remaining, total)
        if status == sqlite3.SQLITE_OK and remaining >= self._remaining > 0:
            self._restarts += 1
            if self._restarts > RESTARTS:
                raise _Restarting
        self._remaining = remaining

    def _check(self, target: sqlite3.Connection) -> None:
        target.set_progress_handler(self._stop.is_set, 100_000)
        (answer,) = target.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise SqliteDamaged(f"{self._source}: {answer}")


class _Restarting(Exception):
    pass
