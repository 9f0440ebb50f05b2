"""A whole installation for one test: real servers, real processes that can be killed, and a look at what happened."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
from pymongo import MongoClient

from actors.composition import task_types
from schemas.task import Task, TaskStatus
from service.broker.names import Names
from service.broker.rabbitmq import RabbitBroker
from service.child_process import ending_with_parent
from service.client import Client, NewTask
from service.errors import StoreUnavailable
from service.registry import Registry, load
from service.store.mongo import MongoStore

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
STALE_SECONDS = 3
PATIENT = {"VERGER_STALE_CLAIM_TIMEOUT": "60s"}
"""For tests in which nothing may be rescued, however long the machine looks away."""


class Process:
    """A child process, or one with children of its own, whose log lines are read afterwards."""

    def __init__(self, module: str, roles: str, environment: Mapping[str, str], log: Path, processes: int = 1) -> None:
        self.log_file = log
        program = [module, roles]
        if processes > 1:
            program = ["actors.cli", "run", "--roles", roles, "--processes", str(processes)]
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                ending_with_parent(sys.executable, "-W", "error", "-m", *program),
                cwd=ROOT,
                env={**os.environ, "PYTHONWARNINGS": "error", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def children(self) -> list[int]:
        """Their process ids, without those whose end it has told."""
        died = [line["pid"] for line in self.events("process.died")]
        return [line["pid"] for line in self.events("process.started") if line["pid"] not in died]

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            self._child.send_signal(number)

    def kill(self) -> None:
        """Itself alone."""
        self.signal(signal.SIGKILL)
        self._child.wait()

    async def ended(self, seconds: float = 60) -> int:
        """Its exit code."""
        return await asyncio.wait_for(asyncio.to_thread(self._child.wait), seconds)

    def log(self) -> list[dict[str, Any]]:
        """Its log lines; what is no JSON is a line ``{"raw": …}``."""
        lines = []
        for line in self.log_file.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"raw": line})
        return lines

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line.get("event") == name]


class Installation:
    """Processes on one database and one topology of their own."""

    program = "tests.promises.process"
    """The module that each process runs."""

    def __init__(self, mongo_url: str, amqp_url: str, database: str, prefix: str, folder: Path) -> None:
        self.mongo_url, self.amqp_url, self.database, self.names = mongo_url, amqp_url, database, Names(prefix)
        self.folder = folder
        self.processes: list[Process] = []
        self.environment = {
            "VERGER_MONGODB_URL": mongo_url,
            "VERGER_AMQP_URL": amqp_url,
            "VERGER_DATABASE": database,
            "VERGER_PREFIX": prefix,
            "VERGER_ACTORS": "tests.handlers",
            "VERGER_STALE_CLAIM_TIMEOUT": f"{STALE_SECONDS}s",
            "VERGER_SHUTDOWN_GRACE": "5s",
            "VERGER_CONCURRENCY": "20",
            "VERGER_DATA_DIR": str(folder),
        }
        self.registry: Registry = load(["tests.handlers"])
        self._stack = AsyncExitStack()
        self._database: MongoClient[dict[str, Any]] = MongoClient(
            mongo_url,
            tz_aware=True,
            readConcernLevel="majority",  # what the product reads: not what it does not see yet
        )
        self._stack.callback(self._database.close)

    async def open(self) -> None:
        self.store = MongoStore(self.mongo_url, self.database)
        self._stack.push_async_callback(self.store.close)
        await self.store.open()
        self.broker = RabbitBroker(self.amqp_url, self.names, self.store.clock)
        self._stack.push_async_callback(self.broker.close)
        await self.broker.open(task_types(self.registry))
        self.client = Client(self.store, self.broker, self.registry)

    async def close(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGCONT)
            left = process.children if process.alive else []
            process.kill()
            for child in left:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        await self._stack.aclose()

    async def start(
        self,
        roles: str = "worker",
        *,
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        processes: int = 1,
    ) -> Process:
        """Start a process, with so many children if there are to be several, and wait until all say that they have
        started."""
        log = self.folder / f"process-{len(self.processes)}.log"
        process = Process(self.program, roles, {**self.environment, **(environment or {})}, log, processes)
        self.processes.append(process)
        if ready:
            await self.until(
                lambda: len(process.events("verger.started")) >= processes or not process.alive, "the process to start"
            )
            assert process.alive, process.log()[-5:]
        return process

    async def enqueue_surely(self, *tasks: NewTask) -> list[Task]:
        """As a caller does it who may not lose one: when the store does not answer, the same ids again."""
        named = [replace(task, id=task.id or uuid4().hex) for task in tasks]
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self.client.enqueue_many(named)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise

    # ---- looking ---------------------------------------------------------------------------------

    @property
    def tasks(self) -> Any:
        return self._database[self.database]["tasks"]

    @property
    def schedules(self) -> Any:
        return self._database[self.database]["schedules"]

    def marks(self, what: str = "start", **query: Any) -> list[dict[str, Any]]:
        """What handlers really did, oldest first."""
        found = self._database[self.database]["marks"].find({"what": what, **query}).sort("at", 1)
        return list(found)

    def runs(self) -> Counter[str]:
        """Task id → how often its handler was started."""
        return Counter(mark["task"] for mark in self.marks())

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> float:
        """Wait until something shows from outside; returns how long that took."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > seconds:
                raise AssertionError(f"waited {seconds:g} s for {what}; {self.describe()}")
            await asyncio.sleep(0.05)
        return time.monotonic() - begun

    async def all_finished(self, count: int, seconds: float = PATIENCE) -> None:
        finished = {"status": {"$in": ["completed", "failed", "cancelled"]}}
        await self.until(lambda: self.tasks.count_documents(finished) >= count, f"{count} finished tasks", seconds)

    async def task(self, task_id: str) -> Task:
        return await self.client.get(task_id)

    async def status(self, task_id: str, status: TaskStatus, seconds: float = PATIENCE) -> Task:
        await self.until(
            lambda: (self.tasks.find_one({"_id": task_id}) or {}).get("status") == status.value,
            f"{task_id} to be {status.value}",
            seconds,
        )
        return await self.task(task_id)

    def progress(self, task_id: str) -> dict[str, Any] | None:
        """What the store says of it."""
        found: dict[str, Any] | None = (self.tasks.find_one({"_id": task_id}) or {}).get("progress")
        return found

    def describe(self) -> str:
        statuses = Counter(f"{task['taskType']} {task['status']}" for task in self.tasks.find())
        return f"tasks: {dict(statuses)}; logs: {[process.log()[-3:] for process in self.processes]}"

    # ---- the broker, through another client library ----------------------------------------------

    def publish(self, *messages: tuple[str, bytes, pika.BasicProperties | None]) -> None:
        """Publish (routing key, body, properties) with pika, confirmed."""
        with pika.BlockingConnection(pika.URLParameters(self.amqp_url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for key, body, properties in messages:
                channel.basic_publish(self.names.tasks, key, body, properties or pika.BasicProperties(delivery_mode=2))

    def take_dead_letters(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Every message on the dead-letter queue, with its headers."""
        letters: list[tuple[bytes, dict[str, Any]]] = []
        with pika.BlockingConnection(pika.URLParameters(self.amqp_url)) as connection:
            channel = connection.channel()
            while True:
                method, properties, body = channel.basic_get(self.names.dead_letters, auto_ack=True)
                if method is None:
                    return letters
                letters.append((body, dict(properties.headers or {})))

    def depth(self, task_type: str) -> int:
        with pika.BlockingConnection(pika.URLParameters(self.amqp_url)) as connection:
            queue = connection.channel().queue_declare(self.names.queue(task_type), passive=True)
            return int(queue.method.message_count)
