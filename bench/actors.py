"""python -m bench.actors [--rows N] [--only NAME] [--quick]: the maintenance actors on much data, and their memory.

Each job is run through the engine in a process of its own, on generated data: at a tenth of the rows, then at all of
them. Its memory is the most that this process ever had; flat means that both are nearly equal. The server's profiler
tells of each query that no index served.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pymongo
from aiohttp import web
from rich.console import Console
from rich.table import Table

from actors.files import indexes as files_indexes
from actors.files.collections import Collections as FilesCollections
from actors.maintenance.indexes import Indexes
from actors.memories import indexes as memories_indexes
from actors.memories.collections import Collections as MemoriesCollections
from actors.testing import sandbox
from bench.machine import MACHINE, note
from bench.options import Options
from bench.process import Process
from bench.result import Result, load, save
from schemas.task import TaskStatus
from service.child_process import free_port
from service.logs import configure_logs
from service.settings import Settings
from tests.servers import MongoServer

Document = dict[str, Any]
Database = pymongo.database.Database[Document]

QUICK = 20
"""A quick run has so many times fewer rows."""
HOUR = 3600.0
FLAT = 0.15
"""Memory that grows by no more than this part, while the rows become ten times as many, is flat."""
MOST_MB = 150
NAMES = MemoriesCollections()


@dataclass
class Place:
    """Where the data of one run goes."""

    memory: Database
    folder: Path
    received: int = 0
    """Lines that the receiver got."""
    port: int = 0
    """Of the receiver, on 127.0.0.1."""


@dataclass(frozen=True)
class Run:
    """What one process said of its run."""

    rows: int
    seconds: float
    peak_mb: float
    before_mb: float
    """Its most before the job."""
    scans: int
    """Queries that went through a collection."""
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Job:
    """A job and its data. ``prepare`` answers the task's body."""

    task_type: str
    rows: int
    unit: str
    prepare: Callable[[Place, int], Document]
    counted: str
    """The count that says that the rows were really worked on."""
    share: float = 1.0
    """Of the rows: so many are counted at least."""
    twice: bool = False
    """Only the second run is measured: the one that finds nothing to do."""
    most_mb: float | None = None

    @property
    def name(self) -> str:
        return self.task_type.partition(".")[2]


# ---- data, made by the server itself ---------------------------------------------------------------------------------


def _numbered(rows: int, document: Document, into: str) -> list[Document]:
    """A pipeline that makes so many documents; ``$n`` is the number of each."""
    thousands = {"$range": [0, -(-rows // 1000)]}
    number = {"$add": [{"$multiply": ["$a", 1000]}, "$b"]}
    return [
        {"$documents": [{"a": thousands, "b": {"$range": [0, 1000]}}]},
        {"$unwind": "$a"},
        {"$unwind": "$b"},
        {"$project": {"n": number}},
        {"$match": {"n": {"$lt": rows}}},
        {"$project": document},
        {"$out": into},
    ]


def _days_ago(days: object) -> Document:
    return {"$dateSubtract": {"startDate": "$$NOW", "unit": "hour", "amount": {"$multiply": [days, 24]}}}


def _of(values: Sequence[object], number: object = "$n") -> Document:
    return {"$arrayElemAt": [list(values), {"$mod": [number, len(values)]}]}


def _text(number: object = "$n") -> Document:
    return {"$concat": [{"$toString": number}, *[" is a note about tides and presses"] * 6]}


def _make(place: Place, indexes: Indexes, collections: Mapping[str, tuple[int, Document]]) -> None:
    for name, (rows, document) in collections.items():
        place.memory.aggregate(_numbered(rows, document, name))
    for name, wanted in indexes.items():
        place.memory[name].create_indexes(list(wanted))


def _memory(**fields: object) -> Document:
    """A hundred tenants; last recalled in the last year."""
    return {
        "_id": {"$concat": ["m-", {"$toString": "$n"}]},
        "tenantId": {"$concat": ["t-", {"$toString": {"$mod": ["$n", 100]}}]},
        "clusterId": {"$literal": None},
        "text": _text(),
        "tier": _of(("hot", "warm", "cold")),
        "decayScore": {"$literal": 1.0},
        "recallCount": {"$mod": ["$n", 7]},
        "lastRecalledAt": _days_ago({"$mod": ["$n", 365]}),
        "lastEvaluatedAt": {"$literal": None},
        "createdAt": _days_ago(400),
        "status": "active",
        "statusChangedAt": _days_ago(90),
        "retentionExpiresAt": {"$literal": None},
    } | fields


def memories(place: Place, rows: int) -> Document:
    _make(place, memories_indexes.memories(NAMES), {NAMES.memories: (rows, _memory())})
    return {}


def expired_memories(place: Place, rows: int) -> Document:
    """Each takes a step; a tenth is purged."""
    states = (*["active"] * 4, *["archived"] * 3, *["soft_deleted"] * 2, "hard_delete_pending")
    # Beside the tenants, which go by the last digits too: each has all states.
    status = _of(states, {"$floor": {"$divide": ["$n", 100]}})
    fields = _memory(status=status, retentionExpiresAt=_days_ago(200))
    _make(place, memories_indexes.memories(NAMES), {NAMES.memories: (rows, fields)})
    return {}


def audit_rows(place: Place, rows: int) -> Document:
    fields = {
        "_id": {"$concat": ["a-", {"$toString": "$n"}]},
        "tenantId": "ada",
        "at": {"$dateSubtract": {"startDate": "$$NOW", "unit": "second", "amount": {"$add": ["$n", 60]}}},
        "actor": _of(("ada", "ben", "eva")),
        "action": "memory.read",
        "target": {"$toString": "$n"},
        "detail": {"from": "203.0.113.7", "text": _text()},
    }
    _make(place, memories_indexes.audit_log(NAMES), {NAMES.audit_log: (rows, fields)})
    url = f"http://127.0.0.1:{place.port}/collect"
    endpoint = {"_id": "ada", "url": url, "format": "jsonl", "secretRef": None, "enabled": True, "cursor": None}
    place.memory[NAMES.siem_endpoints].insert_one(endpoint)
    return {"tenantId": "ada", "batchSize": 100}


def blobs(place: Place, rows: int) -> Document:
    """Four of five blobs are in files of four each; of the others half were condemned before."""
    names = FilesCollections()

    def key(number: object) -> Document:
        # In no order that files or time know of, as hashes are.
        return {"$concat": ["b-", {"$toString": {"$mod": [{"$multiply": [number, 2654435761]}, 2**32]}}]}

    used = rows * 4 // 5
    condemned = {"$cond": [{"$and": [{"$gte": ["$n", used]}, {"$mod": ["$n", 2]}]}, _days_ago(1), "$$REMOVE"]}
    blob = {
        "_id": key("$n"),
        "data": _text(),
        "size": {"$literal": 200},
        "createdAt": _days_ago(2),
        "condemnedAt": condemned,
    }
    four = [{"$add": [{"$multiply": ["$n", 4]}, number]} for number in range(4)]
    file = {"_id": {"$concat": ["/data/", {"$toString": "$n"}]}, "blobs": [key(number) for number in four]}
    _make(place, files_indexes.blobs(names), {names.blobs: (rows, blob), names.files: (used // 4, file)})
    return {}


# ---- data in files ---------------------------------------------------------------------------------------------------


def session_files(place: Place, rows: int) -> Document:
    """A hundred in each project, of two messages each."""
    root = place.folder / "projects"
    for number in range(rows):
        folder = root / f"-home-ada-project-{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            {
                "type": role,
                "uuid": f"{number}-{role}",
                "sessionId": str(number),
                "cwd": f"/home/ada/project/{number // 100}",
                "timestamp": "2026-01-01T00:00:00Z",
                "message": {"role": role, "content": f"Note {number}"},
            }
            for role in ("user", "assistant")
        ]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"roots": [str(root)]}


def old_files(place: Place, rows: int) -> Document:
    """Files of 1 MB, last changed on three days of the past; packed quickly, for the speed of xz is not the point."""
    random = Random(rows)
    words = ["".join(random.choices("aeinorstlcdmu", k=random.randint(2, 11))) for _ in range(20_000)]
    text = " ".join(random.choices(words, k=1_000_000)).encode()
    root = place.folder / "old"
    root.mkdir()
    for number in range(rows):
        start = random.randrange(len(text) - 2**20)
        path = root / f"{number}.jsonl"
        path.write_bytes(text[start : start + 2**20])
        changed = (datetime.now(UTC) - timedelta(days=20 + number % 3)).timestamp()
        os.utime(path, (changed, changed))
    return {"roots": [str(root)], "preset": 1}


JOBS = (
    Job("memories.forget", 1_000_000, "memories", memories, "decayed", 0.9, most_mb=MOST_MB),
    Job("memories.tier", 1_000_000, "memories", memories, "scanned", 0.5, most_mb=MOST_MB),
    Job("memories.retain", 1_000_000, "memories", expired_memories, "scanned", most_mb=MOST_MB),
    Job("files.gc", 1_000_000, "blobs", blobs, "scanned"),
    Job("sessions.collect", 10_000, "files", session_files, "unchanged", twice=True),
    Job("sessions.archive", 300, "MB", old_files, "archived"),
    Job("memories.siem_forward_tenant", 50_000, "rows", audit_rows, "rows"),
)


# ---- one run, in a process of its own --------------------------------------------------------------------------------


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 1024


async def _run(order: Document) -> Document:
    """In the child: the task's counts and time, and the memory of this process."""
    modules = [f"actors.{order['taskType'].partition('.')[0]}"]
    configure_logs(Settings(log_level="warning"))
    async with sandbox(modules, mongodb_url=order["url"], **order["settings"]) as engine:
        before = _peak_mb()
        task = await engine.client.enqueue(order["taskType"], order["body"])
        await engine.client.wait(task.id, timedelta(seconds=HOUR))
        task = await engine.client.get(task.id)
        if task.status is not TaskStatus.COMPLETED or task.finished_at is None or task.started_at is None:
            raise RuntimeError(f"{task.task_type} ended {task.status.value}: {task.last_error}")
        seconds = (task.finished_at - task.started_at).total_seconds()
    return {"seconds": seconds, "peak_mb": _peak_mb(), "before_mb": before, "counts": task.result}


# ---- all of them -----------------------------------------------------------------------------------------------------


class Bench:
    """A private MongoDB, and a receiver that takes whatever it is sent."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console
        self._mongo = MongoServer(folder / "mongo")

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        try:
            self._mongo.spawn()
            await self._mongo.ready()
            yield
        finally:
            self._mongo.stop()

    async def measure(self, job: Job, rows: int) -> Run:
        async with AsyncExitStack() as stack:
            name = f"bench_{secrets.token_hex(4)}"
            client: pymongo.MongoClient[Document] = pymongo.MongoClient(self._mongo.url)
            stack.callback(client.close)
            stack.callback(client.drop_database, name)
            folder = Path(stack.enter_context(TemporaryDirectory(dir=self._folder, prefix="run-")))
            place = Place(client[name], folder, port=free_port())
            await stack.enter_async_context(_receiver(place))
            self._console.print(f"{job.name}: {rows:,} {job.unit}, preparing", style="dim")
            body = await asyncio.to_thread(job.prepare, place, rows)
            if job.twice:
                await self._child(job, body, place)
            return await self._watched(job, rows, body, place)

    async def _watched(self, job: Job, rows: int, body: Document, place: Place) -> Run:
        self._console.print(f"{job.name}: {rows:,} {job.unit}, running", style="dim")
        scanning = {"planSummary": {"$regex": "COLLSCAN"}, "ns": {"$not": {"$regex": r"\.system\."}}}
        place.memory.command({"profile": 1, "filter": scanning})
        found = await self._child(job, body, place)
        place.memory.command({"profile": 0})
        scans = place.memory["system.profile"].count_documents({})
        counted = found["counts"][job.counted]
        if counted < job.share * rows:
            raise RuntimeError(f"{job.name} counted {job.counted}={counted} of {rows}: it had not the work it should")
        if job.prepare is audit_rows and place.received != rows:
            raise RuntimeError(f"the receiver got {place.received} rows of {rows}")
        return Run(rows=rows, scans=scans, **found)

    async def _child(self, job: Job, body: Document, place: Place) -> Document:
        answer = place.folder / "answer.json"
        settings = {
            "memory_database": place.memory.name,
            "data_dir": str(place.folder / "data"),
            "http_allow": f"127.0.0.1:{place.port}",
        }
        order = {"taskType": job.task_type, "body": body, "url": self._mongo.url, "settings": settings}
        command = [sys.executable, "-m", "bench.actors", "--run", json.dumps(order), "--answer", str(answer)]
        process = Process(command, {}, place.folder / "log")
        try:
            code = await process.ended(HOUR)
        finally:
            process.kill()
        if code != 0:
            raise RuntimeError(f"exit code {code}: {process.describe()}")
        found: Document = json.loads(answer.read_text())
        return found


@asynccontextmanager
async def _receiver(place: Place) -> AsyncIterator[None]:
    async def take(request: web.Request) -> web.Response:
        place.received += (await request.read()).count(b"\n")
        return web.Response()

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/collect", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", place.port).start()
        yield
    finally:
        await runner.cleanup()


def results(job: Job, tenth: Run, whole: Run) -> list[Result]:
    """The metrics of a job, as they are kept."""
    detail = {"unit": job.unit, "tenth": asdict(tenth), "whole": asdict(whole)}
    metrics = [
        (f"rows ({job.unit})", "", whole.rows),
        ("time", "s", whole.seconds),
        ("rate", f"{job.unit}/s", whole.rows / max(whole.seconds, 0.001)),
        ("peak memory", "MB", whole.peak_mb),
        ("peak memory at a tenth", "MB", tenth.peak_mb),
        ("growth of the peak", "%", 100 * (whole.peak_mb / tenth.peak_mb - 1)),
        ("collection scans", "", whole.scans),
    ]
    if job.twice:
        metrics.append(("time for 5,000", "s", whole.seconds * 5000 / whole.rows))
    return [Result("actors", "verger", job.name, name, unit, [float(value)], detail) for name, unit, value in metrics]


def _table(found: Mapping[str, tuple[Job, Run, Run]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("JOB", "ROWS", "TIME s", "A SECOND", "PEAK MB", "AT A TENTH", "GROWTH", "SCANS", "TARGETS"):
        table.add_column(head, justify="left" if head in ("JOB", "TARGETS") else "right")
    for job, tenth, whole in found.values():
        growth = whole.peak_mb / tenth.peak_mb - 1
        table.add_row(
            job.name,
            f"{whole.rows:,} {job.unit}",
            f"{whole.seconds:.1f}",
            f"{whole.rows / max(whole.seconds, 0.001):,.0f}",
            f"{whole.peak_mb:.0f}",
            f"{tenth.peak_mb:.0f}",
            f"{growth:+.0%}",
            str(whole.scans),
            ", ".join(_unmet(job, whole, growth)) or "met",
        )
    return table


def _unmet(job: Job, whole: Run, growth: float) -> list[str]:
    """Targets that were missed; no time is one but that of the files that nobody changed."""
    missed = {
        "memory is not flat": growth > FLAT,
        f"over {job.most_mb} MB": job.most_mb is not None and whole.peak_mb >= job.most_mb,
        "collections are scanned": whole.scans > 0,
        "over 1 s for 5,000": job.twice and whole.seconds * 5000 / whole.rows >= 1,
    }
    return [text for text, is_missed in missed.items() if is_missed]


async def _measure(given: argparse.Namespace, console: Console) -> dict[str, tuple[Job, Run, Run]]:
    found = {}
    with TemporaryDirectory(prefix="verger-bench-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), console)
        async with bench.started():
            for job in JOBS:
                if given.only in (None, job.name):
                    rows = given.rows or (job.rows // QUICK if given.quick else job.rows)
                    tenth = await bench.measure(job, max(1, rows // 10))
                    found[job.name] = (job, tenth, await bench.measure(job, rows))
    return found


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.actors", description="Measure the maintenance actors.")
    parser.add_argument("--rows", type=int, help="rows of each job, instead of its own number")
    parser.add_argument("--only", choices=[job.name for job in JOBS], help="this job alone")
    parser.add_argument("--quick", action="store_true", help=f"1/{QUICK} of the rows; its numbers are not kept")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.run:
        given.answer.write_text(json.dumps(asyncio.run(_run(json.loads(given.run)))))
        return 0
    console = Console()
    # Ended from outside, it ends its server and its child as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = asyncio.run(_measure(given, console))
    console.print(_table(found))
    options = Options(quick=given.quick)
    # What is kept is of full size; the rest goes elsewhere.
    if given.quick or given.rows:
        options = replace(options, results=options.results.with_name("results-quick"))
    path = options.results / "actors.json"
    kept = [each for each in load(path) if each.variant not in found] if path.exists() else []
    save([*kept, *(each for run in found.values() for each in results(*run))], path)
    note(options.results / MACHINE, "actors", {"runs": 1, "rows": given.rows, "only": given.only})
    console.print(f"kept in {path}; python -m bench report writes them into the report")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
