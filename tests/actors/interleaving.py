"""For tests of what happens between two commands of a job: at the worst moment, each time."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from pymongo import monitoring

from actors.maintenance.database import OPTIONS
from schemas.task import Task
from tests.actors.families import Family


class After(monitoring.CommandListener):
    """Calls ``action`` once, right after a command to a collection of a database has succeeded, before the job has its
    answer. ``nth``: after so many of them. Engines that are to be watched are started inside."""

    def __init__(
        self, database: str, command: str, collection: str, action: Callable[[], Any], *, nth: int = 1
    ) -> None:
        self._database, self._command, self._collection = database, command, collection
        self._action, self._nth = action, nth
        self.seen = 0
        self._asked: set[int] = set()

    @property
    def happened(self) -> bool:
        return self.seen >= self._nth

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        asked = (event.database_name, event.command_name, event.command.get(event.command_name))
        if asked == (self._database, self._command, self._collection):
            self._asked.add(event.request_id)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.request_id not in self._asked:
            return
        self._asked.discard(event.request_id)
        self.seen += 1
        if self.seen == self._nth:
            self._action()

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def __enter__(self) -> "After":
        OPTIONS.setdefault("event_listeners", []).append(self)
        return self

    def __exit__(self, *_: object) -> None:
        OPTIONS["event_listeners"].remove(self)
        if not OPTIONS["event_listeners"]:
            # A client with listeners draws from the global random numbers, which others may be watching.
            del OPTIONS["event_listeners"]


async def cancelled_after(
    family: Family, task_type: str, body: dict[str, Any], command: str, collection: str, *, nth: int
) -> Task:
    """Run a job through the engine, and ask it to stop right after its nth command; the task as it ended."""
    loop, task_id = asyncio.get_running_loop(), uuid4().hex

    def cancel() -> None:
        asyncio.run_coroutine_threadsafe(verger.client.cancel(task_id), loop).result(30)

    with After(family.memory.name, command, collection, cancel, nth=nth) as asked:
        async with family.engine() as verger:
            await verger.client.enqueue(task_type, body, id=task_id)
            await verger.run_until_idle()
            assert asked.happened
            return await verger.client.get(task_id)
