"""For tests of what happens between two commands of a job: at the worst moment, each time."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from pymongo import monitoring

from schemas.task import Task
from tests.actors.families import Family

_listeners: list["After"] = []


class After:
    """Calls ``action`` once, right after a command to a collection of a database has succeeded, before the job has its
    answer. ``nth``: after so many of them."""

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

    def __enter__(self) -> "After":
        _listeners.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _listeners.remove(self)


class _Listener(monitoring.CommandListener):
    """Registered once and for all: clients ask for listeners when they are made."""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        for each in _listeners:
            each.started(event)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        for each in _listeners:
            each.succeeded(event)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


monitoring.register(_Listener())


async def cancelled_after(
    family: Family, task_type: str, body: dict[str, Any], command: str, collection: str, *, nth: int
) -> Task:
    """Run a job through the engine, and ask it to stop right after its nth command; the task as it ended."""
    loop = asyncio.get_running_loop()
    async with family.engine() as verger:
        task_id = uuid4().hex

        def cancel() -> None:
            asyncio.run_coroutine_threadsafe(verger.client.cancel(task_id), loop).result(30)

        with After(family.memory.name, command, collection, cancel, nth=nth) as asked:
            await verger.client.enqueue(task_type, body, id=task_id)
            await verger.run_until_idle()
        assert asked.happened
        return await verger.client.get(task_id)
