"""Recovery: a worker is killed under load, again and again: how long until what it had claimed is started again."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from actors import Context, actor
from bench.installation import Installation, Installations
from bench.options import Options
from bench.process import Process
from bench.result import Result
from service.client import NewTask

KILLS, QUICK_KILLS = 20, 2
STALE_SECONDS = 5
NAP_SECONDS = 0.1
RATE = 200
"""Tasks a second, whatever becomes of the workers: about ten are under way in each of the two."""
FEEDS_A_SECOND = 20
SETTLED_SECONDS = 1.0
"""A write that was under way at the kill has arrived by then, and no claim is stale yet."""
PATIENCE_SECONDS = 60.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# ---- what a worker runs ----------------------------------------------------------------------------------------------


class Nap(BaseModel):
    """What ``bench.marked`` takes."""

    seconds: float = 0.0


@actor("bench.marked")
async def marked(body: Nap, ctx: Context) -> None:
    """Leave a mark, then wait."""
    os.write(_marks_file(ctx.settings.data_dir), f"{ctx.task.id}\n".encode())
    await asyncio.sleep(body.seconds)


@cache
def _marks_file(folder: Path) -> int:
    # Each mark is one write to a file that nobody else writes: it is there although the process is killed right after.
    return os.open(folder / f"marks-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def marks(folder: Path) -> Counter[str]:
    """Task id → how often its handler was started, by any process."""
    return Counter(line for path in folder.glob("marks-*") for line in path.read_text().splitlines())


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; there must be one."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# ---- the measurement -------------------------------------------------------------------------------------------------


@dataclass
class Kill:
    """What became of the claims of one victim."""

    held: Collection[str]
    """Ids of the tasks that it had claimed."""
    seconds: list[float]
    """From the kill to the next start of each of them, by the store's clock."""


@dataclass
class Load:
    """Tasks at a steady rate until it is told to stop."""

    installation: Installation
    accepted: list[str] = field(default_factory=list)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        planned = loop.time()
        while True:
            batch = [NewTask("bench.marked", {"seconds": NAP_SECONDS}) for _ in range(RATE // FEEDS_A_SECOND)]
            self.accepted += [task.id for task in await self.installation.client.enqueue_many(batch)]
            planned += 1 / FEEDS_A_SECOND
            await asyncio.sleep(max(0.0, planned - loop.time()))


def _found(tasks: Any, query: dict[str, Any], *fields: str) -> dict[str, dict[str, Any]]:
    """Task id → these fields of it."""
    return {task["_id"]: task for task in tasks.find(query, dict.fromkeys(fields, 1))}


async def _kill(installation: Installation, victim: Process) -> Kill:
    tasks = installation.tasks
    killed_at = installation.connection.store.clock.now()
    victim.kill()
    await asyncio.sleep(SETTLED_SECONDS)
    owned = {"processingAt": {"$gt": EPOCH}, "claimedBy": {"$regex": f"-{victim.pid}(-|$)"}}
    held = await asyncio.to_thread(_found, tasks, owned, "fence")
    waiting = set(held)
    seconds: list[float] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while waiting:
            query = {"_id": {"$in": list(waiting)}}
            for task_id, task in (await asyncio.to_thread(_found, tasks, query, "fence", "startedAt")).items():
                if task["fence"] > held[task_id]["fence"]:
                    seconds.append((task["startedAt"] - killed_at).total_seconds())
                    waiting.discard(task_id)
            await asyncio.sleep(0.05)
    return Kill(held.keys(), seconds)


async def _kills(installation: Installation, count: int, options: Options) -> list[Kill]:
    workers = await installation.start_worker(2)
    await asyncio.sleep(2)  # both are at work
    kills = []
    for number in range(1, count + 1):
        options.say(f"recovery: kill {number} of {count}")
        victim = workers.pop(0)
        killing = asyncio.create_task(_kill(installation, victim))
        await asyncio.sleep(0)
        # Its successor starts at once, as a supervisor of processes would have it.
        successor = (await installation.start_worker(1, ready=False))[0]
        workers.append(successor)
        kills.append(await killing)
        await successor.logged("verger.started")
        await asyncio.sleep(random.uniform(0.5, 2.5))  # kills meet the heartbeat and the scheduler at any moment
        options.step()
    return kills


async def _unfinished(installation: Installation, accepted: Collection[str]) -> int:
    """How many of the accepted tasks do not complete, however long one waits."""
    finished = {"taskType": "bench.marked", "status": "completed", "finishedAt": {"$gt": EPOCH}}
    left = len(accepted)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while left:
                done = await asyncio.to_thread(_found, installation.tasks, finished, "_id")
                left = len(set(accepted) - done.keys())
                await asyncio.sleep(0.2)
    return left


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """Two workers and a scheduler; each kill takes the older worker, and a new one starts."""
    count = QUICK_KILLS if options.quick else options.runs or KILLS
    options.plan(count)
    given = {"VERGER_ACTORS": "bench.recovery", "VERGER_STALE_CLAIM_TIMEOUT": f"{STALE_SECONDS}s"}
    async with installation_factory(**given) as installation:
        await installation.start_scheduler()
        load = Load(installation)
        feeding = asyncio.create_task(load.run())
        try:
            kills = await _kills(installation, count, options)
        finally:
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding
        lost = await _unfinished(installation, load.accepted)
        ran = marks(installation.folder)
    return _results(kills, load.accepted, lost, ran)


def _results(kills: Sequence[Kill], accepted: Sequence[str], lost: int, ran: Counter[str]) -> list[Result]:
    held = {task_id for kill in kills for task_id in kill.held}
    again = {task_id for task_id, starts in ran.items() if starts > 1}
    every = [seconds for kill in kills for seconds in kill.seconds]
    if not every:
        raise RuntimeError("no victim had claimed anything when it was killed")
    detail = {
        "kills": len(kills),
        "stale_seconds": STALE_SECONDS,
        "claims_held": [len(kill.held) for kill in kills],
        "accepted": len(accepted),
        "target_seconds": STALE_SECONDS + 3,
    }

    def result(metric: str, unit: str, *samples: float) -> Result:
        return Result("recovery", "verger", "2 workers", metric, unit, list(samples), detail)

    return [
        result("all claims started again", "s", *(max(kill.seconds) for kill in kills if kill.seconds)),
        *(result(f"claim started again p{share * 100:.0f}", "s", quantile(every, share)) for share in (0.5, 0.99)),
        result("tasks lost", "tasks", lost),
        result("tasks run twice", "tasks", len(again)),
        result("tasks run twice that were not under way at a kill", "tasks", len(again - held)),
    ]
