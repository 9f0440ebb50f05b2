"""For tests of the maintenance actors: stop a job in the middle of its writes, and see how the server served it."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from pymongo import monitoring

from actors.maintenance.database import OPTIONS
from schemas.task import Task
from tests.actors.dying import WRITES
from tests.actors.families import SECONDS, Family


class Pause(monitoring.CommandListener):
    """Holds up the writer after so many writes to a database, until ``go_on``."""

    def __init__(self, database: str, after: int) -> None:
        self._database, self._left = database, after
        self.reached, self.go_on = threading.Event(), threading.Event()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.command_name in WRITES and event.database_name == self._database:
            self._left -= 1
            if not self._left:
                self.reached.set()
                self.go_on.wait(SECONDS)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


async def cancel(family: Family, task_type: str, body: Mapping[str, Any], *, after: int) -> Task:
    """Run a job and cancel it after so many writes, so that it stops at the end of some batch soon after that; the task
    as it ended."""
    pause = Pause(family.memory.name, after)
    OPTIONS["event_listeners"] = [pause]
    try:
        async with family.engine() as verger:
            task = await verger.client.enqueue(task_type, dict(body))
            assert await asyncio.to_thread(pause.reached.wait, SECONDS), "it did not come to that"
            await verger.client.cancel(task.id)
            pause.go_on.set()
            await verger.run_until_idle()
            return await verger.client.get(task.id)
    finally:
        pause.go_on.set()
        del OPTIONS["event_listeners"]


async def plans(family: Family, task_type: str, body: Mapping[str, Any] | None = None) -> set[tuple[str, str]]:
    """Run a job; collection and plan of each of its queries, as the server's profiler saw them."""
    await family.memory.command({"profile": 2})
    try:
        await family.run(task_type, body)
    finally:
        await family.memory.command({"profile": 0})
    profile = family.memory["system.profile"]
    seen = {
        (each["ns"].split(".", 1)[1], each["planSummary"])
        async for each in profile.find({"planSummary": {"$exists": True}})
        if each["ns"] != f"{family.memory.name}.system.profile"
    }
    await profile.drop()
    return seen
