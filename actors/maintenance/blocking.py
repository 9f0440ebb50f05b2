"""Blocking work in threads, so that a cancellation leaves no thread behind that still writes."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Advance = Callable[[int], Awaitable[None]]
"""Told of so many bytes done; raises when the work should stop."""


async def unwatched(_bytes: int) -> None:
    """For work that nobody measures or stops."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a short blocking function in a thread. Cancelled, it ends only when the thread has."""
    return await to_the_end(asyncio.to_thread(function, *args, **kwargs))


async def to_the_end(work: Awaitable[T]) -> T:
    """Await what must not be left half done. Cancelled, it ends only when the work has."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # looked at, so that the loop does not report it as forgotten
        raise


Steps = Generator[int, None, T]
"""Blocking work that yields the number of bytes done since, several times a second."""


async def in_steps(steps: Steps[T], advance: Advance) -> T:
    """Run a blocking generator to its end in threads; each ``yield`` is a place where it can be stopped.

    Stopped, the generator is closed: its ``finally`` blocks run.
    """
    try:
        while True:
            answer = await in_thread(_step, steps)
            if isinstance(answer, _End):
                return answer.value
            await advance(answer)
    finally:
        await in_thread(steps.close)


@dataclass(frozen=True, slots=True)
class _End(Generic[T]):
    value: T


def _step(steps: Steps[T]) -> int | _End[T]:
    try:
        return next(steps)
    except StopIteration as stop:
        # It may not cross the thread's border: a future refuses to carry it.
        return _End(stop.value)


def open_below(root: Path, parts: tuple[str, ...]) -> BinaryIO:
    """Open ``root/part/…/part`` for reading; no part may be a symlink, also if it has just become one.

    Raises:
        OSError: it cannot be opened, or a part is a symlink (ELOOP, ENOTDIR).
    """
    with folder_below(root, parts[:-1]) as folder:
        # Without O_NONBLOCK, opening what has just become a FIFO would wait for a writer.
        found = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    return os.fdopen(found, "rb")


@contextmanager
def folder_below(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """The descriptor of the folder ``root/part/…/part``, on the same terms."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)
