"""One system, set up afresh for one measurement: its workers, its sender, and what it has recorded as finished."""

import asyncio
import json
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from bench.counting import VARIABLE
from bench.installation import Installation
from bench.process import ROOT, Process
from bench.servers import Servers
from bench.system import System
from bench.tally import Tally

SENDER_SECONDS = 300.0


class Deployment(ABC):
    """An async context manager; when it is left, its processes have ended and its data is gone."""

    tally: Tally

    def __init__(self, system: System, servers: Servers) -> None:
        self.system, self.servers = system, servers
        self._stack = AsyncExitStack()
        self._senders = 0

    async def __aenter__(self) -> "Deployment":
        if self.system.missing is not None:
            raise RuntimeError(f"{self.system.title} cannot run: {self.system.missing}")
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _open(self) -> None: ...

    @abstractmethod
    async def start(self, processes: int, *, slots: int | None = None) -> None:
        """Start the workers. ``slots``: tasks at once in each process; None: as the system recommends for no-ops."""

    @abstractmethod
    async def recorded(self) -> int | None:
        """How many tasks its store holds as finished; None: it keeps no results."""

    @abstractmethod
    def check(self) -> None:
        """An error if a worker has ended."""

    @abstractmethod
    def _sender(self) -> tuple[list[str], Mapping[str, str], Path]:
        """Command, environment and folder of its sender."""

    @property
    @abstractmethod
    def _folder(self) -> Path: ...

    async def send(self, *arguments: str | float) -> dict[str, Any]:
        """Run the sender to its end; returns what it measured."""
        command, environment, folder = self._sender()
        self._senders += 1
        log = self._folder / f"sender-{self._senders}.log"
        process = Process([*command, *map(str, arguments)], environment, log, folder)
        try:
            code = await process.ended(SENDER_SECONDS)
        finally:
            process.kill()
        lines = log.read_text().splitlines()
        if code != 0 or not lines or not lines[-1].startswith("{"):
            raise RuntimeError(f"the sender of {self.system.key} ended with exit code {code}: {process.describe()}")
        measured: dict[str, Any] = json.loads(lines[-1])
        return measured


class VergerDeployment(Deployment):
    """Verger, as it is released: worker processes, a client, no scheduler (nothing is due or lost here)."""

    async def _open(self) -> None:
        self._installation = await self._stack.enter_async_context(Installation(self.servers))
        self.tally = self._installation.tally

    async def start(self, processes: int, *, slots: int | None = None) -> None:
        given = {} if slots is None else {"VERGER_CONCURRENCY": str(slots)}
        await self._installation.start_worker(processes, ready=False, **given)

    async def recorded(self) -> int | None:
        return await asyncio.to_thread(self._installation.tasks.count_documents, {"status": "completed"})

    def check(self) -> None:
        for process in self._installation.processes:
            process.check()

    def _sender(self) -> tuple[list[str], Mapping[str, str], Path]:
        command = [sys.executable, "-m", "bench.verger_sender", self.system.variant]
        return command, self._installation.environment, ROOT

    @property
    def _folder(self) -> Path:
        return self._installation.folder


class PeerDeployment(Deployment):
    """A peer, on a database and names of its own."""

    async def _open(self) -> None:
        folder = TemporaryDirectory(prefix="verger-bench-", ignore_cleanup_errors=True)
        self._own_folder = Path(self._stack.enter_context(folder))
        self.tally = Tally(self._own_folder / "counts")
        self._database = f"bench-{secrets.token_hex(4)}"
        self._workers: list[Process] = []
        self._environment = {
            VARIABLE: str(self.tally.folder),
            "BENCH_AMQP_URL": self.servers.rabbit.url,
            "BENCH_MONGO_URL": self.servers.mongo.url,
            "BENCH_DATABASE": self._database,
            "BENCH_RESULTS": "yes" if self.system.store else "no",
            "PYTHONPATH": str(ROOT),
        }
        self._stack.push_async_callback(self.servers.rabbit.delete, self._database)
        self._store = self.system.store(self.servers, self._database) if self.system.store else None
        if self._store is not None:
            self._stack.push_async_callback(self._store.close)
            self._environment |= await self._store.open()
        self._stack.callback(self._end_workers)
        await self.send("prepare")

    def _end_workers(self) -> None:
        for process in self._workers:
            process.kill()

    async def start(self, processes: int, *, slots: int | None = None) -> None:
        for command in self.system.workers(processes, slots):
            log = self._own_folder / f"worker-{len(self._workers)}.log"
            self._workers.append(Process(command, self._environment, log, self.system.folder))

    async def recorded(self) -> int | None:
        return None if self._store is None else await self._store.finished()

    def check(self) -> None:
        for process in self._workers:
            process.check()

    def _sender(self) -> tuple[list[str], Mapping[str, str], Path]:
        return list(self.system.sender), self._environment, self.system.folder

    @property
    def _folder(self) -> Path:
        return self._own_folder


def deploy(system: System, servers: Servers) -> Deployment:
    return (VergerDeployment if system.name == "verger" else PeerDeployment)(system, servers)
