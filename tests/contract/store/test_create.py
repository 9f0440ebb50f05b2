"""Creating tasks: what is new, what is known, and what a live key does."""

import asyncio
from typing import Any

import pytest

from schemas.outcome import Completed
from schemas.task import TaskStatus
from service.errors import PayloadRefused
from service.store.mongo import claims, tasks
from service.store.port import Claimed, Created, Store
from tests.conftest import DatabaseClient
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import (
    HOUR,
    SECOND,
    a_schedule,
    a_task,
    dead,
    finished,
    foreign,
    kept,
    look,
    now,
    running,
    settle,
    some_tasks,
)
from tests.contract.store.test_claims import UNSTORABLE

VERBATIM: dict[str, dict[str, Any]] = {
    "operators": {"$set": {"a": 1}, "$function": {"body": "function() {}", "args": [], "lang": "js"}, "$inc": 2},
    "an expression": {"a": {"$literal": 1}, "b": "$$NOW", "c": {"$where": "true"}},
    "dotted and empty keys": {"a.b": {"c.d": 1}, ".": 2, "": {"": 3}, "x.$y": 4},
    "a reference": {"r": {"$ref": "tasks", "$id": 1}},
    "a reference at the top": {"$ref": "tasks", "$id": 1, "_id": 5},
    "references in references": {"l": [{"z": 1, "$ref": "a", "$id": {"$ref": "b", "$id": 2, "$db": "c"}, "k": [{}]}]},
    "half a reference": {"a": {"$ref": "x"}, "b": {"$ref": 5, "$id": 1}, "c": {"$id": 1}},
    "extended JSON": {"a": {"$oid": "0" * 24}, "b": {"$date": 0}, "c": {"$numberLong": "5"}},
    "the widest integers": {"a": 2**63 - 1, "b": -(2**63), "c": 2**31, "d": 0},
    "floats": {"a": 1.0, "b": -0.0, "c": 1e308, "d": 5e-324, "e": 0.1},
    "texts": {"a": "\0", "b": "😀 ­\u202e", "c": "x" * 100_000, "😀": "key"},
    "the engine's own names": {"_id": 1, "status": "running", "claimToken": "x", "relayAt": None},
    "nothing": {"a": None, "b": [], "c": {}, "d": [None, [[]]], "e": False},
}


def types(value: Any) -> Any:
    """The exact types of a JSON value: a store may not hand out its own."""
    if isinstance(value, dict):
        return {key: types(child) for key, child in value.items()} if type(value) is dict else type(value)
    if isinstance(value, list):
        return [types(child) for child in value] if type(value) is list else type(value)
    return type(value)


@pytest.mark.parametrize("body", VERBATIM.values(), ids=VERBATIM.keys())
async def test_what_strangers_send_is_kept_verbatim(store: Store, body: dict[str, Any]) -> None:
    await store.tasks.create([a_task("created", task_body=body)])
    task = await running(store, "run", task_body=body)
    token = task.claim_token or ""
    await store.claims.save("run", token, progress=None, checkpoint=body, keep_checkpoint=True)

    run = await look(store, "run")
    for back in ((await look(store, "created")).task_body, task.task_body, run.task_body, run.checkpoint):
        assert back == body
        assert types(back) == types(body)


async def test_a_new_task_is_stored_as_it_is(store: Store) -> None:
    task = a_task(
        task_body={"a": 1}, task_name="n", live_key="name:n", tenant_id="t", max_attempts=None, timeout_seconds=1.5
    )

    assert await store.tasks.create([task]) == [Created(task, created=True)]
    assert await look(store) == task


async def test_many_tasks_are_answered_in_order(store: Store) -> None:
    known = await running(store, "t001", task_body={"known": True})
    live = await running(store, "live", live_key="name:n")
    tasks = some_tasks(4)
    tasks[2] = a_task("t002", live_key="name:n")

    answers = await store.tasks.create(tasks)

    assert [(answer.task.id, answer.created, answer.by) for answer in answers] == [
        ("t000", True, None),
        ("t001", False, "id"),
        ("live", False, "live_key"),
        ("t003", True, None),
    ]
    assert answers[1].task == known
    assert answers[2].task.claim_token == live.claim_token


async def test_p3_an_early_arrival_is_stored_at_once_with_its_time(store: Store) -> None:
    early = a_task(retry_at=now() + HOUR, relay_at=now() + HOUR + 10 * SECOND)

    await store.tasks.create([early])

    kept = await look(store)
    assert (kept.status, kept.retry_at, kept.relay_at) == (TaskStatus.PENDING, early.retry_at, early.relay_at)


async def test_p4_a_known_id_is_a_no_op(store: Store) -> None:
    known = [await running(store, "running"), await finished(store, "done"), await dead(store, "dead")]

    answers = await store.tasks.create([a_task(task.id, task_body={"new": True}) for task in known])

    assert answers == [Created(task, created=False, by="id") for task in known]
    assert [await look(store, task.id) for task in known] == known


async def test_p4_a_known_id_is_looked_at_before_its_live_key(store: Store) -> None:
    task = await running(store, live_key="name:n")

    answers = await store.tasks.create([a_task(live_key="name:n")])

    assert answers == [Created(task, created=False, by="id")]
    assert not (await look(store)).again


async def test_p4_a_request_to_a_waiting_task_is_answered_by_it(store: Store) -> None:
    live = a_task("live", live_key="name:n")
    await store.tasks.create([live])

    [answer] = await store.tasks.create([a_task(live_key="name:n")])

    noted = await look(store, "live")
    assert answer == Created(noted, created=False, by="live_key")
    assert noted == live.model_copy(update={"asked_by": noted.asked_by})
    assert await store.tasks.get("a") is None


async def test_p4_a_request_to_a_running_task_is_noted(store: Store) -> None:
    await running(store, "live", live_key="name:n")

    [answer] = await store.tasks.create([a_task(live_key="name:n")])

    live = await look(store, "live")
    assert answer == Created(live, created=False, by="live_key")
    assert live.again
    assert [(line.event, line.reason) for line in live.history] == [("asked again", "by a")]


@pytest.mark.parametrize("way", ["created", "claimed", "claimed in a batch"])
async def test_p4_a_live_task_that_ends_between_the_refusal_and_the_note_is_no_obstacle(
    store: Store, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    live = await running(store, "live", live_key="name:n")
    module = tasks if way == "created" else claims
    note = module.note_request

    async def late(*what: Any, **more: Any) -> Any:
        await settle(store, live, Completed())
        return await note(*what, **more)

    monkeypatch.setattr(module, "note_request", late)
    request = a_task(live_key="name:n")
    if way == "created":
        assert await store.tasks.create([request]) == [Created(request, created=True)]
    else:
        others = [foreign(task) for task in some_tasks(2)] if way == "claimed in a batch" else []
        assert isinstance((await store.claims.claim([foreign(request), *others], "w1"))[0], Claimed)

    assert (await look(store)).live_key == "name:n"
    assert (await look(store, "live")).status is TaskStatus.COMPLETED


async def test_p4_a_live_key_that_is_taken_again_takes_the_request(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await running(store, "live", live_key="name:n")
    note = claims.note_request

    async def late(*what: Any, **more: Any) -> Any:
        noted = None
        if (await look(store, "live")).status is TaskStatus.COMPLETED:
            noted = await note(*what, **more)
        else:
            await settle(store, live, Completed())
            await store.tasks.create([a_task("third", live_key="name:n")])
        return noted

    monkeypatch.setattr(tasks, "note_request", late)

    [answer] = await store.tasks.create([a_task(live_key="name:n")])

    assert (answer.created, answer.by, answer.task.id) == (False, "live_key", "third")
    assert await store.tasks.get("a") is None


async def test_a_field_of_a_newer_version_is_left_out(
    store: Store, emptied_database: str, database_client: DatabaseClient
) -> None:
    """While a new version is rolled out, the old one reads what the new one has written."""
    task = a_task()
    await store.tasks.create([task])
    [schedule] = await kept(store, a_schedule())
    database = database_client[emptied_database]
    for collection in ("tasks", "schedules"):
        database[collection].update_many({}, {"$set": {"fromTheFuture": {"a": 1}}})

    assert await look(store) == task
    assert await store.schedules.all() == [schedule]


async def test_p19_a_fire_that_overlaps_asks_for_nothing(store: Store) -> None:
    live = await running(store, "live", live_key="body:x")

    answers = await store.tasks.create([a_task("fire:s@t", live_key="body:x")], ask_again=False)

    assert answers == [Created(live, created=False, by="live_key")]
    assert await look(store, "live") == live


async def test_p19_a_fire_that_was_inserted_before_is_a_no_op(store: Store) -> None:
    fire = a_task("fire:s@t", live_key="body:x")
    await store.tasks.create([fire], ask_again=False)

    assert await store.tasks.create([fire], ask_again=False) == [Created(fire, created=False, by="id")]


async def test_a_live_key_is_free_once_its_task_has_ended(store: Store) -> None:
    await finished(store, "completed", live_key="name:n")
    await dead(store, "dead", live_key="name:m")
    await store.tasks.create([a_task("pending", live_key="name:o")])
    await store.tasks.cancel("pending", "not needed")

    answers = await store.tasks.create([a_task(key, live_key=key) for key in ("name:n", "name:m", "name:o")])

    assert [answer.created for answer in answers] == [True, True, True]


async def test_one_batch_may_hold_an_id_or_a_live_key_twice(store: Store) -> None:
    answers = await store.tasks.create(
        [a_task("a"), a_task("a"), a_task("b", live_key="name:n"), a_task("c", live_key="name:n")]
    )

    assert [(answer.task.id, answer.created) for answer in answers] == [
        ("a", True),
        ("a", False),
        ("b", True),
        ("b", False),
    ]


async def test_two_clients_that_create_the_same_tasks_create_each_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    tasks = some_tasks(100, live_key=None) + [
        a_task(f"n{number}", live_key=f"name:{number % 10}") for number in range(50)
    ]

    answers = await asyncio.gather(one.tasks.create(tasks), other.tasks.create(tasks[::-1]))

    created = [answer.task.id for batch in answers for answer in batch if answer.created]
    assert len(created) == len(set(created)) == 110


@pytest.mark.parametrize("body", UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_a_body_that_cannot_be_kept_is_refused(store: Store, body: dict[str, Any]) -> None:
    with pytest.raises(PayloadRefused):
        await store.tasks.create([a_task("good"), a_task().model_copy(update={"task_body": body})])

    assert await store.tasks.get("a") is None


async def test_a_task_is_found_by_its_id(store: Store) -> None:
    await store.tasks.create(some_tasks(3))

    assert await store.tasks.get("nothing") is None
    assert set(await store.tasks.get_many(["t000", "t002", "nothing"])) == {"t000", "t002"}
    assert await store.tasks.get_many([]) == {}
