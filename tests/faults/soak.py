"""Hours of bad luck in minutes: a whole installation at half load, and a fault every few seconds.

python -m tests.faults.soak --seed 1 --minutes 20

The seed decides what befalls whom, and when. Afterwards it is quiet until all that was accepted has ended; then every
invariant is checked, a table says what was done, and a record is kept for ``docs/fault-matrix.md``.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pika
from pika.exceptions import AMQPError
from pymongo.errors import PyMongoError

from schemas.schedule import Misfire, Overlap, Schedule
from service.child_process import free_port
from service.errors import Conflict, NotFound, Unavailable
from service.logs import configure_logs
from service.settings import Settings
from service.store.port import Edit
from tests.faults.__main__ import KEPT, main as make_page
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import Findings, check, check_fires
from tests.faults.kit.proxy import Proxy, Toxic
from tests.faults.kit.record import RECORDS, RUN, Recorder
from tests.promises.installation import Process
from tests.servers import MongoServer, RabbitServer, Server

SLOTS = 20
SECONDS = 0.4
"""What a run takes. Two workers could do a hundred in a second: half of that comes."""
BEAT = 0.1
PER_BEAT = 4
FOREIGN_PAUSE = 0.1
EVERY = timedelta(seconds=1)
CALM = (2.0, 8.0)
"""Seconds between two faults."""
QUIET = 240.0
"""Seconds in which everything must have ended, once nothing is wrong any more."""
TELLING = ["task.rescued", "task.refused", "fire.taken_over", "store.unavailable", "broker.unavailable"]
TELLING += ["broker.lost", "consumer.lost", "relay.published", "fire.too_late", "actor.crashed", "schedule.misfired"]


@dataclass
class Member:
    """A process that is started again when it has died."""

    name: str
    roles: str
    environment: dict[str, str]
    process: Process


@dataclass
class Tally:
    """What was done to them."""

    times: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


class Soak:
    """One installation, its load, and its bad luck."""

    def __init__(
        self, fleet: Fleet, mongo: MongoServer, rabbit: RabbitServer, wires: dict[str, Proxy], seed: int
    ) -> None:
        """``wires``: the proxies through which workers and schedulers reach the servers."""
        self.fleet, self.mongo, self.rabbit, self.wires = fleet, mongo, rabbit, wires
        self.random, self._luck = random.Random(seed), random.Random(f"load {seed}")
        """Of the faults, and of the load: how many tasks there were by then changes no fault."""
        self.members: list[Member] = []
        self.accepted: list[str] = []
        self.refused = 0
        self.answers: Counter[str] = Counter()
        """Of the API."""
        self.tally = Tally()
        self.api_port = free_port()
        self._busy: set[str] = set()
        self._stopped = threading.Event()

    # ---- the installation ------------------------------------------------------------------------

    async def start(self) -> None:
        for name in ("worker 1", "worker 2", "scheduler 1", "scheduler 2", "api"):
            kind = name.partition(" ")[0]
            environment = {"VERGER_CONCURRENCY": str(SLOTS), "VERGER_API_PORT": str(self.api_port)}
            if kind != "api":
                environment["VERGER_MONGODB_URL"] = self.wires[f"{kind}-mongo"].url(self.fleet.mongo_url)
                environment["VERGER_AMQP_URL"] = self.wires[f"{kind}-rabbit"].url(self.fleet.amqp_url)
            process = await self.fleet.start(kind, environment=environment)
            self.members.append(Member(name, kind, environment, process))
        self.begun = datetime.fromtimestamp(self.fleet.store.clock.now().timestamp() // 1 + 2, UTC)
        await self.fleet.store.schedules.write(
            [
                self._schedule("each", Overlap.ALLOW, Misfire.ALL),
                self._schedule("single", Overlap.SKIP, Misfire.COALESCE, seconds=1.5),
            ]
        )
        await self.fleet.client.schedules_changed()

    def _schedule(self, name: str, overlap: Overlap, misfire: Misfire, seconds: float = 0.1) -> Schedule:
        return Schedule(
            id=name,
            task_type="fault.work",
            task_body={"seconds": seconds, "value": name},
            schedule=f"@every {EVERY.seconds}s",
            overlap=overlap,
            misfire=misfire,
            next_fire_at=self.begun,
        )

    # ---- its load --------------------------------------------------------------------------------

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        publisher = threading.Thread(target=self._publish, name="foreign publisher", daemon=True)
        publisher.start()
        tasks = [asyncio.create_task(each()) for each in (self._enqueue, self._ask)]
        try:
            yield
        finally:
            self._stopped.set()
            await asyncio.gather(*tasks)
            await asyncio.to_thread(publisher.join, 60)

    async def _enqueue(self) -> None:
        """As many callers at once as a busy service has."""
        under_way: set[asyncio.Task[None]] = set()
        while not self._stopped.is_set():
            under_way |= {asyncio.create_task(self._enqueue_one()) for _ in range(PER_BEAT)}
            under_way = {task for task in under_way if not task.done()}
            await asyncio.sleep(BEAT)
        await asyncio.gather(*under_way)

    async def _enqueue_one(self) -> None:
        kind, body, delay = "fault.work", {"seconds": SECONDS}, None
        match self._luck.random():
            case luck if luck < 0.08:
                kind, body = "fault.flaky", {}
            case luck if luck < 0.1:
                kind, body = "fault.fails", {}
            case luck if luck < 0.15:
                kind, body = "fault.threaded", {"seconds": 0.1}
            case luck if luck < 0.25:
                delay = timedelta(seconds=self._luck.randint(1, 5))
        try:
            task = await self.fleet.client.enqueue(kind, body, delay=delay)
        except Unavailable:
            self.refused += 1
            return
        self.accepted.append(task.id)
        if self._luck.random() < 0.01:
            with suppress(Conflict, NotFound, Unavailable):
                await self.fleet.client.cancel(task.id, force=True)

    def _publish(self) -> None:
        """With another client library, each message confirmed."""
        parameters = pika.URLParameters(self.fleet.amqp_url)
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 5
        parameters.heartbeat = 4
        number = 0
        while not self._stopped.is_set():
            with suppress(AMQPError, OSError):
                connection = pika.BlockingConnection(parameters)
                try:
                    channel = connection.channel()
                    channel.confirm_delivery()
                    while not self._stopped.wait(FOREIGN_PAUSE):
                        number += 1
                        message = json.dumps({"id": f"foreign-{number}", "taskBody": {"seconds": SECONDS}}).encode()
                        lasting = pika.BasicProperties(delivery_mode=2)
                        channel.basic_publish(self.fleet.names.tasks, "fault.work", message, lasting)
                        self.accepted.append(f"foreign-{number}")
                finally:
                    with suppress(AMQPError, OSError):
                        connection.close()
            self._stopped.wait(BEAT)

    async def _ask(self) -> None:
        while not self._stopped.is_set():
            await self.ask()
            await asyncio.sleep(1)

    async def ask(self) -> bool:
        """Whether the API answers."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.api_port}", timeout=10) as api:
            try:
                answer = await api.get("/readyz")
            except httpx.HTTPError:
                self.answers["none"] += 1
                return False
        self.answers[str(answer.status_code)] += 1
        return answer.status_code == 200

    # ---- its bad luck ----------------------------------------------------------------------------

    async def suffer(self, until: float) -> None:
        """One fault after another; two at a time, if they do not hit the same."""
        under_way: set[asyncio.Task[None]] = set()
        faults: list[Callable[[], Awaitable[None]]] = [
            *[self.member_killed] * 4,
            *[self.member_stopped] * 3,
            self.member_told_to_end,
            *[self.broker_killed] * 2,
            self.broker_frozen,
            *[self.connections_closed] * 2,
            *[self.database_killed] * 2,
            self.database_frozen,
            *[self.network_slow] * 2,
            *[self.network_cut] * 2,
            *[self.connections_reset] * 2,
        ]
        while time.monotonic() < until:
            under_way = {task for task in under_way if not self._over(task)}
            if len(under_way) < 2:
                under_way.add(asyncio.create_task(self._befall(self.random.choice(faults))))
            await asyncio.sleep(self.random.uniform(*CALM))
        await asyncio.gather(*under_way)

    @staticmethod
    def _over(task: "asyncio.Task[None]") -> bool:
        if task.done():
            task.result()
        return task.done()

    async def _befall(self, fault: Callable[[], Awaitable[None]]) -> None:
        name = fault.__name__.replace("_", " ")
        begun = time.monotonic()
        try:
            await fault()
        except _Spared:
            return
        self.tally.times[name] += 1
        self.tally.seconds[name] += round(time.monotonic() - begun)

    @asynccontextmanager
    async def _hit(self, *targets: str) -> AsyncIterator[None]:
        if self._busy & set(targets):
            raise _Spared
        self._busy |= set(targets)
        try:
            yield
        finally:
            self._busy -= set(targets)

    def _somebody(self) -> Member:
        return self.random.choice(self.members)

    async def member_killed(self) -> None:
        member, pause = self._somebody(), self.random.uniform(0, 4)
        async with self._hit(member.name):
            member.process.kill()
            await asyncio.sleep(pause)
            await self._again(member)

    async def member_stopped(self) -> None:
        member, pause = self._somebody(), self.random.uniform(1, 12)
        async with self._hit(member.name):
            member.process.signal(signal.SIGSTOP)
            await asyncio.sleep(pause)
            member.process.signal(signal.SIGCONT)

    async def member_told_to_end(self) -> None:
        member = self._somebody()
        async with self._hit(member.name):
            member.process.signal(signal.SIGTERM)
            code = await member.process.ended()
            # In its first moments there is nobody yet to hear it.
            assert code == 0 or not member.process.events("verger.started"), (member.name, member.process.log()[-5:])
            await self._again(member)

    async def _again(self, member: Member) -> None:
        """Started at once, whatever else is wrong: as long as it does not get there, it is started again."""
        member.process = await self.fleet.start(member.roles, ready=False, environment=member.environment)

    async def _keep_alive(self) -> None:
        for member in self.members:
            if not member.process.alive and member.name not in self._busy:
                self.tally.times["ended by itself, and started again"] += 1
                await self._again(member)

    async def broker_killed(self) -> None:
        await self._killed("rabbit", self.rabbit)

    async def database_killed(self) -> None:
        await self._killed("mongo", self.mongo)

    async def _killed(self, name: str, server: Server) -> None:
        pause = self.random.uniform(0, 4)
        async with self._hit(name):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(pause)
            await server.restart()

    async def broker_frozen(self) -> None:
        await self._frozen("rabbit", self.rabbit)

    async def database_frozen(self) -> None:
        await self._frozen("mongo", self.mongo)

    async def _frozen(self, name: str, server: Server) -> None:
        pause = self.random.uniform(2, 12)
        async with self._hit(name):
            server.freeze()
            await asyncio.sleep(pause)
            server.thaw()

    async def connections_closed(self) -> None:
        async with self._hit("rabbit"):
            await self.rabbit.ctl("close_all_connections", "maintenance")

    async def network_slow(self) -> None:
        name, pause = self.random.choice(list(self.wires)), self.random.uniform(3, 10)
        toxics = [Toxic(latency=0.2, jitter=0.2), Toxic(slice=7), Toxic(bandwidth=50_000), Toxic(latency=1.2)]
        toxic = self.random.choice(toxics)
        async with self._hit(name):
            self.wires[name].set(toxic)
            await asyncio.sleep(pause)
            self.wires[name].clear()

    async def network_cut(self) -> None:
        """Nothing passes, in one direction or in both."""
        name, pause = self.random.choice(list(self.wires)), self.random.uniform(2, 12)
        which = self.random.choice(("up", "down", "both"))
        async with self._hit(name):
            wire = self.wires[name]
            if which in ("up", "both"):
                wire.up = Toxic(black_hole=True)
            if which in ("down", "both"):
                wire.down = Toxic(black_hole=True)
            await asyncio.sleep(pause)
            wire.clear()

    async def connections_reset(self) -> None:
        name = self.random.choice(list(self.wires))
        async with self._hit(name):
            await asyncio.to_thread(self.wires[name].reset)

    # ---- what is seen of it ----------------------------------------------------------------------

    async def watch(self, until: float) -> None:
        begun = time.monotonic()
        while time.monotonic() < until:
            await asyncio.sleep(5)
            await self._keep_alive()
            with suppress(PyMongoError):
                await asyncio.to_thread(self.fleet.oplog.read)
            tell(f"{time.monotonic() - begun:5.0f} s  {await asyncio.to_thread(self.standing)}")

    def standing(self) -> str:
        try:
            counts = {
                status: self.fleet.tasks.count_documents({"status": status}, maxTimeMS=2000)
                for status in ("pending", "running", "completed", "failed", "cancelled")
            }
        except PyMongoError as error:
            counts = {type(error).__name__: 0}
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"{len(self.accepted)} accepted, {told}; faults {sum(self.tally.times.values())}"

    async def quiet(self) -> float:
        """Until everything that was asked for has ended; how many seconds that took."""
        begun = time.monotonic()
        await self._keep_alive()

        def over() -> bool:
            left = self.fleet.tasks.count_documents({"status": {"$in": ["pending", "running"]}, "scheduleId": None})
            return left == 0 and self.fleet.depth("fault.work") == 0

        with suppress(AssertionError):  # what is left over is said by the checks
            await self.fleet.until(lambda: bool(over()), "everything to end", QUIET)
        return time.monotonic() - begun

    async def _disable(self, name: str) -> bool:
        schedule = await self.fleet.store.schedules.get(name)
        assert schedule is not None
        disabled = schedule.model_copy(update={"enabled": False, "next_fire_at": None})
        try:
            await self.fleet.store.schedules.write(edit=[Edit(schedule, disabled)])
        except Conflict:
            return False
        return True

    async def check(self) -> Findings:
        each, single = await self._accounted("each"), await self._accounted("single")
        for name in ("each", "single"):
            while not await self._disable(name):
                pass  # it fired between the look and the write
        fires = [
            f"fire:each@{(self.begun + number * EVERY).isoformat().replace('+00:00', 'Z')}" for number in range(each)
        ]
        findings = await check(self.fleet, [*self.accepted, *fires], seconds=120)
        check_fires(self.fleet, "each", self.begun, EVERY, each)
        tell(f"fires: {each} of `each`, all made; {single} of `single`, all made or accounted for")
        assert await self.ask(), "the API does not answer"
        return findings

    async def _accounted(self, name: str) -> int:
        """How many instants a schedule has passed; each has made its task, or is counted as skipped."""
        while True:
            schedule = await self.fleet.store.schedules.get(name)
            made = self.fleet.tasks.count_documents({"scheduleId": name})
            again = await self.fleet.store.schedules.get(name)
            if schedule is None or schedule.firing is not None or schedule != again:
                await asyncio.sleep(0.05)
                continue
            assert schedule.next_fire_at is not None
            passed = (schedule.next_fire_at - self.begun) // EVERY
            assert made + sum(schedule.skipped.values()) == passed, (name, made, schedule.skipped, passed)
            return passed

    def told(self) -> Counter[str]:
        """How often the processes said what shows that the faults were felt."""
        told: Counter[str] = Counter()
        for log in self.fleet.folder.glob("process-*.log"):
            with log.open() as lines:
                for line in lines:
                    with suppress(ValueError):
                        told[str(json.loads(line).get("event"))] += 1
        return told


class _Spared(Exception):
    """Something else is being done to it."""


def tell(line: str) -> None:
    print(line, flush=True)


async def soak(seed: int, minutes: float, folder: Path) -> None:
    mongo, rabbit = MongoServer(folder / "mongo"), RabbitServer(folder / "rabbit")
    async with AsyncExitStack() as stack:
        for server in (mongo, rabbit):
            stack.callback(server.stop)
            server.spawn()
        await asyncio.gather(mongo.ready(), rabbit.ready())
        wires = {
            f"{kind}-{name}": stack.enter_context(Proxy(server.port, seed=seed))
            for kind in ("worker", "scheduler")
            for name, server in (("mongo", mongo), ("rabbit", rabbit))
        }
        (folder / "fleet").mkdir()
        fleet = Fleet(mongo.url, rabbit.url, "soak", "soak", folder / "fleet")
        stack.push_async_callback(fleet.close)
        await fleet.open()
        here = Soak(fleet, mongo, rabbit, wires, seed)
        await here.start()
        tell(f"seed {seed}: {minutes:g} minutes, {', '.join(member.name for member in here.members)}")
        until = time.monotonic() + minutes * 60
        async with here.load():
            await asyncio.gather(here.suffer(until), here.watch(until))
        tell("quiet")
        recovery = await here.quiet()
        tell(f"{recovery:5.1f} s  {here.standing()}")
        findings = await here.check()
        report(here, findings, recovery, seed, minutes)


def report(here: Soak, findings: Findings, recovery: float, seed: int, minutes: float) -> None:
    told = here.told()
    tell(f"\n{'fault':36} times  seconds")
    for name, times in sorted(here.tally.times.items()):
        tell(f"{name:36} {times:5}  {here.tally.seconds[name]:7}")
    tell(f"\n{'what the processes said':36} times")
    for event in TELLING:
        tell(f"{event:36} {told[event]:5}")
    tell(f"\nAPI: {dict(here.answers)}; enqueues refused: {here.refused}")
    tell(f"{findings.tasks} tasks accepted: {len(findings.lost)} lost, {len(findings.doubled)} accepted twice")
    versions = {
        "RabbitMQ": here.fleet.broker.server.rpartition(" ")[2],
        "MongoDB": str(here.fleet._database.server_info()["version"]),
    }
    faults = sum(here.tally.times.values())
    assert faults >= minutes, "there were hardly any faults: this shows nothing"
    assert told["task.rescued"] or not here.tally.times["member killed"], "nobody felt that workers were killed"
    Recorder(versions)(
        "Soak",
        f"{minutes:g} minutes of random faults at half load, seed {seed}",
        happened=f"{faults} faults of {len(here.tally.times)} kinds, two at a time",
        bite=f"{told['task.rescued']} runs rescued, {told['task.refused']} ends refused, "
        f"{told['fire.taken_over']} fires taken over, {here.refused} enqueues refused",
        findings=findings,
        recovery=recovery,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--folder", type=Path, help="where data and logs stay; otherwise they go with the run")
    asked = parser.parse_args()
    os.environ.setdefault(RECORDS, str(KEPT))
    os.environ.setdefault(RUN, datetime.now(UTC).isoformat(timespec="seconds"))
    configure_logs(Settings(log_level="error"))
    logging.disable(logging.CRITICAL)  # what the servers' clients think of all this
    with tempfile.TemporaryDirectory(prefix="verger-soak-", ignore_cleanup_errors=True) as made:
        asyncio.run(soak(asked.seed, asked.minutes, asked.folder or Path(made)))
    return make_page(["--page"]) if os.environ[RECORDS] == str(KEPT) else 0


if __name__ == "__main__":
    sys.exit(main())
