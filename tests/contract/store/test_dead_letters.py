"""Dead letters as a heap: found, counted, grouped, thrown away; and whom a request was noted on."""

from datetime import timedelta
from typing import Any

import pytest

from schemas.task import Task, TaskError, TaskStatus
from service.errors import Conflict, InvalidInput
from service.payload import live_key
from service.states import Seen
from service.store.mongo import MongoStore
from service.store.port import DeadFilter, RelayMove, Retention, Store
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import HOUR, SECOND, a_task, claim, dead, failed, finished, look, now, running, settle

ALL = DeadFilter()


def an_end(number: int, kind: str, **fields: Any) -> Task:
    at = now() - HOUR + number * SECOND
    error = TaskError(type=kind, message=f"{kind} {number}", fingerprint=kind.lower(), place="jobs.py:work", at=at)
    return a_task(f"d{number:02}", status=TaskStatus.FAILED, finished_at=at, relay_at=None, last_error=error, **fields)


async def a_heap(store: Store) -> None:
    """d00 to d08: every third of type mail; Boom thrice, Bang six times, the newest last."""
    for number in range(9):
        kind = "Boom" if number < 3 else "Bang"
        task = an_end(number, kind, task_type="mail" if number % 3 == 0 else "report")
        await store.upkeep.put_dead(task)
    due = await store.upkeep.dead_due(now() + HOUR, 100)
    assert all(await store.upkeep.relay_move([RelayMove(task, None) for task in due]))


async def ids(store: Store, which: DeadFilter, limit: int = 100) -> list[str]:
    return [task.id for task in (await store.dead.find(which, limit=limit)).tasks]


async def test_dead_letters_are_found_by_type_and_fingerprint_newest_first(store: Store) -> None:
    await a_heap(store)
    await finished(store, "done")
    await running(store, "running")

    assert await ids(store, ALL) == [f"d{number:02}" for number in reversed(range(9))]
    assert await ids(store, DeadFilter(fingerprint="boom")) == ["d02", "d01", "d00"]
    assert await ids(store, DeadFilter(task_type="mail", fingerprint="bang")) == ["d06", "d03"]
    assert await ids(store, DeadFilter(fingerprint="nothing")) == []
    third = await look(store, "d03")
    assert await ids(store, DeadFilter(until=third.finished_at)) == ["d03", "d02", "d01", "d00"]
    assert await store.dead.count(ALL, 100) == 9
    assert await store.dead.count(DeadFilter(fingerprint="bang"), 100) == 6
    assert await store.dead.count(ALL, 4) == 4


async def test_pages_of_dead_letters_lose_none_although_some_are_replayed_meanwhile(store: Store) -> None:
    await a_heap(store)
    which = DeadFilter(until=(await look(store, "d07")).finished_at)
    found, cursor = [], None
    while True:
        page = await store.dead.find(which, limit=3, cursor=cursor)
        found += [task.id for task in page.tasks]
        for task in page.tasks[:2]:
            await store.tasks.replay(task.id, now())
        if (cursor := page.cursor) is None:
            break

    assert found == [f"d{number:02}" for number in reversed(range(8))]
    with pytest.raises(InvalidInput, match="cursor"):
        await store.dead.find(ALL, limit=1, cursor="nonsense")


async def test_groups_tell_the_count_the_span_and_the_newest(store: Store) -> None:
    await a_heap(store)
    oldest, newest = await look(store, "d04"), await look(store, "d08")

    told = await store.dead.groups(ALL, newest=100, most=10)

    assert (told.counted, told.complete) == (9, True)
    assert [(group.fingerprint, group.task_type, group.count) for group in told.groups] == [
        ("bang", "report", 4),
        ("bang", "mail", 2),
        ("boom", "report", 2),
        ("boom", "mail", 1),
    ]
    first = told.groups[0]
    assert (first.error_type, first.place, first.sample_id, first.sample_message) == (
        "Bang",
        "jobs.py:work",
        "d08",
        "Bang 8",
    )
    assert (first.first_seen, first.last_seen) == (oldest.finished_at, newest.finished_at)


async def test_groups_say_when_they_are_not_all(store: Store) -> None:
    await a_heap(store)

    few, largest = await store.dead.groups(ALL, newest=3, most=10), await store.dead.groups(ALL, newest=100, most=1)

    assert (few.counted, few.complete, [group.count for group in few.groups]) == (3, False, [2, 1])
    assert (largest.counted, largest.complete, len(largest.groups)) == (9, False, 1)
    assert await store.dead.groups(DeadFilter(task_type="nothing"), newest=9, most=9) == few.model_copy(
        update={"groups": [], "counted": 0, "complete": True}
    )


# ---- thrown away -----------------------------------------------------------------------------------------------------


async def test_p13_only_what_is_on_its_exchange_is_discarded_and_its_history_says_why(store: Store) -> None:
    task = await dead(store, live_key="name:n")
    await dead(store, "on its way", published=False)
    await running(store, "running")

    assert await store.dead.discard(["a", "on its way", "running", "nothing"], "nobody needs it") == {"a"}

    gone = await look(store)
    assert (gone.status, gone.reason, gone.last_error) == (TaskStatus.CANCELLED, "discarded", task.last_error)
    assert (gone.history[-1].event, gone.history[-1].reason) == ("discarded", "nobody needs it")
    assert gone.live_key is None
    assert (await look(store, "on its way")).status is TaskStatus.FAILED
    assert await store.dead.discard(["a"], "twice") == set()
    with pytest.raises(Conflict, match="cancelled"):
        await store.tasks.replay("a", now())


async def test_p14_what_is_discarded_ends_anew_and_is_kept_as_long_as_what_is_cancelled(store: Store) -> None:
    long_ago = now() - timedelta(days=20)
    old = an_end(0, "Boom").model_copy(update={"finished_at": long_ago})
    await store.upkeep.put_dead(old)
    await store.upkeep.relay_move([RelayMove(await look(store, "d00"), None)])

    await store.dead.discard(["d00"], "nobody needs it")

    assert ((await look(store, "d00")).finished_at or long_ago) > long_ago
    rules = Retention(window=HOUR, completed=HOUR, dead=timedelta(days=30), keep_completed=0)
    assert await store.upkeep.prune(rules, now(), 10) == {}
    assert await store.upkeep.prune(rules, now() + 2 * HOUR, 10) == {"cancelled": 1}


# ---- replayed with another body --------------------------------------------------------------------------------------


async def test_p13_a_replay_with_another_body_leaves_what_belonged_to_the_old_one(store: Store) -> None:
    old, new = {"n": 1}, {"n": 2, "a.b": 1, "$where": {"$gt": 1}}
    task = await running(store, task_body=old, live_key=live_key("report", old, name=None, unique=True))
    await store.claims.save("a", task.claim_token or "", progress=None, checkpoint=7, keep_checkpoint=True)
    await settle(store, task, failed(None))
    await store.upkeep.relay_move([RelayMove(await look(store), None)])

    replayed = await store.tasks.replay("a", now(), body=new, note="with another body, by ada")

    assert (replayed.task_body, replayed.checkpoint, replayed.ended_key) == (new, None, None)
    assert replayed.live_key == live_key("report", new, name=None, unique=True)
    assert (replayed.history[-1].event, replayed.history[-1].reason) == ("replayed", "with another body, by ada")
    [again] = await claim(store, "a")
    assert again.task_body == new


async def test_p13_a_replay_with_another_body_keeps_a_name(store: Store) -> None:
    await dead(store, live_key="name:n")

    assert (await store.tasks.replay("a", now(), body={"n": 2})).live_key == "name:n"


# ---- whom a request was noted on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [True, False])
async def test_p4_a_request_is_noted_with_its_id_on_the_task_that_stands_for_it(store: Store, runs: bool) -> None:
    await store.tasks.create([a_task(live_key="name:n")])
    if runs:
        await claim(store, "a")

    await store.tasks.create([a_task("asker", live_key="name:n")])

    standing = await store.tasks.standing_for("asker")
    assert standing is not None
    assert (standing.id, [asked.id for asked in standing.asked_by or ()]) == ("a", ["asker"])
    assert await store.tasks.standing_for("a") is None
    assert (await store.tasks.owner("name:n")) == standing
    assert await store.tasks.owner("name:other") is None


async def test_p4_a_name_that_is_asked_for_again_and_again_costs_no_write_each_time(adapter: Adapter) -> None:
    store = await adapter.open()
    assert isinstance(store, MongoStore)
    await store.tasks.create([a_task(live_key="name:n")])

    for number in range(20):
        await store.tasks.create([a_task(f"asker {number}", live_key="name:n")])

    noted = (await look(store)).asked_by or []
    assert noted[0].id == "asker 0"
    assert len(noted) <= 10
    assert noted == sorted(noted, key=lambda asked: asked.at)


async def test_p4_a_fire_that_is_skipped_is_noted_on_its_schedule_alone(store: Store) -> None:
    await store.tasks.create([a_task(live_key="body:b")])

    await store.tasks.create([a_task("fire", live_key="body:b")], ask_again=False)

    assert (await look(store)).asked_by is None


async def test_p4_the_notes_stay_bounded(store: Store) -> None:
    task = await running(store, live_key="name:n")
    for number in range(12):
        await store.tasks.create([a_task(f"asker {number}", live_key="name:n")])

    assert [asked.id for asked in (await look(store)).asked_by or ()] == [f"asker {number}" for number in range(2, 12)]
    await settle(store, task, failed(HOUR), Seen(again=True))
    assert await store.tasks.standing_for("asker 11") is not None
