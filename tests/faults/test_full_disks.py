"""The disk of a server's data is full to the last byte, under a load of real processes: nothing is lost, nothing counts
twice, and all goes on once there is room again."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import aio_pika
import pytest

from service.errors import Unavailable
from tests.conftest import DatabaseClient
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.record import Recorder
from tests.faults.kit.small_disk import SmallDisk
from tests.faults.kit.trial import Bite, ran_once, suffer
from tests.faults.test_broker_faults import refused
from tests.faults.test_store_faults import troubled
from tests.promises.installation import PATIENT
from tests.servers import MongoServer, RabbitServer

pytestmark = pytest.mark.long

NAME = "its disk full to the last byte (ENOSPC), restarted in vain, then with room"
RABBIT_MEGABYTES = 128
"""More than the 50 that must be free, or it blocks its publishers."""
MONGO_MEGABYTES = 400
"""300 of them are its journal's, taken beforehand."""
HANDS = 8
BURST = 100
PAUSE = 0.05

Publish = Callable[[], Awaitable[list[str]]]
"""Returns once they are accepted: their ids."""


class RabbitOnSmallDisk(RabbitServer):
    """Its log is elsewhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "server")
        self.disk = SmallDisk(folder / "disk", RABBIT_MEGABYTES)

    def _environment(self) -> Mapping[str, str]:
        return {**super()._environment(), "RABBITMQ_MNESIA_BASE": str(self.disk.folder)}

    async def heal(self) -> None:
        self.disk.make_room()
        await super().heal()

    def complaints(self) -> int:
        """Lines of its log that tell of a write without space."""
        return lines_with("enospc", *(self.folder / "log").glob("*.log"))


class MongoOnSmallDisk(MongoServer):
    """Its log is elsewhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "server")
        self.disk = SmallDisk(self.folder / "data", MONGO_MEGABYTES)

    def _command(self) -> list[str]:
        # A checkpoint each second, not each minute: in between all goes into the journal, which has its space.
        return [*super()._command(), "--syncdelay", "1"]

    async def heal(self) -> None:
        self.disk.make_room()
        await super().heal()

    @property
    def exit_code(self) -> int:
        return self._running.wait()

    def complaints(self) -> int:
        """Lines of its log that tell of a write without space."""
        return lines_with("No space left on device", self.folder / "mongod.log")


def lines_with(text: str, *logs: Path) -> int:
    return sum(text in line for log in logs for line in log.read_text(errors="replace").splitlines())


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitOnSmallDisk]:
    made = RabbitOnSmallDisk(tmp_path_factory.mktemp("rabbit"))
    with made.disk:
        yield made
        made.stop()


@pytest.fixture(scope="module")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoOnSmallDisk]:
    made = MongoOnSmallDisk(tmp_path_factory.mktemp("mongo"))
    with made.disk:
        yield made
        made.stop()


@pytest.fixture
async def rabbit_server(rabbit: RabbitOnSmallDisk) -> AsyncIterator[RabbitOnSmallDisk]:
    """Takes the place of the usual broker."""
    await rabbit.ready()
    yield rabbit
    await rabbit.heal()


@pytest.fixture
async def mongo_server(mongo: MongoOnSmallDisk) -> AsyncIterator[MongoOnSmallDisk]:
    """Takes the place of the usual database."""
    await mongo.ready()
    yield mongo
    await mongo.heal()


@pytest.fixture
def database_client(mongo_server: MongoOnSmallDisk) -> Iterator[DatabaseClient]:
    with DatabaseClient(mongo_server.url) as client:
        yield client


# ---- RabbitMQ ------------------------------------------------------------------------------------


async def test_a_full_disk_of_the_broker_loses_nothing_and_costs_no_run(
    fleet: Fleet, record: Recorder, rabbit_server: RabbitOnSmallDisk
) -> None:
    """The log of its quorum queues is gone until a restart: the node lives, confirms nothing and delivers nothing."""

    async def full(fleet: Fleet) -> Bite:
        return await broker_full(fleet, rabbit_server)

    load = await suffer(fleet, record, "Broker", NAME, full, environment=PATIENT)

    ran_once(fleet, load)


async def broker_full(fleet: Fleet, rabbit: RabbitOnSmallDisk) -> Bite:
    disk = rabbit.disk
    await rabbit.ctl("set_disk_free_limit", "0")  # the alarm would come first
    try:
        async with foreign_channel(fleet) as publish, many(publish) as tasks:
            await fleet.until(lambda: len(tasks.accepted) >= BURST, "confirms")
            await while_full(fleet, disk, lambda: rabbit.complaints() > 0, "a write without space")
            await while_full(fleet, disk, lambda: tasks.waiting == HANDS, "all publishers to wait")
            confirmed = len(tasks.accepted)
            await while_full(fleet, disk, lambda: unanswered(fleet) > 0, "a publish of ours without an answer")
            assert len(tasks.accepted) == confirmed, "it confirmed what it cannot have written"
            ours, lived = unanswered(fleet), rabbit.alive
        if rabbit.alive:
            rabbit.kill()
        rabbit.spawn()
        await while_full(fleet, disk, lambda: not rabbit.alive, "the node to give up")
    finally:
        disk.make_room()
        await rabbit.restart()
    await fleet.ended(tasks.accepted)
    return Bite(
        f"`enospc` in its log; it {'lived on' if lived else 'ended'} and confirmed no more, neither to {HANDS} other "
        f"publishers nor to the scheduler ({ours} publishes); restarted without room, it did not boot"
    )


@asynccontextmanager
async def foreign_channel(fleet: Fleet) -> AsyncIterator[Publish]:
    """Another program's, with confirms."""
    numbers = count()
    connection = await aio_pika.connect(fleet.amqp_url)
    exchange = await (await connection.channel()).get_exchange(fleet.names.tasks, ensure=False)

    async def publish() -> list[str]:
        task_id = f"published-{next(numbers)}"
        body = json.dumps({"id": task_id, "taskBody": {}}).encode()
        await exchange.publish(aio_pika.Message(body, delivery_mode=2), "fault.work")
        return [task_id]

    try:
        yield publish
    finally:
        await connection.close()


def unanswered(fleet: Fleet) -> int:
    """Publishes of the scheduler."""
    return sum(len(process.events("fire.too_late")) for process in fleet.processes) + refused(fleet)


# ---- MongoDB -------------------------------------------------------------------------------------


async def test_a_full_disk_of_the_database_loses_nothing_and_accepts_no_end_twice(
    fleet: Fleet, record: Recorder, mongo_server: MongoOnSmallDisk
) -> None:
    """The server takes writes until its next checkpoint; then it aborts, and again if it is restarted without room."""

    async def full(fleet: Fleet) -> Bite:
        return await database_full(fleet, mongo_server)

    await suffer(fleet, record, "Database", NAME, full)


async def database_full(fleet: Fleet, mongo: MongoOnSmallDisk) -> Bite:
    try:
        async with many(lambda: fleet.enqueue(1)) as tasks:
            await fleet.until(lambda: len(tasks.accepted) >= BURST, "tasks to be accepted")
            before = len(tasks.accepted)
            first = await aborted(fleet, mongo)
            mongo.spawn()
            second = await aborted(fleet, mongo)
            await fleet.until(lambda: troubled(fleet) == len(fleet.processes), "all processes to miss it")
            await fleet.until(lambda: tasks.refused > 0, "a task to be refused")
    finally:
        mongo.disk.make_room()
        await mongo.restart()
    await fleet.ended(tasks.accepted)
    return Bite(
        f"`No space left on device` in its log; it ended with exit code {first}, restarted without room with {second}; "
        f"meanwhile it took {len(tasks.accepted) - before} tasks, and {tasks.refused} were refused"
    )


async def aborted(fleet: Fleet, mongo: MongoOnSmallDisk) -> int:
    """Fill its disk until it ends; returns its exit code."""
    known = mongo.complaints()
    await while_full(fleet, mongo.disk, lambda: not mongo.alive, "the server to abort")
    assert mongo.complaints() > known, "it ended, and not for want of space"
    return mongo.exit_code


async def while_full(fleet: Fleet, disk: SmallDisk, condition: Callable[[], bool], what: str) -> None:
    """Until something shows, on a disk that is full again at once, whatever is given back."""

    def shows() -> bool:
        disk.fill()
        return condition()

    await fleet.until(shows, what)


@dataclass
class Tasks:
    """Of ``many``."""

    accepted: list[str] = field(default_factory=list)
    refused: int = 0
    waiting: int = 0
    """Hands that wait for their answer."""


@asynccontextmanager
async def many(publish: Publish) -> AsyncIterator[Tasks]:
    """Besides the usual load: many hands, each of which publishes again once it has its answer."""
    tasks = Tasks()

    async def hand() -> None:
        while True:
            tasks.waiting += 1
            try:
                tasks.accepted += await publish()
            except Unavailable:
                tasks.refused += 1
            tasks.waiting -= 1
            await asyncio.sleep(PAUSE)

    hands = [asyncio.create_task(hand()) for _ in range(HANDS)]
    try:
        yield tasks
    finally:
        for each in hands:
            each.cancel()
        await asyncio.gather(*hands, return_exceptions=True)
