"""For tests of the maintenance actors: run a job through the engine, die in the middle of it, look at what is left."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.maintenance.database import OPTIONS, Client, Database, Document
from actors.testing import Verger, sandbox
from schemas.task import Task, TaskStatus

ROOT = Path(__file__).parents[2]
SECONDS = 60.0


@dataclass
class Family:
    """Modules of actors on a database of their own. ``settings`` are fields of ``Settings``."""

    modules: tuple[str, ...]
    mongo_url: str
    memory: Database
    settings: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def engine(self, **settings: Any) -> AsyncIterator[Verger]:
        """A whole installation inside the test. Its clock stands apart from the server's when it is advanced."""
        options = {"memory_database": self.memory.name, **self.settings, **settings}
        async with sandbox(list(self.modules), mongodb_url=self.mongo_url, **options) as verger:
            yield verger

    async def run(self, task_type: str, body: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        """Run a job once, through the engine; its result. Fails if the task does not complete."""
        task = await self.task(task_type, body, **settings)
        assert task.status is TaskStatus.COMPLETED, (task.status, task.reason, task.last_error)
        assert isinstance(task.result, dict)
        return task.result

    async def task(self, task_type: str, body: Mapping[str, Any] | None = None, **settings: Any) -> Task:
        """Run a job once, through the engine; the task as it ended."""
        async with self.engine(**settings) as verger:
            made = await verger.client.enqueue(task_type, dict(body or {}))
            await verger.run_until_idle()
            return await verger.client.get(made.id)

    async def die(
        self, task_type: str, body: Mapping[str, Any] | None = None, *, after: int, of: str = "writes", **settings: Any
    ) -> None:
        """Run a job in a process of its own, which kills itself (SIGKILL) in the middle.

        Args:
            after: Dies right after so many have happened:
            of: ``writes`` to the memory database that have succeeded, or ``renames``, ``removes``, ``opens`` (for
                writing) of files that are about to happen, below ``settings["data_dir"]`` or the folder ``below``.
        """
        options = {"memory_database": self.memory.name, **self.settings, **settings}
        order = {
            "modules": list(self.modules),
            "mongodbUrl": self.mongo_url,
            "taskType": task_type,
            "body": dict(body or {}),
            "settings": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
            "after": after,
            "of": of,
        }
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.actors.dying",
            json.dumps(order),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(child.communicate(), SECONDS)
        assert child.returncode == -signal.SIGKILL, f"it did not come to that: {output.decode()[-2000:]}"

    async def contents(self, *, without: frozenset[str] = frozenset()) -> dict[str, list[Document]]:
        """Every document of the memory database by collection, without some fields: to compare two outcomes."""
        found = {}
        for name in sorted(await self.memory.list_collection_names()):
            documents = await self.memory[name].find({}, sort=[("_id", 1)]).to_list(None)
            if documents:
                found[name] = [{key: each[key] for key in each if key not in without} for each in documents]
        return found


def connect(mongo_url: str) -> Client:
    """As the worker's resource ``memory`` connects."""
    options: dict[str, Any] = OPTIONS
    return Client(mongo_url, **options)


def stages(plan: Any) -> set[str]:
    """The stages of an ``explain``: a query that no index serves has ``COLLSCAN`` among them."""
    if isinstance(plan, dict):
        own = {plan["stage"]} if isinstance(plan.get("stage"), str) else set()
        return own.union(*(stages(value) for value in plan.values()))
    if isinstance(plan, list):
        return set().union(*(stages(value) for value in plan))
    return set()
