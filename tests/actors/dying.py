"""A process that runs one job through the engine and kills itself in the middle of it."""

import asyncio
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pymongo import monitoring

from actors.testing import sandbox

WRITES = frozenset({"insert", "update", "delete", "findAndModify"})
EVENTS = {"renames": ("os.rename", "os.link"), "removes": ("os.remove", "os.rmdir"), "opens": ("open",)}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Writes(monitoring.CommandListener):
    def __init__(self, database: str, after: int) -> None:
        self._database, self._after, self._count = database, after, itertools.count(1)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.command_name in WRITES and event.database_name == self._database and next(self._count) >= self._after:
            die()

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


def watch_files(of: str, below: str, after: int) -> None:
    """The files' own events: each is told right before it happens."""
    count = itertools.count(1)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS[of] or not os.fsdecode(args[0] if isinstance(args[0], (str, bytes)) else "").startswith(
            below
        ):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if next(count) >= after:
            die()

    sys.addaudithook(hook)


async def main(order: dict[str, Any]) -> None:
    settings = order["settings"]
    below = settings.pop("below", str(settings.get("data_dir", "")))
    if order["of"] == "writes":
        monitoring.register(Writes(settings["memory_database"], order["after"]))
    else:
        watch_files(order["of"], str(Path(below)), order["after"])
    async with sandbox(order["modules"], mongodb_url=order["mongodbUrl"], **settings) as verger:
        task = await verger.client.enqueue(order["taskType"], order["body"])
        await verger.run_until_idle()
        print((await verger.client.get(task.id)).model_dump_json())


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
