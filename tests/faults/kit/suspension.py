"""A machine that was suspended, as its processes see it when it wakes: the time of day and the time since boot went on,
the monotonic clock did not.

No machine sleeps for it: in the processes that are told the file, both clocks jump by the seconds that it says.
"""

import os
import time
from pathlib import Path

SUSPENSION = "FAULTS_SUSPENSION"
"""The variable that names the file."""


class Suspension:
    """How long the machine of some processes has slept, set from outside at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.lasted(0)

    def lasted(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {SUSPENSION: str(self._file)}


def arm(file: Path) -> None:
    """Let both clocks of this process jump."""
    clock_gettime, wall = time.clock_gettime, time.time

    def slept() -> int:
        return int(file.read_text())

    def told(clock: int) -> float:
        return clock_gettime(clock) + (slept() if clock == time.CLOCK_BOOTTIME else 0)

    time.clock_gettime = told
    time.time = lambda: wall() + slept()


def arm_if_told() -> None:
    if file := os.environ.get(SUSPENSION):
        arm(Path(file))
