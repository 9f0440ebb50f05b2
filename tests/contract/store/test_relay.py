"""What relay looks at: the store is the outbox."""

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest

from schemas.outcome import Completed
from schemas.task import Payload, TaskStatus
from service.store.port import RelayMove, Store
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import (
    HOUR,
    MINUTE,
    SECOND,
    a_beat,
    a_task,
    an_error,
    beat,
    claim,
    dead,
    end,
    failed,
    finished,
    look,
    now,
    running,
    settle,
    some_tasks,
)

# ---- what is due -----------------------------------------------------------------------------------------------------


async def test_p12_relay_knows_when_each_type_is_due(store: Store) -> None:
    soon, later = now() + SECOND, now() + HOUR
    await store.tasks.create(
        [
            a_task("a", task_type="report", relay_at=later),
            a_task("b", task_type="report", relay_at=soon),
            a_task("c", task_type="mail", relay_at=later),
        ]
    )
    await running(store, "running", task_type="running")
    await finished(store, "done", task_type="done")
    await dead(store, "dead", task_type="dead", published=False)

    assert await store.upkeep.relay_heads() == {"report": soon, "mail": later}


async def test_p12_relay_takes_the_oldest_of_a_type_first(store: Store) -> None:
    start = now() - HOUR
    await store.tasks.create([a_task(f"t{n}", relay_at=start + n * SECOND) for n in (3, 0, 2, 1)])
    await store.tasks.create([a_task("mail", task_type="mail", relay_at=start)])

    due = await store.upkeep.relay_due("report", start + 2 * SECOND, 10)

    assert [task.id for task in due] == ["t0", "t1", "t2"]
    assert due[0] == await look(store, "t0")
    assert [task.id for task in await store.upkeep.relay_due("report", now(), 2)] == ["t0", "t1"]


async def test_p12_relay_leaves_what_runs_and_what_has_ended(store: Store) -> None:
    await running(store, "running")
    await finished(store, "done")
    await dead(store, "dead")

    assert await store.upkeep.relay_heads() == {}
    assert await store.upkeep.relay_due("report", now() + HOUR, 10) == []
    assert await store.upkeep.dead_due(now() + HOUR, 10) == []


async def test_p13_dead_letters_of_any_type_wait_for_their_exchange(store: Store) -> None:
    await dead(store, "a", task_type="report", published=False)
    await dead(store, "b", task_type="mail", published=False)
    await store.tasks.create([a_task("pending")])

    assert await store.upkeep.dead_due(now(), 10) == []
    assert [task.id for task in await store.upkeep.dead_due(now() + MINUTE, 10)] == ["a", "b"]
    assert [task.id for task in await store.upkeep.dead_due(now() + MINUTE, 1)] == ["a"]
    assert await store.upkeep.relay_heads() == {"report": (await look(store, "pending")).relay_at}


# ---- P11 -------------------------------------------------------------------------------------------------------------


async def test_p11_relay_moves_what_is_as_it_read_it(store: Store) -> None:
    tasks = some_tasks(4)
    await store.tasks.create(tasks)
    moved = now() + HOUR
    await claim(store, "t001")
    await store.upkeep.relay_move([RelayMove(tasks[2], now() + MINUTE)])

    assert await store.upkeep.relay_move([RelayMove(task, moved) for task in tasks]) == [True, False, False, True]

    assert [(await look(store, task.id)).relay_at == moved for task in tasks] == [True, False, False, True]


async def test_p11_a_move_compares_the_status(store: Store) -> None:
    pending = a_task(relay_at=now() + HOUR)
    await store.tasks.create([pending])
    task = pending.model_copy(update={"status": TaskStatus.FAILED})

    assert await store.upkeep.relay_move([RelayMove(task, None)]) == [False]

    assert (await look(store)).relay_at == pending.relay_at


async def test_p11_nothing_is_moved_that_is_gone(store: Store) -> None:
    assert await store.upkeep.relay_move([RelayMove(a_task("pruned"), now())]) == [False]


async def test_p11_two_relays_move_each_task_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    tasks = some_tasks(100)
    await one.tasks.create(tasks)

    async def moves(store: Store, at: datetime) -> list[bool]:
        return await store.upkeep.relay_move([RelayMove(task, at) for task in tasks])

    answers = await asyncio.gather(moves(one, now() + HOUR), moves(other, now() + 2 * HOUR))

    assert all(mine != theirs for mine, theirs in zip(*answers, strict=True))


# ---- dead letters ----------------------------------------------------------------------------------------------------


async def test_p13_a_task_that_nobody_can_run_becomes_a_dead_letter(store: Store) -> None:
    task = a_task(live_key="name:n")
    await store.tasks.create([task])
    due = now() + MINUTE

    assert await store.upkeep.give_up(task, "unknown_type", "no worker knows report", due)

    after = await look(store)
    assert (after.status, after.reason, after.relay_at, after.live_key) == (
        TaskStatus.FAILED,
        "unknown_type",
        due,
        None,
    )
    assert after.finished_at is not None
    assert after.last_error is not None
    assert after.last_error.message == "no worker knows report"
    assert [line.event for line in after.history] == ["failed"]


async def test_p13_a_task_that_was_claimed_or_moved_meanwhile_is_not_given_up(store: Store) -> None:
    claimed, moved = a_task("claimed"), a_task("moved")
    await store.tasks.create([claimed, moved])
    await claim(store, "claimed")
    await store.upkeep.relay_move([RelayMove(moved, now() + HOUR)])

    for task in (claimed, moved):
        before = await look(store, task.id)
        assert not await store.upkeep.give_up(task, "unknown_type", "", now())
        assert await look(store, task.id) == before


async def test_p13_a_task_that_has_failed_meanwhile_is_not_given_up(store: Store) -> None:
    pending = a_task()
    await store.tasks.create([pending])
    [task] = await claim(store, "a")
    await store.claims.settle([replace(end(task, failed(None)), relay_at=pending.relay_at)])
    dead_letter = await look(store)
    assert dead_letter.relay_at == pending.relay_at

    assert not await store.upkeep.give_up(pending, "unknown_type", "", now())

    assert await look(store) == dead_letter


async def test_p13_a_message_that_is_no_task_is_kept_once(store: Store) -> None:
    payload = Payload(body="bm90IGpzb24=", size=8, sha256="0" * 64, complete=True, headers={"$ref": "x", "$id": "y"})
    bad = a_task(
        "invalid:1",
        status=TaskStatus.FAILED,
        reason="invalid_message",
        last_error=an_error(),
        payload=payload,
        finished_at=now(),
        relay_at=now(),
    )

    assert await store.upkeep.put_dead(bad)
    assert not await store.upkeep.put_dead(bad)

    assert await look(store, "invalid:1") == bad
    assert await store.upkeep.dead_due(now(), 10) == [bad]


async def test_p13_a_message_that_is_no_task_is_never_hidden_from_relay(store: Store) -> None:
    assert await store.upkeep.put_dead(a_task(relay_at=None))

    kept = await look(store)
    assert kept.status is TaskStatus.FAILED
    assert None not in (kept.relay_at, kept.finished_at)


# ---- P12: markers ----------------------------------------------------------------------------------------------------


async def test_p12_one_marker_is_on_its_way_at_most(store: Store) -> None:
    start = now()

    assert await store.upkeep.take_marker("report", start)
    assert not await store.upkeep.take_marker("report", start + 59 * SECOND)
    assert await store.upkeep.take_marker("mail", start)

    state = (await store.upkeep.type_states())["report"]
    assert (state.marker_sent_at, state.marker_seen_at) == (start, None)


async def test_p12_a_marker_that_was_seen_makes_room_for_the_next(store: Store) -> None:
    start = now()
    await store.upkeep.take_marker("report", start)
    await beat(store, a_beat(report=start))

    assert await store.upkeep.take_marker("report", start + SECOND)


async def test_p12_a_marker_that_an_older_one_answers_is_still_out(store: Store) -> None:
    start = now()
    await store.upkeep.take_marker("report", start)
    await beat(store, a_beat(report=start - MINUTE))

    assert not await store.upkeep.take_marker("report", start + SECOND)


async def test_p12_a_lost_marker_is_sent_again_after_a_minute(store: Store) -> None:
    start = now()
    await store.upkeep.take_marker("report", start)

    assert await store.upkeep.take_marker("report", start + 61 * SECOND)


@pytest.mark.parametrize("before", [False, True], ids=["the first", "a later one"])
async def test_p12_two_relays_send_one_marker(adapter: Adapter, before: bool) -> None:
    one, other = await adapter.open(), await adapter.open()
    start = now()

    for number in range(10):
        task_type = f"type{number}"
        if before:
            await one.upkeep.take_marker(task_type, start - HOUR)
        answers = await asyncio.gather(
            one.upkeep.take_marker(task_type, start), other.upkeep.take_marker(task_type, start + SECOND)
        )
        assert sorted(answers) == [False, True]


async def test_a_finished_task_is_none_of_relay_s_business(store: Store) -> None:
    task = await running(store)
    await settle(store, task, Completed())

    assert await store.upkeep.relay_due("report", now() + HOUR, 10) == []
