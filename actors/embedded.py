"""The private ``mongod`` of ``verger dev``: a real server, started and ended with the process that asked for it.

It lives in the data folder::

    mongodb/        its files; they survive restarts, also on another port
    mongod.port     where it listened last; kept if it is free
    mongod.log      its log, and mongod.log.1: the one before (10 MB each)
    instance.json   where the running instance listens: for the CLI in a second terminal
    instance.lock   held while it runs: one instance per folder

For development: it listens on 127.0.0.1 only and asks for no password, so whoever has an account here can reach it.
"""

import asyncio
import fcntl
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import structlog
from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from schemas.base import Instant, Model
from service.child_process import PORTS, ending_with_parent, free_port, listening
from service.errors import ConfigError, StoreUnavailable
from service.log_events import LogEvent
from service.mongod import REPLICA_SET, check_mongod, find_mongod, mongod_command
from service.store.mongo.replica import ensure_replica_set

LOG_BYTES = 10 * 1024 * 1024
LOG_LOOK_SECONDS = 60.0
LOCK_SECONDS = 5.0
"""How long the mongod of a killed instance may still hold its folder."""
START_SECONDS = 60.0
STOP_SECONDS = 15.0
PORT_TAKEN = 48
FOLDER_TAKEN = 100
"""What mongod exits with."""


class Instance(Model):
    """What a running ``verger dev`` tells others."""

    mongodb_url: str
    pid: int
    started_at: Instant


@dataclass(slots=True)
class EmbeddedMongo:
    """A running server. ``url`` is ready for clients."""

    url: str
    pid: int
    _process: Process
    _undo: AsyncExitStack = field(repr=False)

    async def wait(self) -> int:
        """Its exit code, once it has ended; before ``stop`` that is a failure."""
        return await self._process.wait()

    async def stop(self) -> None:
        """End it in order; may be called twice."""
        await self._undo.aclose()


async def start_mongod(
    data_dir: Path, *, mongod: Path | None = None, log: FilteringBoundLogger | None = None
) -> EmbeddedMongo:
    """Start the server of ``data_dir`` and wait until it is primary (about a second).

    Call it from the main thread: the server ends with the thread that started it.

    Args:
        mongod: the setting ``VERGER_MONGOD``.

    Raises:
        ConfigError: there is no usable mongod, or another instance runs on this folder.
        StoreUnavailable: the server ended, or did not become primary; names its log.
    """
    log = log or structlog.get_logger()
    binary = find_mongod(mongod)
    await check_mongod(binary)
    data_dir = _made(data_dir)
    async with AsyncExitStack() as undo:
        undo.enter_context(_only_instance(data_dir))
        started = time.monotonic()
        process, port = await _start(binary, data_dir)
        undo.push_async_callback(_end, process)
        undo.callback(asyncio.create_task(_bound_log(process, data_dir), name="mongod log").cancel)
        url = f"mongodb://127.0.0.1:{port}/?replicaSet={REPLICA_SET}&directConnection=true"
        undo.enter_context(_announced(data_dir, url))
        log.info(
            LogEvent.MONGOD_STARTED, url=url, pid=process.pid, duration_ms=round((time.monotonic() - started) * 1000)
        )
        return EmbeddedMongo(url, process.pid, process, undo.pop_all())


def read_instance(data_dir: Path) -> Instance | None:
    """The instance that runs on ``data_dir``; None if none does, whatever a killed one left behind.

    Raises:
        ConfigError: the folder cannot be read.
    """
    try:
        instance = Instance.model_validate_json((data_dir / "instance.json").read_bytes())
        with (data_dir / "instance.lock").open("rb") as lock:
            return None if _acquired(lock, fcntl.LOCK_SH) else instance
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    except OSError as error:
        raise ConfigError(f"VERGER_DATA_DIR {str(data_dir)!r} cannot be read: {error.strerror}") from error


def _made(data_dir: Path) -> Path:
    try:
        (data_dir / "mongodb").mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "instance.lock").touch()
    except OSError as error:
        raise ConfigError(f"VERGER_DATA_DIR {str(data_dir)!r} cannot be used: {error.strerror}") from error
    return data_dir.absolute()


# -- one instance per folder -------------------------------------------------------------------------------------------


@contextmanager
def _only_instance(data_dir: Path) -> Iterator[None]:
    """Hold the folder's lock. The kernel gives it back when the process ends, however it ends."""
    with (data_dir / "instance.lock").open("a+b") as lock:
        for _ in range(5):  # a reader holds it for an instant
            if _acquired(lock, fcntl.LOCK_EX):
                break
            time.sleep(0.02)
        else:
            lock.seek(0)
            pid = lock.read().decode(errors="replace").strip() or "unknown"
            other = f"another `verger dev` (process {pid}) runs on {data_dir}"
            raise ConfigError(f"{other}; end it, or set VERGER_DATA_DIR to another folder")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()
        yield


def _acquired(lock: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _announced(data_dir: Path, url: str) -> Iterator[None]:
    instance = Instance(mongodb_url=url, pid=os.getpid(), started_at=datetime.now(UTC))
    path = data_dir / "instance.json"
    draft = path.with_suffix(".tmp")
    draft.write_text(instance.model_dump_json(by_alias=True) + "\n")
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


# -- the process -------------------------------------------------------------------------------------------------------


async def _start(binary: Path, data_dir: Path) -> tuple[Process, int]:
    """Start it on the port of last time, else on a free one; again while a dying server holds the folder."""
    log = data_dir / "mongod.log"
    _rotate(log)
    deadline = time.monotonic() + LOCK_SECONDS
    port = free_port(_last_port(data_dir))
    while True:
        process = await asyncio.create_subprocess_exec(
            *ending_with_parent(*mongod_command(binary, data_dir / "mongodb", log, port)),
            stdin=DEVNULL,
            stdout=DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: it must outlive the tasks that are finishing
        )
        try:
            if await _primary(process, port):
                (data_dir / "mongod.port").write_text(f"{port}\n")
                return process, port
        except BaseException:
            await _end(process)
            raise
        if process.returncode not in (PORT_TAKEN, FOLDER_TAKEN) or time.monotonic() > deadline:
            raise StoreUnavailable(f"mongod ended with exit code {process.returncode}; see {log}")
        await asyncio.sleep(0.1)
        port = free_port()


def _last_port(data_dir: Path) -> int:
    # Not for beauty: a server that moved asks whoever is on its old port whether it is itself, and a stranger there
    # that never answers holds up the start for half a minute.
    try:
        port = int((data_dir / "mongod.port").read_text())
    except (FileNotFoundError, ValueError):
        return 0
    return port if port in PORTS else 0


async def _primary(process: Process, port: int) -> bool:
    """Wait until the process is primary (true) or has ended (false)."""

    async def ready() -> None:
        await listening(port)
        host, pid = f"127.0.0.1:{port}", process.pid
        await ensure_replica_set(f"mongodb://{host}/", host, REPLICA_SET, pid=pid, timeout_seconds=START_SECONDS)

    becoming = asyncio.create_task(ready(), name="mongod ready")
    ending = asyncio.create_task(process.wait(), name="mongod end")
    try:
        await asyncio.wait((becoming, ending), return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            return False
        await becoming
        return True
    finally:
        becoming.cancel()
        ending.cancel()
        await asyncio.gather(becoming, ending, return_exceptions=True)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _bound_log(process: Process, data_dir: Path) -> None:
    log = data_dir / "mongod.log"
    while True:
        await asyncio.sleep(LOG_LOOK_SECONDS)
        with suppress(OSError):  # the folder or the process is going away
            if _rotate(log):
                process.send_signal(signal.SIGUSR1)  # it opens the file afresh


def _rotate(log: Path) -> bool:
    if not log.exists() or log.stat().st_size <= LOG_BYTES:
        return False
    log.replace(log.with_name(log.name + ".1"))
    return True
