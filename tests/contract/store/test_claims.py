"""Claiming: who gets a task, and what becomes of the others."""

import asyncio
from typing import Any

import pytest

from schemas.task import TaskStatus
from service.states import Seen
from service.store.mongo import MongoStore
from service.store.mongo.claims import note_request
from service.store.port import ClaimAnswer, Claimed, ClaimRequest, Deduplicated, Known, Rejected, Store
from tests.conftest import DatabaseClient
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import (
    AT_ONCE,
    HOUR,
    SECOND,
    a_task,
    claim,
    dead,
    failed,
    finished,
    foreign,
    look,
    now,
    running,
    settle,
    some_tasks,
    stored,
)


@pytest.fixture(params=["alone", "in a batch"])
def neighbours(request: pytest.FixtureRequest) -> list[ClaimRequest]:
    """What is claimed together with the request of the test: one claim and many take different ways."""
    return [] if request.param == "alone" else [foreign(task) for task in some_tasks(3, "neighbour")]


async def ask(store: Store, request: ClaimRequest, neighbours: list[ClaimRequest], worker: str = "w1") -> ClaimAnswer:
    answers = await store.claims.claim([*neighbours, request], worker)
    assert all(isinstance(answer, Claimed) for answer in answers[:-1])
    return answers[-1]


# ---- P1 --------------------------------------------------------------------------------------------------------------


async def test_p1_a_claim_starts_the_next_attempt(store: Store, neighbours: list[ClaimRequest]) -> None:
    task = await running(store)
    await settle(store, task, failed(AT_ONCE))

    answer = await ask(store, stored("a"), neighbours, "w2")

    assert isinstance(answer, Claimed)
    assert answer.task == await look(store)
    assert answer.task.status is TaskStatus.RUNNING
    assert (answer.task.attempt, answer.task.fence, answer.task.claimed_by) == (2, 2, "w2")
    assert answer.task.claim_token not in (None, task.claim_token)
    assert answer.task.relay_at is None


async def test_p1_the_store_dates_the_claim(store: Store, neighbours: list[ClaimRequest]) -> None:
    await store.tasks.create([a_task()])
    store.clock.set_from(now() + HOUR, 0, 0)  # the clock of this process is wrong

    answer = await ask(store, stored("a"), neighbours)

    assert isinstance(answer, Claimed)
    for moment in (answer.task.processing_at, answer.task.started_at):
        assert moment is not None
        assert abs(moment - now()) < 5 * SECOND


async def test_p1_a_claim_answers_the_requests_made_before_it(store: Store, neighbours: list[ClaimRequest]) -> None:
    task = await running(store, live_key="name:n")
    await store.tasks.create([a_task("other", live_key="name:n")])
    await settle(store, task, failed(AT_ONCE), Seen(again=True))
    assert (await look(store)).again

    answer = await ask(store, stored("a"), neighbours)

    assert isinstance(answer, Claimed)
    assert not answer.task.again
    assert not (await look(store)).again


async def test_p1_nobody_takes_over_a_running_task(store: Store, neighbours: list[ClaimRequest]) -> None:
    task = await running(store)

    answer = await ask(store, stored("a"), neighbours, "w2")

    assert answer == Known()
    assert await look(store) == task


async def test_p1_an_early_task_is_not_claimed(store: Store, neighbours: list[ClaimRequest]) -> None:
    early = a_task(retry_at=now() + HOUR)
    await store.tasks.create([early])

    assert await ask(store, stored("a"), neighbours) == Known()
    assert await look(store) == early


async def test_p1_a_finished_task_is_not_claimed(store: Store, neighbours: list[ClaimRequest]) -> None:
    for task in (await finished(store, "completed"), await dead(store, "dead")):
        assert (await store.claims.claim([*neighbours, stored(task.id)], "w1"))[-1] == Known()
        assert await look(store, task.id) == task


async def test_p1_two_workers_with_the_same_messages_claim_each_task_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    await one.tasks.create(some_tasks(100, "stored"))
    requests = [stored(f"stored{number:03}") for number in range(100)] + [foreign(task) for task in some_tasks(100)]

    batches = [requests[start : start + 20] for start in range(0, 200, 20)]
    answers = await asyncio.gather(
        *(one.claims.claim(batch, "w1") for batch in batches), *(other.claims.claim(batch, "w2") for batch in batches)
    )

    claimed = [answer.task for batch in answers for answer in batch if isinstance(answer, Claimed)]
    assert sorted(task.id for task in claimed) == sorted(request.id for request in requests)
    for task in claimed:
        mine = await look(one, task.id)
        assert (mine.claim_token, mine.claimed_by) == (task.claim_token, task.claimed_by)
        assert (mine.attempt, mine.fence) == (1, 1)


async def test_p1_two_workers_with_the_same_message_claim_it_once_one_by_one(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()

    for task in some_tasks(30):
        answers = await asyncio.gather(
            one.claims.claim([foreign(task)], "w1"), other.claims.claim([foreign(task)], "w2")
        )

        assert sorted(type(answer).__name__ for [answer] in answers) == ["Claimed", "Known"]


# ---- P2 --------------------------------------------------------------------------------------------------------------


async def test_p2_a_foreign_message_makes_its_record_with_the_claim(
    store: Store, neighbours: list[ClaimRequest]
) -> None:
    record = a_task(
        task_body={"a": [1, None, {"b": 2.5}]},
        task_name="n",
        live_key="name:n",
        max_attempts=None,
        timeout_seconds=5,
        tenant_id="t",
        traceparent="00-1-2-03",
    )

    answer = await ask(store, foreign(record), neighbours)

    assert isinstance(answer, Claimed)
    mine = await look(store)
    assert mine.model_dump(exclude={"started_at", "processing_at"}) == answer.task.model_dump(
        exclude={"started_at", "processing_at"}
    )
    changed = {"status", "claimed_by", "claim_token", "fence", "attempt", "relay_at", "started_at", "processing_at"}
    assert mine.model_dump(exclude=changed) == record.model_dump(exclude=changed)
    assert (mine.status, mine.attempt, mine.fence, mine.relay_at) == (TaskStatus.RUNNING, 1, 1, None)


async def test_p2_a_message_for_a_stored_task_makes_no_record(store: Store, neighbours: list[ClaimRequest]) -> None:
    assert await ask(store, stored("pruned"), neighbours) == Known()
    assert await store.tasks.get("pruned") is None


async def test_p2_a_foreign_message_of_a_stored_task_claims_what_is_stored(
    store: Store, neighbours: list[ClaimRequest]
) -> None:
    await store.tasks.create([a_task(task_body={"first": True})])

    answer = await ask(store, foreign(a_task(task_body={"first": False})), neighbours)

    assert isinstance(answer, Claimed)
    assert answer.task.task_body == {"first": True}


async def test_p3_an_early_foreign_record_is_kept_until_its_time(store: Store) -> None:
    early = a_task(retry_at=now() + HOUR, relay_at=now() + HOUR)
    assert [answer.created for answer in await store.tasks.create([early])] == [True]

    assert await store.claims.claim([foreign(early)], "w1") == [Known()]

    store.clock.set_from(now() + HOUR, 0, 0)
    assert isinstance((await store.claims.claim([foreign(early)], "w1"))[0], Claimed)


# ---- P4 --------------------------------------------------------------------------------------------------------------


async def test_p4_a_known_id_changes_nothing(store: Store, neighbours: list[ClaimRequest]) -> None:
    known = [
        await running(store, "running"),
        await finished(store, "completed"),
        await dead(store, "dead"),
        (await store.tasks.create([a_task("early", retry_at=now() + HOUR)]))[0].task,
    ]

    answers = await store.claims.claim(
        [*neighbours, *(foreign(a_task(task.id, task_body={"new": True})) for task in known)], "w2"
    )

    assert answers[len(neighbours) :] == [Known()] * 4
    assert [await look(store, task.id) for task in known] == known


async def test_p4_a_live_key_that_waits_takes_the_request(store: Store, neighbours: list[ClaimRequest]) -> None:
    live = a_task("live", live_key="name:n")
    await store.tasks.create([live])

    assert await ask(store, foreign(a_task(live_key="name:n")), neighbours) == Deduplicated("live", again=False)

    noted = await look(store, "live")
    assert noted == live.model_copy(update={"asked_by": noted.asked_by})
    assert await store.tasks.get("a") is None


async def test_p4_a_live_key_that_runs_will_run_once_more(store: Store, neighbours: list[ClaimRequest]) -> None:
    await running(store, "live", live_key="name:n")

    assert await ask(store, foreign(a_task(live_key="name:n")), neighbours) == Deduplicated("live", again=True)

    live = await look(store, "live")
    assert live.again
    assert [(line.event, line.reason) for line in live.history] == [("asked again", "by a")]
    assert await store.tasks.get("a") is None


async def test_p4_a_message_that_comes_twice_is_no_request_to_itself(
    store: Store, neighbours: list[ClaimRequest]
) -> None:
    request = foreign(a_task(live_key="name:n"))
    await store.claims.claim([request], "w1")

    assert await ask(store, request, neighbours) == Known()
    assert not (await look(store)).again


async def test_p4_a_request_is_never_noted_on_its_own_task(store: Store) -> None:
    """Between a refusal and the look at who holds the live key, the same message may have got through elsewhere."""
    assert isinstance(store, MongoStore)
    task = await running(store, live_key="name:n")

    noted = await note_request(store._database, store.clock, "name:n", asked_by="a", ask_again=True)

    assert noted == Known()
    assert await look(store) == task


async def test_p4_two_messages_of_one_live_key_in_a_batch_make_one_task(store: Store) -> None:
    first, second = await store.claims.claim(
        [foreign(a_task("a", live_key="name:n")), foreign(a_task("b", live_key="name:n"))], "w1"
    )

    assert isinstance(first, Claimed)
    assert second == Deduplicated("a", again=True)


async def test_p4_a_live_key_is_free_once_its_task_has_ended(store: Store, neighbours: list[ClaimRequest]) -> None:
    await finished(store, "completed", live_key="name:n")
    await dead(store, "dead", live_key="name:m")

    for task_id, key in (("a", "name:n"), ("b", "name:m")):
        answers = await store.claims.claim([*neighbours, foreign(a_task(task_id, live_key=key))], "w1")
        assert isinstance(answers[-1], Claimed)


# ---- P8 --------------------------------------------------------------------------------------------------------------


async def test_p8_the_ids_of_a_batch_are_distinct(store: Store) -> None:
    with pytest.raises(ValueError, match="distinct"):
        await store.claims.claim([foreign(a_task()), foreign(a_task())], "w1")


async def test_p8_answers_come_in_order(store: Store) -> None:
    await store.tasks.create([a_task("pending"), a_task("early", retry_at=now() + HOUR)])
    await running(store, "live", live_key="name:n")
    await finished(store, "done")

    answers = await store.claims.claim(
        [
            stored("gone"),
            foreign(a_task("new")),
            stored("done"),
            stored("pending"),
            foreign(a_task("twin", live_key="name:n")),
            foreign(a_task("early")),
        ],
        "w1",
    )

    assert [answer.task.id if isinstance(answer, Claimed) else answer for answer in answers] == [
        Known(),
        "new",
        Known(),
        "pending",
        Deduplicated("live", again=True),
        Known(),
    ]


async def test_p8_nothing_asked_nothing_answered(store: Store) -> None:
    assert await store.claims.claim([], "w1") == []
    assert await store.claims.settle([]) == []
    assert await store.tasks.create([]) == []
    assert await store.upkeep.relay_move([]) == []
    assert await store.schedules.begin_fires([], "w1") == []
    await store.schedules.end_fires([])
    await store.schedules.record_runs([])
    await store.schedules.write([])


def nested(levels: int) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for _ in range(levels):
        body = {"deeper": body}
    return body


UNSTORABLE = {
    "an integer beyond 64 bits": {"n": 2**63},
    "a lone surrogate": {"s": "\ud800"},
    "a lone surrogate in a key": {"\ud800": 1},
    "a NUL in a key": {"a\0b": 1},
    "250 levels": nested(250),
    "5000 levels": nested(5000),
    "17 MiB": {"s": "x" * 17 * 1024 * 1024},
}


@pytest.mark.parametrize("body", UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_p8_one_record_that_cannot_be_kept_is_refused_alone(store: Store, body: dict[str, Any]) -> None:
    requests = [foreign(task) for task in some_tasks(100)]
    requests[41] = foreign(a_task("bad").model_copy(update={"task_body": body}))

    answers = await store.claims.claim(requests, "w1")

    assert isinstance(answers[41], Rejected)
    assert answers[41].reason
    good = [answer for index, answer in enumerate(answers) if index != 41]
    assert all(isinstance(answer, Claimed) for answer in good)
    assert await store.tasks.get("bad") is None
    assert [(await look(store, answer.task.id)).attempt for answer in good if isinstance(answer, Claimed)] == [1] * 99


async def test_p8_one_write_that_the_server_refuses_leaves_the_others_claimed(
    store: Store, emptied_database: str, database_client: DatabaseClient
) -> None:
    """Here the others have been written when the error comes, and belong to this claim."""
    requests = [foreign(a_task(task.id, task_body={"bad": task.id == "t004"})) for task in some_tasks(10)]
    database = database_client[emptied_database]
    database.command("collMod", "tasks", validator={"taskBody.bad": {"$ne": True}})
    try:
        answers = await store.claims.claim(requests, "w1")
    finally:
        database.command("collMod", "tasks", validator={})

    assert isinstance(answers.pop(4), Rejected)
    claimed = [answer.task for answer in answers if isinstance(answer, Claimed)]
    assert len(claimed) == 9
    for task in claimed:
        mine = await look(store, task.id)
        assert (mine.claim_token, mine.attempt) == (task.claim_token, 1)


async def test_claims_of_a_batch_are_a_worker_s_own(store: Store) -> None:
    await store.tasks.create(some_tasks(2))

    [one] = await claim(store, "t000", worker="w1")
    [other] = await claim(store, "t001", worker="w2")

    assert one.claim_token != other.claim_token
