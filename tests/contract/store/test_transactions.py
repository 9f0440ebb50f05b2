"""P16: tasks that exist if and only if the caller's own transaction does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from schemas.outcome import Completed
from schemas.task import TaskStatus
from service.errors import Conflict, PayloadRefused
from service.states import Seen
from service.store.port import Changed, Created, Known, Store
from tests.contract.store.steps import HOUR, a_task, finished, look, now, running, settle, stored

OurOwn = AsyncIOMotorClient[dict[str, Any]]


@pytest.fixture
async def client(mongo_url: str) -> AsyncIterator[OurOwn]:
    """The caller's own client, which knows nothing of ours."""
    client: OurOwn = AsyncIOMotorClient(mongo_url)
    yield client
    client.close()


async def test_p16_a_committed_transaction_brings_its_tasks(
    store: Store, client: OurOwn, emptied_database: str
) -> None:
    mine = client[emptied_database]["orders"]
    task = a_task(relay_at=now(), task_body={"order": 1}, live_key="name:n")

    async with await client.start_session() as session, session.start_transaction():
        await mine.insert_one({"_id": 1}, session=session)
        answers = await store.tasks.create([task, a_task("b")], transaction=session)
        assert [answer.created for answer in answers] == [True, True]

        # Nobody else sees it yet: not a reader, not a message, not relay.
        assert await store.tasks.get("a") is None
        assert await store.claims.claim([stored("a")], "w1") == [Known()]
        assert await store.upkeep.relay_heads() == {}

    assert await look(store) == task
    assert await store.upkeep.relay_due("report", now() + HOUR, 10) == [await look(store, "b"), task]
    assert await mine.count_documents({}) == 1


async def test_p16_an_aborted_transaction_leaves_nothing(store: Store, client: OurOwn) -> None:
    await running(store, "live", live_key="name:n")

    async with await client.start_session() as session:
        session.start_transaction()
        await store.tasks.create([a_task(), a_task("b", live_key="name:n")], transaction=session)
        await session.abort_transaction()

    assert await store.tasks.get_many(["a", "b"]) == {}
    assert not (await look(store, "live")).again


async def test_p16_the_other_driver_s_session_will_do(store: Store, mongo_url: str) -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_url)
    try:
        async with client.start_session() as session, await session.start_transaction():
            await store.tasks.create([a_task()], transaction=session)
        await look(store)
    finally:
        await client.close()


async def test_p16_p4_a_known_id_is_a_no_op_inside_too(store: Store, client: OurOwn) -> None:
    known = await finished(store)

    async with await client.start_session() as session, session.start_transaction():
        answers = await store.tasks.create([a_task(), a_task("b")], transaction=session)

    assert answers[0] == Created(known, created=False, by="id")
    assert answers[1].created
    assert await look(store, "b") == answers[1].task


async def test_p16_p4_a_request_is_noted_with_the_commit(store: Store, client: OurOwn) -> None:
    await running(store, "live", live_key="name:n")

    async with await client.start_session() as session, session.start_transaction():
        [answer] = await store.tasks.create([a_task(live_key="name:n")], transaction=session)
        assert not (await look(store, "live")).again

    assert (answer.created, answer.by, answer.task.id, answer.task.again) == (False, "live_key", "live", True)
    assert (await look(store, "live")).again


async def test_p16_p4_a_waiting_task_takes_the_request(store: Store, client: OurOwn) -> None:
    live = a_task("live", live_key="name:n")
    await store.tasks.create([live])

    async with await client.start_session() as session, session.start_transaction():
        answers = await store.tasks.create([a_task(live_key="name:n")], transaction=session)

    assert answers == [Created(live, created=False, by="live_key")]
    assert await look(store, "live") == live


async def test_p16_p4_a_live_task_that_ends_at_the_same_time_costs_no_request(store: Store, client: OurOwn) -> None:
    """The driver repeats the caller's transaction until the request is noted, or has become a task."""
    for number in range(10):
        key = f"name:{number}"
        live = await running(store, f"live{number}", live_key=key)
        request = a_task(f"request{number}", live_key=key)

        async def ask(session: Any, request: Any = request) -> bool:
            return (await store.tasks.create([request], transaction=session))[0].created

        async def finish(live: Any = live) -> None:
            seen = Seen()
            while isinstance(answer := await settle(store, live, Completed(), seen), Changed):
                seen = answer.seen

        async with await client.start_session() as session:
            created: bool = (await asyncio.gather(session.with_transaction(ask), finish()))[0]

        status = (await look(store, live.id)).status
        assert status is (TaskStatus.COMPLETED if created else TaskStatus.PENDING)


async def test_p16_two_transactions_with_one_id_make_one_task(store: Store, client: OurOwn) -> None:
    async def order(number: int) -> bool:
        async def body(session: Any) -> bool:
            [answer] = await store.tasks.create([a_task(task_body={"by": number})], transaction=session)
            return answer.created

        async with await client.start_session() as session:
            while True:
                try:
                    return bool(await session.with_transaction(body))
                except Conflict:
                    continue

    created = await asyncio.gather(*(order(number) for number in range(4)))

    assert sorted(created) == [False, False, False, True]
    assert (await look(store)).task_body == {"by": created.index(True)}


async def test_p16_a_body_that_cannot_be_kept_is_refused_inside_too(store: Store, client: OurOwn) -> None:
    bad = a_task().model_copy(update={"task_body": {"n": 2**63}})

    with pytest.raises(PayloadRefused):
        async with await client.start_session() as session, session.start_transaction():
            await store.tasks.create([a_task("b"), bad], transaction=session)

    assert await store.tasks.get("b") is None
