"""Stopping a task, and giving a dead letter another chance."""

import asyncio

import pytest

from schemas.outcome import Cancelled, Completed
from schemas.task import TaskStatus
from service.errors import Conflict, NotFound
from service.states import Seen
from service.store.port import Changed, RelayMove, Settled, Store
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
    look,
    now,
    running,
    settle,
)

# ---- cancel ----------------------------------------------------------------------------------------------------------


async def test_a_pending_task_is_cancelled_at_once(store: Store) -> None:
    await store.tasks.create([a_task(live_key="name:n")])

    cancelled = await store.tasks.cancel("a", "not needed")

    assert cancelled == await look(store)
    assert (cancelled.status, cancelled.reason) == (TaskStatus.CANCELLED, "not needed")
    assert (cancelled.live_key, cancelled.relay_at) == (None, None)
    assert cancelled.finished_at is not None
    assert [line.event for line in cancelled.history] == ["cancel requested"]


async def test_a_running_task_is_asked_to_stop(store: Store) -> None:
    task = await running(store)

    asked = await store.tasks.cancel("a", "not needed")

    assert asked == await look(store)
    assert (asked.status, asked.claim_token) == (TaskStatus.RUNNING, task.claim_token)
    assert asked.cancel_requested_at is not None


async def test_a_finished_task_is_not_cancelled(store: Store) -> None:
    cancelled = await finished(store, "cancelled", Cancelled("asked for"))
    for task in (await finished(store, "completed"), await dead(store, "dead"), cancelled):
        with pytest.raises(Conflict, match=f"'{task.id}' is {task.status} already"):
            await store.tasks.cancel(task.id, "too late")
        assert await look(store, task.id) == task


async def test_there_must_be_a_task_to_cancel(store: Store) -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        await store.tasks.cancel("nothing", "not needed")


async def test_p5_a_cancelled_task_that_waited_forgets_its_request(store: Store) -> None:
    task = await running(store, live_key="name:n")
    await store.tasks.create([a_task("request", live_key="name:n")])
    await settle(store, task, failed(HOUR), Seen(again=True))

    assert not (await store.tasks.cancel("a", "not needed")).again


async def test_p6_a_cancel_at_the_same_time_as_an_end_is_seen_or_too_late(adapter: Adapter) -> None:
    worker, client = await adapter.open(), await adapter.open()
    for number in range(30):
        task = await running(worker, f"t{number}")

        answer, asked = await asyncio.gather(
            settle(worker, task, failed(AT_ONCE)), client.tasks.cancel(task.id, "not needed")
        )

        after = await look(worker, task.id)
        if isinstance(answer, Changed):
            assert answer.seen == Seen(cancel_requested=True)
            assert (after.status, asked.status) == (TaskStatus.RUNNING, TaskStatus.RUNNING)
        else:
            assert answer == Settled(TaskStatus.PENDING)
            assert (after.status, asked.status) == (TaskStatus.CANCELLED, TaskStatus.CANCELLED)


# ---- replay ----------------------------------------------------------------------------------------------------------


async def test_p13_a_replayed_dead_letter_starts_afresh_and_keeps_its_history(store: Store) -> None:
    task = await dead(store, live_key="name:n", max_attempts=1)
    due = now() + HOUR

    replayed = await store.tasks.replay("a", due)

    assert replayed == await look(store)
    assert (replayed.status, replayed.attempt, replayed.retry_count) == (TaskStatus.PENDING, 0, 0)
    assert (replayed.finished_at, replayed.reason, replayed.live_key) == (None, None, "name:n")
    assert replayed.relay_at == due
    assert replayed.retry_at <= now() + SECOND
    assert replayed.last_error == task.last_error
    assert [line.event for line in replayed.history] == ["failed", "replayed"]
    [again] = await claim(store, "a")
    assert (again.attempt, again.fence) == (1, 2)


async def test_p13_a_replayed_dead_letter_forgets_the_cancel(store: Store) -> None:
    task = await running(store, max_attempts=1)
    await store.tasks.cancel("a", "not needed", force=True)
    await settle(store, task, failed(None))
    await store.upkeep.relay_move([RelayMove(await look(store), None)])

    replayed = await store.tasks.replay("a", now())

    assert (replayed.cancel_requested_at, replayed.cancel_forced) == (None, False)


async def test_p13_no_replay_before_the_dead_letter_is_on_its_exchange(store: Store) -> None:
    task = await dead(store, published=False)

    with pytest.raises(Conflict, match="not on the dead-letter exchange yet"):
        await store.tasks.replay("a", now())

    assert await look(store) == task


async def test_p13_a_late_clear_cannot_hide_a_replayed_task_from_relay(store: Store) -> None:
    task = await dead(store, published=False)
    assert await store.upkeep.relay_move([RelayMove(task, None)]) == [True]
    await store.tasks.replay("a", now())

    assert await store.upkeep.relay_move([RelayMove(task, None)]) == [False]

    assert (await look(store)).relay_at is not None


async def test_p13_a_live_key_that_was_taken_meanwhile_is_a_conflict(store: Store) -> None:
    task = await dead(store, live_key="name:n")
    await store.tasks.create([a_task("live", live_key="name:n")])

    with pytest.raises(Conflict, match="live key"):
        await store.tasks.replay("a", now())

    assert await look(store) == task


@pytest.mark.parametrize("status", ["pending", "running", "completed"])
async def test_p13_only_a_dead_letter_is_replayed(store: Store, status: str) -> None:
    task = await running(store)
    if status == "pending":
        await settle(store, task, failed(HOUR))
    elif status == "completed":
        await settle(store, task, Completed())

    with pytest.raises(Conflict, match=status):
        await store.tasks.replay("a", now())


async def test_p13_a_dead_letter_is_replayed_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    await dead(one)

    answers = await asyncio.gather(
        one.tasks.replay("a", now() + HOUR), other.tasks.replay("a", now() + 2 * HOUR), return_exceptions=True
    )

    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "Task"]


async def test_there_must_be_a_dead_letter_to_replay(store: Store) -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        await store.tasks.replay("nothing", now())
