"""The server is killed, frozen, and started again: nothing is lost, nothing hangs, work resumes."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from schemas.outcome import Completed
from schemas.task import TaskStatus
from service.errors import StoreUnavailable
from service.store.mongo import MongoStore, database
from service.store.port import Changed, ClaimAnswer, Claimed, Known, NotDone, Settled, Store
from tests.contract.store.steps import a_beat, a_schedule, a_task, claim, end, foreign, look, running, some_tasks
from tests.servers import MongoServer


@pytest.fixture
async def hasty(
    mongo_server: MongoServer, emptied_database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """A store that gives up sooner; the limits themselves are the same."""
    monkeypatch.setitem(database.OPTIONS, "timeoutMS", 1500)
    monkeypatch.setitem(database.OPTIONS, "serverSelectionTimeoutMS", 1000)
    monkeypatch.setattr(database, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr("service.store.mongo.schedules.REPEAT_SECONDS", 0.0)
    monkeypatch.setattr("service.store.mongo.claims._READ_BACK_SECONDS", 0.0)
    store = MongoStore(mongo_server.url, emptied_database)
    await store.open()
    yield store
    await store.close()


async def test_p7_a_server_killed_among_claims_leaves_no_claim_unknown(store: Store, mongo_server: MongoServer) -> None:
    batches = [some_tasks(20, f"batch{number}-") for number in range(40)]
    killed = asyncio.Event()
    answers: list[list[ClaimAnswer]] = []

    async def work() -> None:
        for number, batch in enumerate(batches):
            answers.append(await store.claims.claim([foreign(task) for task in batch], "w1"))
            if number == 10:
                killed.set()

    async def kill() -> None:
        await killed.wait()
        mongo_server.kill()
        await mongo_server.restart()

    await asyncio.gather(work(), kill())

    # Each request has its answer, and the store agrees with each.
    for batch, batch_answers in zip(batches, answers, strict=True):
        for task, answer in zip(batch, batch_answers, strict=True):
            record = await store.tasks.get(task.id)
            match answer:
                case Claimed(task=mine):
                    assert record is not None
                    assert (record.status, record.claim_token) == (TaskStatus.RUNNING, mine.claim_token)
                case Known():
                    assert record is not None
                case _:
                    assert answer == NotDone()
    claimed = [answer.task for batch in answers for answer in batch if isinstance(answer, Claimed)]
    assert len(claimed) >= 39 * 20  # but for the batch that was cut off


async def test_p7_a_server_killed_among_settles_leaves_no_end_unknown(store: Store, mongo_server: MongoServer) -> None:
    await store.tasks.create(some_tasks(400))
    tasks = await claim(store, *(f"t{number:03}" for number in range(400)))
    killed = asyncio.Event()

    async def work() -> None:
        for start in range(0, 400, 20):
            todo = [end(task, Completed(task.id)) for task in tasks[start : start + 20]]
            while todo:
                answers = await store.claims.settle(todo)
                assert all(isinstance(answer, (Settled, Changed)) for answer in answers)
                todo = [item for item, answer in zip(todo, answers, strict=True) if isinstance(answer, Changed)]
            if start == 100:
                killed.set()

    async def kill() -> None:
        await killed.wait()
        mongo_server.kill()
        await mongo_server.restart()

    await asyncio.gather(work(), kill())

    records = await store.tasks.get_many([task.id for task in tasks])
    assert all((record.status, record.result) == (TaskStatus.COMPLETED, record.id) for record in records.values())


async def test_a_store_that_is_gone_is_said_so_in_time_and_comes_back(hasty: Store, mongo_server: MongoServer) -> None:
    store = hasty
    task = await running(store)
    link = store.claims.heartbeat()
    await asyncio.to_thread(link.beat, a_beat(task))
    mongo_server.kill()
    started = time.monotonic()

    answers = await asyncio.gather(
        store.claims.claim([foreign(a_task("b"))], "w1"),
        store.claims.settle([end(task, Completed())]),
        store.tasks.create([a_task("c")]),
        store.tasks.get("a"),
        store.upkeep.relay_heads(),
        store.schedules.write([a_schedule()]),
        store.sync_clock(),
        asyncio.to_thread(link.beat, a_beat(task)),
        return_exceptions=True,
    )

    # No wait is longer than its limits: one operation, and one reading back.
    assert time.monotonic() - started < 30
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert all(f"127.0.0.1:{mongo_server.port}" in str(answer) for answer in answers)

    await mongo_server.restart()
    await store.sync_clock()
    assert (await asyncio.to_thread(link.beat, a_beat(task))).lost == set()
    assert await store.claims.settle([end(task, Completed())]) == [Settled(TaskStatus.COMPLETED)]
    link.close()


async def test_what_waits_for_the_store_goes_on_when_it_is_back(
    store: Store, mongo_server: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "REPEAT_SECONDS", 60.0)  # a start may take longer on a slow machine
    mongo_server.kill()
    waiting = asyncio.gather(store.tasks.create([a_task()]), store.tasks.get("b"))

    await mongo_server.restart()

    [answer], nothing = await waiting
    assert answer.created
    assert nothing is None


async def test_a_server_that_stops_answering_is_a_store_that_is_gone(hasty: Store, mongo_server: MongoServer) -> None:
    mongo_server.freeze()
    started = time.monotonic()

    with pytest.raises(StoreUnavailable):
        await hasty.tasks.get("a")
    assert time.monotonic() - started < 20

    mongo_server.thaw()
    await hasty.sync_clock()
    await hasty.tasks.create([a_task()])
    assert (await look(hasty)).status is TaskStatus.PENDING


async def test_to_close_a_store_that_is_gone_does_not_block_the_loop(hasty: Store, mongo_server: MongoServer) -> None:
    mongo_server.freeze()
    closing = asyncio.create_task(hasty.close())

    rounds = 0
    async with asyncio.timeout(30):
        while not closing.done():
            await asyncio.sleep(0.01)
            rounds += 1

    await closing
    assert rounds > 10
