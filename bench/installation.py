"""A Verger of its own for one measurement: fresh database and topology, real processes, a client."""

import asyncio
import secrets
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import pymongo

from actors.composition import connect
from bench.counting import VARIABLE
from bench.process import Process
from bench.servers import Servers
from bench.tally import Tally
from service.client import Client
from service.settings import load_settings

HANDLERS = "bench.handlers"
VERGER = str(Path(sys.executable).with_name("verger"))


class Installation:
    """Started servers, a database and a topic prefix nobody else has, and the processes started on them.

    An async context manager; when it is left, all of its processes have ended and its data is gone.
    """

    def __init__(self, servers: Servers, **environment: str) -> None:
        """``environment`` goes to each process of this installation, and wins over what is set here."""
        self.servers = servers
        self.mongo_url, self.amqp_url = servers.mongo.url, servers.rabbit.url
        self.database = self.prefix = f"bench-{secrets.token_hex(4)}"
        self.processes: list[Process] = []
        self._given = environment
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Installation":
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

    async def _open(self) -> None:
        self.folder = Path(
            self._stack.enter_context(TemporaryDirectory(prefix="verger-bench-", ignore_cleanup_errors=True))
        )
        self.tally = Tally(self.folder / "counts")
        self.environment = {
            VARIABLE: str(self.tally.folder),
            "VERGER_MONGODB_URL": self.mongo_url,
            "VERGER_AMQP_URL": self.amqp_url,
            "VERGER_DATABASE": self.database,
            "VERGER_PREFIX": self.prefix,
            "VERGER_ACTORS": HANDLERS,
            "VERGER_DATA_DIR": str(self.folder),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **self._given,
        }
        self.mongo: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(self.mongo_url, tz_aware=True)
        self._stack.callback(self.mongo.close)
        self._stack.callback(self.mongo.drop_database, self.database)
        self._stack.push_async_callback(self.servers.rabbit.delete, self.prefix)
        settings = load_settings(
            mongodb_url=self.mongo_url,
            amqp_url=self.amqp_url,
            database=self.database,
            prefix=self.prefix,
            actors=self.environment["VERGER_ACTORS"],
            data_dir=self.folder,
        )
        self.connection = await self._stack.enter_async_context(connect(settings))
        self._stack.callback(self._end_processes)

    def _end_processes(self) -> None:
        for process in self.processes:
            process.kill()

    @property
    def client(self) -> Client:
        return self.connection.client

    @property
    def tasks(self) -> Any:
        """The collection of the tasks, through pymongo: its calls block."""
        return self.mongo[self.database]["tasks"]

    @property
    def schedules(self) -> Any:
        return self.mongo[self.database]["schedules"]

    async def start_worker(self, count: int = 1, *, ready: bool = True, **environment: str) -> list[Process]:
        """Start ``count`` worker processes; returns their handles once each says that it has started."""
        return await self._start("worker", count, ready, environment)

    async def start_scheduler(self, count: int = 1, *, ready: bool = True, **environment: str) -> list[Process]:
        """The same for schedulers."""
        return await self._start("scheduler", count, ready, environment)

    async def _start(self, role: str, count: int, ready: bool, environment: dict[str, str]) -> list[Process]:
        started = []
        for _ in range(count):
            log = self.folder / f"process-{len(self.processes)}.log"
            process = Process([VERGER, "run", "--roles", role], {**self.environment, **environment}, log)
            self.processes.append(process)
            started.append(process)
        if ready:
            await asyncio.gather(*(process.logged("verger.started") for process in started))
        return started

    def kill(self, process: Process) -> None:
        """``kill -9``: it has no time to say goodbye."""
        process.kill()

    async def until_finished(self, count: int, timeout: timedelta = timedelta(minutes=5)) -> None:
        """Return once ``count`` tasks have ended. Raises TimeoutError."""
        finished = {"status": {"$in": ["completed", "failed", "cancelled"]}}
        async with asyncio.timeout(timeout.total_seconds()):
            while await asyncio.to_thread(self.tasks.count_documents, finished) < count:
                for process in self.processes:
                    process.check()
                await asyncio.sleep(0.05)


class Installations:
    """Makes them, one after another, on the same servers: what each workload is given as ``installation_factory``."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    def __call__(self, **environment: str) -> Installation:
        return Installation(self.servers, **environment)
