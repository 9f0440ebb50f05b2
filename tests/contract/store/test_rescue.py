"""Taking a claim away from a worker that is gone."""

import asyncio
from datetime import timedelta

import pytest

from schemas.outcome import Completed, Released
from schemas.task import TaskStatus
from service.states import RELAY_SLACK, WORKER_LOST, rescue
from service.store.port import Refused, Store
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import (
    HOUR,
    MINUTE,
    SECOND,
    STALE,
    a_beat,
    a_task,
    beat,
    claim,
    look,
    now,
    running,
    settle,
    some_tasks,
)


async def take(store: Store, task_id: str = "a", stale_after: timedelta = STALE) -> bool:
    """Rescue as a scheduler does, from what it reads now."""
    task = await look(store, task_id)
    return await store.upkeep.rescue(task, rescue(task, now() - SECOND), stale_after, now() + RELAY_SLACK)


# ---- what is stale ---------------------------------------------------------------------------------------------------


async def test_p9_claims_that_nobody_renewed_are_stale_oldest_first(store: Store) -> None:
    for number in range(3):
        await running(store, f"t{number}")
    await store.tasks.create([a_task("pending")])

    stale, following = await store.upkeep.stale_claims(STALE, 10)

    assert [task.id for task in stale] == ["t0", "t1", "t2"]
    assert stale[0] == await look(store, "t0")
    assert following is None


async def test_p9_it_is_known_when_the_next_claim_will_be_stale(store: Store) -> None:
    assert await store.upkeep.stale_claims(MINUTE, 10) == ([], None)
    task = await running(store)
    assert task.processing_at is not None

    assert await store.upkeep.stale_claims(MINUTE, 10) == ([], task.processing_at + MINUTE)


async def test_p9_both_are_known_together(store: Store) -> None:
    await running(store, "old", worker="gone")
    fresh = await running(store, "fresh", worker="here")
    await store.upkeep.rescue_workers(["gone"])
    assert fresh.processing_at is not None

    stale, following = await store.upkeep.stale_claims(MINUTE, 10)

    assert [task.id for task in stale] == ["old"]
    assert following == fresh.processing_at + MINUTE


async def test_p9_more_stale_claims_than_asked_for_are_looked_at_next(store: Store) -> None:
    await store.tasks.create(some_tasks(5))
    await claim(store, *(f"t{number:03}" for number in range(5)))

    stale, following = await store.upkeep.stale_claims(STALE, 3)

    assert len(stale) == 3
    assert following is not None
    assert following <= now() + SECOND


# ---- P9 --------------------------------------------------------------------------------------------------------------


async def test_p9_a_stale_claim_goes_back_and_its_attempt_is_burnt(store: Store) -> None:
    task = await running(store, live_key="name:n")
    due = now() + RELAY_SLACK

    assert await store.upkeep.rescue(task, rescue(task, now() - SECOND), STALE, due)

    after = await look(store)
    assert (after.status, after.attempt, after.retry_count, after.fence) == (TaskStatus.PENDING, 1, 0, 1)
    assert (after.claim_token, after.claimed_by, after.processing_at) == (None, None, None)
    assert (after.relay_at, after.live_key) == (due, "name:n")
    assert after.retry_at <= now()
    assert [(line.event, line.worker) for line in after.history] == [("rescued", "w1")]
    assert [task.attempt for task in await claim(store, "a", worker="w2")] == [2]


async def test_p9_at_the_ceiling_it_is_a_dead_letter(store: Store) -> None:
    await running(store, max_attempts=1, live_key="name:n")

    assert await take(store)

    after = await look(store)
    assert (after.status, after.reason, after.live_key) == (TaskStatus.FAILED, WORKER_LOST, None)
    assert after.last_error is not None
    assert after.last_error.type == "WorkerLost"
    assert None not in (after.relay_at, after.finished_at)


async def test_p9_it_is_cancelled_if_that_was_asked(store: Store) -> None:
    await running(store)
    await store.tasks.cancel("a", "not needed")

    assert await take(store)

    after = await look(store)
    assert (after.status, after.relay_at, after.claim_token) == (TaskStatus.CANCELLED, None, None)


@pytest.mark.parametrize("way", ["ceiling", "cancel"])
async def test_p9_p5_a_request_makes_any_end_a_new_run(store: Store, way: str) -> None:
    await running(store, max_attempts=1 if way == "ceiling" else 8, live_key="name:n")
    if way == "cancel":
        await store.tasks.cancel("a", "not needed")
    await store.tasks.create([a_task("request", live_key="name:n")])

    assert await take(store)

    after = await look(store)
    assert (after.status, after.attempt, after.again, after.cancel_requested_at) == (
        TaskStatus.PENDING,
        0,
        False,
        None,
    )
    assert after.relay_at is not None


async def test_p9_a_claim_that_is_renewed_is_not_taken(store: Store) -> None:
    task = await running(store)

    assert not await store.upkeep.rescue(task, rescue(task, now() - SECOND), MINUTE, now())

    assert await look(store) == task


async def test_p9_the_store_s_clock_decides(store: Store) -> None:
    task = await running(store)
    store.clock.set_from(now() + HOUR, 0, 0)  # the clock of this process is wrong
    stale, _ = await store.upkeep.stale_claims(MINUTE, 10)
    assert stale == [task]

    assert not await store.upkeep.rescue(task, rescue(task, now() - SECOND), MINUTE, now())

    assert await look(store) == task


async def test_p9_a_renewal_between_the_look_and_the_rescue_saves_the_claim(store: Store) -> None:
    await running(store, worker="w1")
    await store.upkeep.rescue_workers(["w1"])
    [task], _ = await store.upkeep.stale_claims(MINUTE, 10)
    await beat(store, a_beat(task))

    assert not await store.upkeep.rescue(task, rescue(task, now() - SECOND), MINUTE, now())


@pytest.mark.parametrize("change", ["again", "cancel", "ended", "claimed anew"])
async def test_p9_what_changed_since_the_look_is_not_rescued(store: Store, change: str) -> None:
    task = await running(store, live_key="name:n")
    match change:
        case "again":
            await store.tasks.create([a_task("request", live_key="name:n")])
        case "cancel":
            await store.tasks.cancel("a", "not needed")
        case "ended":
            await settle(store, task, Completed())
        case "claimed anew":
            await settle(store, task, Released("shutdown"))
            await claim(store, "a", worker="w2")
    before = await look(store)

    assert not await store.upkeep.rescue(task, rescue(task, now() - SECOND), STALE, now())

    assert await look(store) == before


async def test_p9_a_request_that_was_withdrawn_since_the_look_counts_too(store: Store) -> None:
    await running(store, live_key="name:n", max_attempts=1)
    await store.tasks.create([a_task("request", live_key="name:n")])
    task = await look(store)
    await store.tasks.cancel("a", "not needed")

    assert not await store.upkeep.rescue(task, rescue(task, now() - SECOND), STALE, now())


async def test_p9_two_schedulers_rescue_a_claim_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    for number in range(20):
        task_id = f"t{number}"
        await running(one, task_id)

        assert sorted(await asyncio.gather(take(one, task_id), take(other, task_id))) == [False, True]
        assert len((await look(one, task_id)).history) == 1


async def test_p9_the_lost_run_is_told(store: Store) -> None:
    task = await running(store)
    await take(store)

    assert (await beat(store, a_beat(task))).lost == {"a"}
    assert await settle(store, task, Completed()) == Refused()


async def test_claims_of_dead_processes_are_stale_at_once(store: Store) -> None:
    await running(store, "one", worker="dead")
    await running(store, "two", worker="dead")
    await running(store, "three", worker="alive")

    assert await store.upkeep.rescue_workers(["dead", "unknown"]) == 2
    assert await store.upkeep.rescue_workers([]) == 0

    stale, _ = await store.upkeep.stale_claims(MINUTE, 10)
    assert {task.id for task in stale} == {"one", "two"}
    assert await take(store, "one", MINUTE)
    assert not await take(store, "three", MINUTE)
