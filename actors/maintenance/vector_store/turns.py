"""Writers of a table take turns, also those of other processes."""

import asyncio
import errno
import fcntl
import os
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.maintenance.blocking import in_thread
from actors.maintenance.vector_store.port import VectorStoreUnavailable

SECONDS = 120.0
"""A compaction takes that long on millions of vectors; whoever waits longer tries again later."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5


class Turns:
    """A lock a table: LanceDB's own writers race, and after a few lost races give up.

    The lock is a file's (``flock``), so that a process that dies lets go of it.
    """

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        self._folder, self._seconds = folder, seconds
        # Those of this process line up here, so that only one of them polls.
        self._own: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def turn(self, table: str) -> AsyncIterator[None]:
        """Raises VectorStoreUnavailable."""
        async with self._own[table]:
            try:
                file = await in_thread(self._open, table)
            except OSError as error:
                raise VectorStoreUnavailable(f"the vector store cannot be written: {error}") from error
            try:
                await self._lock(file, table)
                yield
            finally:
                os.close(file)

    def _open(self, table: str) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f".{re.sub(r'[^A-Za-z0-9_-]', '_', table)}.lock"
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)

    async def _lock(self, file: int, table: str) -> None:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._seconds, FIRST_PAUSE
        while not await in_thread(_try_lock, file):
            if loop.time() >= until:
                raise VectorStoreUnavailable(f"table {table!r} is being written by others for {self._seconds:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise VectorStoreUnavailable(f"the vector store's folder takes no locks: {error}") from error
    return True
