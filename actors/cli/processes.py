"""``verger run --processes N``: a small parent that starts N children, tells them to stop, and replaces those that die.

The parent has no event loop and talks to no server. Each child is a whole ``verger run`` of one process: they share
the work through the broker and the store, as processes on different machines do.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from actors.cli.failure import UNREADY
from actors.composition import Role
from service.child_process import ending_with_parent
from service.errors import ConfigError
from service.log_events import LogEvent
from service.settings import MEMORY_BROKER, PREFIX, Settings

log = structlog.get_logger()

MOST_PROCESSES = 256
LAST_PORT = 65535
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
STEADY_SECONDS = 60.0
"""A child that lived for this long was well: the pause before its restart is the first one again."""

Arrivals = Callable[[float | None], list[signal.Signals]]


def run_processes(settings: Settings, roles: Collection[Role], count: int) -> int:
    """Run the roles in each of ``count`` children until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: the settings name no servers that processes can share.
    """
    if settings.embedded or settings.amqp_url == MEMORY_BROKER:
        raise ConfigError(
            "--processes needs servers that the processes share: set VERGER_MONGODB_URL and VERGER_AMQP_URL, "
            "or leave it out"
        )
    # As this program was started: with -m alone, modules of the current folder would come before all others.
    path = [] if str(Path.cwd()) in sys.path else ["-P"]
    chosen = ",".join(roles)
    command = [sys.executable, *path, "-m", "actors.cli", "run", "--roles", chosen, "--supervised"]
    return Parent(command, [_own_port(settings, index) for index in range(count)]).run()


def _own_port(settings: Settings, index: int) -> dict[str, str]:
    """What the environment of a child says beyond ours: two cannot listen on one port."""
    if not settings.health_port:
        return {}
    port = settings.health_port + index
    if port > LAST_PORT:
        raise ConfigError(f"VERGER_HEALTH_PORT={settings.health_port} leaves no port for process {index + 1}; lower it")
    return {f"{PREFIX}HEALTH_PORT": str(port)}


@dataclass(slots=True, eq=False)
class Place:
    """One of the N: the child that fills it, or when the next one will."""

    environment: Mapping[str, str]
    child: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due: float = 0.0
    pause: float = 0.0
    restarts: int = 0


class Parent:
    """Keeps a number of children running that all run one command."""

    def __init__(self, command: list[str], environments: Sequence[Mapping[str, str]]) -> None:
        """``environments``: one for each child, beyond this process's own."""
        self._command = command
        self._places = [Place(environment) for environment in environments]
        self._stopping = self._told = False
        self._code = 0

    def run(self) -> int:
        """Until SIGTERM, SIGINT or a child that cannot be started; returns when all children have ended.

        The exit code is the first of theirs that is not 0.
        """
        with _arriving(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD) as arrivals:
            while not self._stopping or self._children():
                if not self._stopping:
                    self._fill()
                for number in arrivals(self._pause()):
                    if number is not signal.SIGCHLD:
                        self._obey(number)
                self._reap()
        log.info(LogEvent.PROCESSES_STOPPED, exit_code=self._code)
        return self._code

    def _children(self) -> list[subprocess.Popen[bytes]]:
        return [place.child for place in self._places if place.child is not None]

    def _pause(self) -> float | None:
        """Seconds until an empty place is due; None: none is."""
        due = [place.due for place in self._places if place.child is None and not self._stopping]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _fill(self) -> None:
        for place in self._places:
            if place.child is None and place.due <= time.monotonic():
                self._start(place)

    def _start(self, place: Place) -> None:
        place.started_at = time.monotonic()
        try:
            place.child = subprocess.Popen(  # noqa: S603 - our own program
                # SIGTERM, not SIGKILL: a child gives its tasks back, and no attempt is burned.
                ending_with_parent(*self._command, by=signal.SIGTERM),
                env={**os.environ, **place.environment},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent, which tells its children
            )
        except OSError as error:  # the machine has no room for another
            self._put_off(place)
            log.error(
                LogEvent.PROCESS_REFUSED,
                error=str(error),
                restarts=place.restarts,
                restart_in_seconds=place.pause,
            )
        else:
            log.info(LogEvent.PROCESS_STARTED, pid=place.child.pid, restarts=place.restarts)

    def _obey(self, number: signal.Signals) -> None:
        if not self._told:
            self._told = True
            log.info(LogEvent.PROCESSES_STOPPING, signal=number.name)
            self._stop()
            return
        # The second ends one process at once, whatever runs in it; so it does many.
        self._code = self._code or 128 + number
        for child in self._children():
            child.kill()

    def _stop(self) -> None:
        self._stopping = True
        for child in self._children():
            child.terminate()

    def _reap(self) -> None:
        for place in self._places:
            child = place.child
            if child is None or child.poll() is None:
                continue
            place.child = None
            code = child.returncode
            if self._stopping:
                # By SIGTERM itself only before it was able to listen to it, and then it had not begun to work.
                self._code = self._code or (0 if code == -signal.SIGTERM else _exit_code(code))
            elif code == UNREADY:
                log.error(LogEvent.PROCESS_DIED, pid=child.pid, exit_code=code, restarts=place.restarts)
                self._code = code  # the same for all of them, and trying again cannot help
                self._stop()
            else:
                how: dict[str, Any] = {"exit_code": code} if code >= 0 else {"signal": _name(-code)}
                self._put_off(place)
                log.error(
                    LogEvent.PROCESS_DIED,
                    pid=child.pid,
                    **how,
                    restarts=place.restarts,
                    restart_in_seconds=place.pause,
                )

    def _put_off(self, place: Place) -> None:
        """The next one comes after a pause, longer each time."""
        now = time.monotonic()
        was_well = now - place.started_at >= STEADY_SECONDS
        place.pause = FIRST_PAUSE if was_well else min(max(FIRST_PAUSE, place.pause * 2), LONGEST_PAUSE)
        place.due = now + place.pause
        place.restarts += 1


def _exit_code(returncode: int) -> int:
    """As a shell tells it."""
    return returncode if returncode >= 0 else 128 - returncode


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)  # a real-time signal


@contextmanager
def _arriving(*numbers: signal.Signals) -> Iterator[Arrivals]:
    """Collects these signals instead of obeying them: waits at most so long for some (None: for ever), none missed."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        former = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}

        def wait(seconds: float | None) -> list[signal.Signals]:
            if not select.select([reader], [], [], seconds)[0]:
                return []
            return [signal.Signals(number) for number in reader.recv(4096)]

        try:
            yield wait
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(former)
