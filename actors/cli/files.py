"""Commands that read and write large files."""

import asyncio
import sys
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from service.errors import VergerError

T = TypeVar("T")


class FilesUnusable(VergerError):
    """A file or folder that is read, or written, cannot be."""


def run_on_files(work: Awaitable[T]) -> T:
    """Run it in a loop of its own; the system's errors become ours."""

    async def run() -> T:
        return await work

    try:
        return asyncio.run(run())
    except OSError as error:
        raise FilesUnusable(f"{error.filename or 'a file'}: {error.strerror or error}") from error


class Bar:
    """A progress bar on a terminal, on stderr; nothing elsewhere."""

    def __init__(self, what: str, total: int | None) -> None:
        """``total``: bytes; None if nobody knows."""
        console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    async def advance(self, size: int) -> None:
        self._progress.advance(self._task, size)
