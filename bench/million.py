"""A million finished tasks in the store: what they cost a drain, and how long an operator's lists take."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.installation import VERGER, Installation, Installations
from bench.options import Options
from bench.process import Process
from bench.result import Result
from bench.tally import Tally
from schemas.task import TaskStatus
from service.client import Client, NewTask
from service.errors import StoreUnavailable
from service.store.port import TaskFilter

MILLION, QUICK_MILLION = 1_000_000, 5_000
DRAIN, QUICK_DRAIN = 20_000, 500
ROUNDS = 5
BATCH = 500
"""Tasks that are enqueued in one call."""
CHUNK = 1_000
"""Finished tasks that are inserted in one call."""
TYPES = 20
NEW, FULL = "new store", "a million finished"
DAYS = 3
LISTS = 20
"""How often each list is asked for."""
DRAIN_SECONDS = 300.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RUNNING = {"processingAt": {"$gt": EPOCH}}


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, of all its threads, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def enqueue(client: Client, count: int) -> None:
    """So many no-ops."""
    for done in range(0, count, BATCH):
        await client.enqueue_many([NewTask("bench.noop", {"planned": 0.0}) for _ in range(min(BATCH, count - done))])


async def until_recorded(installation: Installation, workers: Sequence[Process], tally: Tally, count: int) -> float:
    """Return once ``count`` tasks were counted and none is under way any more: when that was, in monotonic seconds.

    A key of a small index is all that this reads; counting what has finished would be work for the server.
    """

    def check() -> None:
        for process in workers:
            process.check()

    ran = await tally.until(count, DRAIN_SECONDS, check)
    if ran != count:
        raise RuntimeError(f"{ran} of {count} tasks were run within {DRAIN_SECONDS:g} s")
    while await asyncio.to_thread(installation.tasks.find_one, RUNNING, {"_id": 1}, hint="stale") is not None:
        await asyncio.sleep(0.01)
    return time.monotonic()


# ---- the million -----------------------------------------------------------------------------------------------------


def finished_like(template: dict[str, Any], count: int, now: datetime) -> Iterator[dict[str, Any]]:
    """Finished tasks of the shape of one that the engine has finished, each with an id, a type and dates of its own.

    Oldest first, over the last days: so the indexes grow as they do in use.
    """
    chance = random.Random(count)
    for number in range(count):
        created = now - timedelta(days=DAYS) * (1 - number / count) - timedelta(minutes=1)
        started = created + timedelta(milliseconds=chance.randint(5, 500))
        yield {
            **template,
            "_id": uuid4().hex,
            "taskType": "bench.noop" if number % TYPES == 0 else f"bench.kind-{number % TYPES}",
            "createdAt": created,
            "retryAt": created,
            "startedAt": started,
            "finishedAt": started + timedelta(milliseconds=chance.randint(1, 5_000)),
            "claimToken": uuid4().hex,
        }


def _fill(installation: Installation, count: int, say: Callable[[str], None]) -> None:
    tasks = installation.tasks
    template = tasks.find_one({"status": "completed"})
    if template is None:
        raise RuntimeError("no task has been completed yet: there is no shape to copy")
    found = finished_like(template, count, datetime.now(UTC))
    for done in range(0, count, CHUNK):
        tasks.insert_many([next(found) for _ in range(min(CHUNK, count - done))], ordered=False)
        say(f"million: {done:,} of {count:,} finished tasks inserted")


# ---- drains ----------------------------------------------------------------------------------------------------------


@dataclass
class Drained:
    """One drain: its rate, and what the server did for it, which other programs on the machine hardly change."""

    rate: float
    """Tasks a second, from the first handler to the last record."""
    server_cpu: float
    """Microseconds of MongoDB's CPU time for each task."""


async def _drain(installation: Installation, count: int) -> Drained:
    """With two new worker processes."""
    tally = Tally(installation.folder / f"counts-{len(installation.processes)}")
    await enqueue(installation.client, count)
    # What was written before is written to disk by the server once a minute: now, instead of at random.
    await asyncio.to_thread(installation.mongo.admin.command, "fsync")
    server = installation.servers.mongo.pid
    before = cpu_seconds(server)
    workers = await installation.start_worker(2, ready=False, BENCH_COUNTS=str(tally.folder))
    try:
        end = await until_recorded(installation, workers, tally, count)
        spent = cpu_seconds(server) - before
    finally:
        for worker in workers:
            worker.stop()
    return Drained(count / (end - tally.first), 1e6 * spent / count)


async def _alternate(
    stores: Mapping[str, Installation], rounds: int, count: int, options: Options
) -> dict[str, list[Drained]]:
    """Drains of each store, by its name; in each round of both, every other time the other way round."""
    drained: dict[str, list[Drained]] = {name: [] for name in stores}
    for number in range(rounds):
        for name in list(stores)[:: 1 if number % 2 == 0 else -1]:
            options.say(f"million: round {number + 1}, {name}")
            drained[name].append(await _drain(stores[name], count))
            options.step()
    return drained


# ---- an operator's lists ---------------------------------------------------------------------------------------------


async def _lists(installation: Installation, times: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """What is asked → milliseconds of each answer, and how often there was none in the time the engine gives it."""
    store = installation.connection.store.tasks
    some = (await store.find(TaskFilter(), limit=20)).cursor
    some_id = installation.tasks.find_one({}, {"_id": 1})["_id"]
    completed = TaskStatus.COMPLETED
    questions: dict[str, Callable[[], Awaitable[object]]] = {
        "list the newest": lambda: store.find(TaskFilter(), limit=20),
        "list the next page": lambda: store.find(TaskFilter(), limit=20, cursor=some),
        "list 1,000": lambda: store.find(TaskFilter(), limit=1000),
        "list completed": lambda: store.find(TaskFilter(status=completed), limit=20),
        "list failed": lambda: store.find(TaskFilter(status=TaskStatus.FAILED), limit=20),
        "list pending": lambda: store.find(TaskFilter(status=TaskStatus.PENDING), limit=20),
        "list running": lambda: store.find(TaskFilter(status=TaskStatus.RUNNING), limit=20),
        "list a type": lambda: store.find(TaskFilter(task_type="bench.kind-7"), limit=20),
        "list completed of a type": lambda: store.find(TaskFilter(completed, "bench.kind-7"), limit=20),
        "one task": lambda: store.get(some_id),
        "count by type and status": store.counts,
        "verger tasks list": lambda: _command(installation, "tasks", "list", "--json"),
    }
    found: dict[str, list[float]] = {}
    unanswered: dict[str, int] = {}
    for name, ask in questions.items():
        for _ in range(min(times, 3) if name in ("count by type and status", "verger tasks list") else times):
            begun = time.perf_counter()
            try:
                await ask()
            except StoreUnavailable:
                unanswered[name] = unanswered.get(name, 0) + 1
            else:
                found.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
    return found, unanswered


async def _command(installation: Installation, *words: str) -> None:
    """``verger`` with these words, to its end."""
    process = Process([VERGER, *words], installation.environment, installation.folder / "command.log")
    try:
        if await process.ended(60) != 0:
            raise RuntimeError(process.describe())
    finally:
        process.kill()


# ---- all of it -------------------------------------------------------------------------------------------------------


async def measure(installation_factory: Installations, options: Options) -> list[Result]:
    """The million is inserted once, and stays for all rounds.

    The other store starts empty and keeps what it drains, as that one does: the two differ in the million alone.
    """
    million, count = (QUICK_MILLION, QUICK_DRAIN) if options.quick else (MILLION, DRAIN)
    rounds = options.runs or (1 if options.quick else ROUNDS)
    options.plan(2 * rounds + 2)
    async with AsyncExitStack() as stack:
        stores = {name: await stack.enter_async_context(installation_factory()) for name in (NEW, FULL)}
        full = stores[FULL]
        options.say("million: first drains, for the shape of a finished task")
        for store in stores.values():
            await _drain(store, BATCH)
        await asyncio.to_thread(_fill, full, million, options.say)
        options.step()
        size = await asyncio.to_thread(full.mongo[full.database].command, "collStats", "tasks")
        drains = await _alternate(stores, rounds, count, options)
        options.say("million: lists")
        lists, unanswered = await _lists(full, LISTS)
        options.step()
    detail = {
        "finished": million,
        "drained": count,
        "megabytes": size["size"] / 2**20,
        "index_megabytes": size["totalIndexSize"] / 2**20,
        "unanswered": unanswered,
        "target_cost_percent": 5,
    }

    def result(variant: str, metric: str, unit: str, samples: list[float]) -> Result:
        return Result("million", "verger", variant, metric, unit, samples, detail)

    costs = [100 * (1 - loaded.rate / new.rate) for new, loaded in zip(drains[NEW], drains[FULL], strict=True)]
    return [
        *(result(variant, "drain", "tasks/s", [each.rate for each in found]) for variant, found in drains.items()),
        result(FULL, "cost of a drain", "%", costs),
        *(
            result(variant, "MongoDB's CPU", "µs a task", [each.server_cpu for each in found])
            for variant, found in drains.items()
        ),
        *(result(FULL, name, "ms", samples) for name, samples in lists.items()),
    ]
