"""Forgetting what nobody needs, and nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from schemas.outcome import Cancelled, Completed, Discarded
from schemas.task import TaskStatus
from service.store.mongo import MongoStore
from service.store.port import FireEnd, RelayMove, Retention, Store
from tests.conftest import DatabaseClient
from tests.contract.store.steps import (
    AT_ONCE,
    HOUR,
    MINUTE,
    a_fire,
    a_schedule,
    a_task,
    claim,
    dead,
    end,
    failed,
    finished,
    kept,
    look,
    now,
    running,
    some_tasks,
)

DAY = timedelta(days=1)
RULES = Retention(window=HOUR, completed=DAY, dead=30 * DAY, keep_completed=100)


async def left(store: Store) -> set[str]:
    ids = {"completed", "cancelled", "discarded", "dead", "pending", "running"}
    return set(await store.tasks.get_many(ids))


async def one_of_each(store: Store) -> None:
    await finished(store, "completed")
    await finished(store, "cancelled", Cancelled("asked for"))
    await finished(store, "discarded", Discarded("too old"))
    await dead(store, "dead")
    await store.tasks.create([a_task("pending")])
    await running(store, "running")


async def test_p14_each_status_has_its_age(store: Store) -> None:
    await one_of_each(store)

    assert await store.upkeep.prune(RULES, now() + DAY - MINUTE, 100) == {}
    assert await store.upkeep.prune(RULES, now() + DAY + MINUTE, 100) == {
        TaskStatus.COMPLETED: 1,
        TaskStatus.CANCELLED: 2,
    }
    assert await left(store) == {"dead", "pending", "running"}
    assert await store.upkeep.prune(RULES, now() + 30 * DAY - MINUTE, 100) == {}
    assert await store.upkeep.prune(RULES, now() + 30 * DAY + MINUTE, 100) == {TaskStatus.FAILED: 1}
    assert await left(store) == {"pending", "running"}


async def test_p14_nothing_goes_inside_the_idempotency_window(store: Store) -> None:
    await one_of_each(store)
    greedy = Retention(window=HOUR, completed=AT_ONCE, dead=AT_ONCE, keep_completed=0)

    assert await store.upkeep.prune(greedy, now() + HOUR - MINUTE, 100) == {}
    await store.upkeep.prune(greedy, now() + HOUR + MINUTE, 100)

    assert await left(store) == {"pending", "running"}


async def test_only_the_newest_completed_of_a_type_are_kept(store: Store) -> None:
    for number in range(6):
        await finished(store, f"t{number}")
    await finished(store, "mail", task_type="mail")
    rules = replace(RULES, keep_completed=4)

    assert await store.upkeep.prune(rules, now() + HOUR - MINUTE, 100) == {}
    assert await store.upkeep.prune(rules, now() + HOUR + MINUTE, 100) == {TaskStatus.COMPLETED: 2}

    assert set(await store.tasks.get_many([f"t{n}" for n in range(6)])) == {"t2", "t3", "t4", "t5"}
    assert await store.tasks.get("mail") is not None


async def test_completed_ones_that_ended_together_are_counted_one_by_one(store: Store) -> None:
    await store.tasks.create(some_tasks(50))
    tasks = await claim(store, *(f"t{number:03}" for number in range(50)))
    await store.claims.settle([end(task, Completed()) for task in tasks])
    rules = replace(RULES, keep_completed=20)

    assert await store.upkeep.prune(rules, now() + HOUR + MINUTE, 100) == {TaskStatus.COMPLETED: 30}
    assert await store.upkeep.prune(rules, now() + HOUR + MINUTE, 100) == {}

    assert len(await store.tasks.get_many([task.id for task in tasks])) == 20


async def test_what_is_inside_the_window_counts_among_the_newest(store: Store) -> None:
    for number in range(3):
        await finished(store, f"old{number}")
    old = await look(store, "old2")
    assert old.finished_at is not None
    edge = old.finished_at
    for number in range(2):
        await finished(store, f"new{number}")
    rules = replace(RULES, keep_completed=3)

    # The window begins between the old and the new ones.
    assert await store.upkeep.prune(rules, edge + HOUR + timedelta(milliseconds=1), 100) == {TaskStatus.COMPLETED: 2}

    assert set(await store.tasks.get_many(["old0", "old1", "old2", "new0", "new1"])) == {"old2", "new0", "new1"}


async def test_a_prune_takes_so_many_at_a_time(store: Store) -> None:
    for number in range(5):
        await finished(store, f"t{number}", Cancelled("asked for"))
    later = now() + 2 * DAY

    counts = [await store.upkeep.prune(RULES, later, 2) for _ in range(4)]

    assert counts == [{TaskStatus.CANCELLED: 2}, {TaskStatus.CANCELLED: 2}, {TaskStatus.CANCELLED: 1}, {}]


async def test_p14_a_dead_letter_stays_until_it_is_on_its_exchange(store: Store) -> None:
    task = await dead(store, published=False)

    assert await store.upkeep.prune(RULES, now() + 60 * DAY, 100) == {}

    await store.upkeep.relay_move([RelayMove(task, None)])
    assert await store.upkeep.prune(RULES, now() + 60 * DAY, 100) == {TaskStatus.FAILED: 1}


async def test_p14_the_tasks_of_an_open_fire_stay(store: Store) -> None:
    await finished(store, "fire:s@t", schedule_id="s")
    await finished(store, "fire:other@t", schedule_id="other")
    [schedule] = await kept(store, a_schedule("s"))
    [held] = await store.schedules.begin_fires([a_fire(schedule)], "s1")

    await store.upkeep.prune(RULES, now() + 2 * DAY, 100)
    assert set(await store.tasks.get_many(["fire:s@t", "fire:other@t"])) == {"fire:s@t"}

    await store.schedules.end_fires([FireEnd(held, None)])
    assert await store.upkeep.prune(RULES, now() + 2 * DAY, 100) == {TaskStatus.COMPLETED: 1}


@pytest.mark.parametrize("until", ["it runs", "it is a dead letter again"])
async def test_p14_what_was_replayed_since_the_look_stays(
    store: Store, emptied_database: str, database_client: DatabaseClient, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    assert isinstance(store, MongoStore)
    await dead(store)
    long_ago = {"$set": {"finishedAt": now() - 40 * DAY}}
    database_client[emptied_database]["tasks"].update_one({"_id": "a"}, long_ago)
    delete = store.upkeep._delete

    async def late(ids: list[str], *which: Any) -> int:
        if ids:
            await store.tasks.replay("a", now())
            [task] = await claim(store, "a")
            if until == "it is a dead letter again":
                await store.claims.settle([end(task, failed(None))])
                await store.upkeep.relay_move([RelayMove(await look(store), None)])
        return await delete(ids, *which)

    monkeypatch.setattr(store.upkeep, "_delete", late)

    assert await store.upkeep.prune(RULES, now(), 100) == {}
    assert (await look(store)).fence == 2


async def test_p16_after_a_prune_the_fence_starts_again(store: Store) -> None:
    await finished(store, max_attempts=1)
    await store.upkeep.prune(RULES, now() + 2 * DAY, 100)

    assert (await running(store)).fence == 1
