"""A child process that is measured: its pid, its log, and its sure end."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.child_process import ending_with_parent

ROOT = Path(__file__).parents[1]


class Process:
    """A program in a session of its own, so that its children end with it. Start it from the main thread."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.log_file = log
        self._command = command
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                ending_with_parent(*command),
                cwd=cwd,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            self._child.send_signal(number)

    def kill(self) -> None:
        """``kill -9``, the children too."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()

    def stop(self, seconds: float = 5) -> None:
        """Ask it to end; what has not ended in time is killed. Blocks that long."""
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)
        self.kill()

    async def ended(self, seconds: float) -> int:
        """Its exit code. Raises TimeoutError."""
        return await asyncio.wait_for(asyncio.to_thread(self._child.wait), seconds)

    def log(self) -> list[dict[str, Any]]:
        """Its log lines; what is no JSON object is a line ``{"raw": …}``."""
        lines = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            lines.append(found if isinstance(found, dict) else {"raw": line})
        return lines

    async def logged(self, event: str, seconds: float = 60) -> None:
        """Return once it has logged this event; an error if it ends before."""
        deadline = time.monotonic() + seconds
        while not any(line.get("event") == event for line in self.log()):
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.describe()} did not say {event} within {seconds:g} s")
            await asyncio.sleep(0.02)

    def check(self) -> None:
        """An error, with its last words, if it has ended."""
        if not self.alive:
            raise RuntimeError(f"{self.describe()} ended with exit code {self._child.returncode}")

    def describe(self) -> str:
        words = self.log_file.read_text(errors="replace")[-2000:]
        return f"{' '.join(self._command)} (its last words: {words.strip() or 'none'})"
