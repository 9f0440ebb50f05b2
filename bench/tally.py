"""The sum of what the handlers of all processes counted; see ``bench/counting.py``."""

import asyncio
import mmap
import time
from collections.abc import Callable
from pathlib import Path

from bench.counting import COUNT, FIRST, HEAD, LAST, NOT_ASKED

POLL_SECONDS = 0.005


class Tally:
    """Reads the files of one folder, which it makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._slots: dict[str, memoryview[float]] = {}
        self._marked: dict[str, int] = {}

    def read(self) -> int:
        """How many were counted so far."""
        for path in self.folder.glob("[!.]*"):
            if path.name not in self._slots:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._slots[path.name] = memoryview(mapped).cast("d")
        return sum(int(slots[COUNT]) for slots in self._slots.values())

    @property
    def first(self) -> float:
        """When the first handler ran, in monotonic seconds. Something must have been counted."""
        return min(slots[FIRST] for slots in self._slots.values())

    @property
    def last(self) -> float:
        """When the last one ran so far."""
        return max(slots[LAST] for slots in self._slots.values())

    def mark(self) -> None:
        """From now on ``delays`` leaves out what was noted before."""
        self.read()
        self._marked = {name: int(slots[COUNT]) for name, slots in self._slots.items()}

    def delays(self) -> list[float]:
        """All that was noted since the mark, in seconds, in no order."""
        self.read()
        found: list[float] = []
        for name, slots in self._slots.items():
            noted = slots[HEAD + self._marked.get(name, 0) : HEAD + int(slots[COUNT])]
            found.extend(delay for delay in noted if delay != NOT_ASKED)
        return found

    async def until(self, count: int, seconds: float, check: Callable[[], None] = lambda: None) -> int:
        """Return how many were counted: ``count``, or fewer after ``seconds`` from the first one.

        Raises:
            TimeoutError: the first one did not come within a minute.
        """
        patience = time.monotonic() + 60
        while (done := self.read()) < count:
            now = time.monotonic()
            if done and now > self.first + seconds:
                break
            if not done and now > patience:
                raise TimeoutError("no task was run within a minute")
            check()
            await asyncio.sleep(POLL_SECONDS)
        return done
