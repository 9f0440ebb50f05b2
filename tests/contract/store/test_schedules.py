"""Schedules and their fires: each fire begins once, and nobody finishes it for a holder who lost it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from schemas.schedule import RECENT, Misfire, Overlap, Schedule
from schemas.task import TaskStatus
from service.errors import Conflict, PayloadRefused
from service.store.port import Edit, FireEnd, RunEnd, Store
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import (
    HOUR,
    MINUTE,
    SECOND,
    a_fire,
    a_schedule,
    a_skip,
    edited,
    kept,
    look_at,
    now,
)
from tests.contract.store.test_claims import UNSTORABLE
from tests.contract.store.test_create import VERBATIM, types


async def begin(store: Store, schedule: Schedule, by: str = "s1", **fields: Any) -> Schedule | None:
    won = await store.schedules.begin_fires([a_fire(schedule, **fields)], by)
    return won[0] if won else None


async def begun(store: Store, schedule_id: str = "s", by: str = "s1", **fields: Any) -> Schedule:
    [schedule] = await kept(store, a_schedule(schedule_id, **fields))
    held = await begin(store, schedule, by)
    assert held is not None
    return held


# ---- writing ---------------------------------------------------------------------------------------------------------


async def test_a_schedule_is_kept_as_it_is(store: Store) -> None:
    schedule = a_schedule(
        task_body={"a": {"$ref": "x", "$id": 2**40}},
        timezone="Europe/Berlin",
        overlap=Overlap.ALLOW,
        misfire=Misfire.ALL,
        misfire_grace=MINUTE,
        jitter=timedelta(milliseconds=1500),
        expect_success_within=timedelta(days=2),
        source="file",
        enabled=False,
    )

    [after] = await kept(store, schedule)

    engine = {"revision", "created_at", "updated_at"}
    assert after.model_dump(exclude=engine) == schedule.model_dump(exclude=engine)
    assert after.revision == 1
    assert after.created_at == after.updated_at
    assert await store.schedules.all() == [after]
    assert await store.schedules.get("nothing") is None


@pytest.mark.parametrize("body", VERBATIM.values(), ids=VERBATIM.keys())
async def test_the_body_of_a_schedule_is_kept_verbatim(store: Store, body: dict[str, Any]) -> None:
    [after] = await kept(store, a_schedule(task_body=body))

    assert after.task_body == body
    assert types(after.task_body) == types(body)


@pytest.mark.parametrize("body", UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_a_schedule_that_cannot_be_kept_is_refused(store: Store, body: dict[str, Any]) -> None:
    with pytest.raises(PayloadRefused):
        await store.schedules.write([a_schedule("good"), a_schedule().model_copy(update={"task_body": body})])

    assert await store.schedules.all() == []


async def test_an_edit_leaves_alone_what_the_engine_keeps(store: Store) -> None:
    held = await begun(store, jitter=MINUTE, source="file")
    await store.schedules.end_fires([FireEnd(held, "fire:s@t", a_skip(count=2))])
    await store.schedules.record_runs([RunEnd("s", "fire:s@t", TaskStatus.COMPLETED, now(), 5)])
    [before] = [await look_at(store)]

    edit = a_schedule(schedule="@hourly", next_fire_at=now() + HOUR, task_body={"b": 1})
    await store.schedules.write(edit=[Edit(before, edit)])
    after = await look_at(store)

    changed = {"schedule", "next_fire_at", "task_body", "jitter", "source", "revision", "updated_at"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)
    assert (after.schedule, after.task_body, after.jitter, after.source) == ("@hourly", {"b": 1}, None, None)
    assert after.revision == before.revision + 1


async def test_p17_an_edit_that_keeps_the_times_never_brings_a_fired_instant_back(store: Store) -> None:
    """Read, fired meanwhile, written: the next time is that of the fire."""
    [read] = await kept(store, a_schedule())
    held = await begin(store, read)
    assert held is not None

    after = await edited(store, read, task_body={"new": True}, next_fire_at=read.next_fire_at)

    assert (after.task_body, after.next_fire_at) == ({"new": True}, held.next_fire_at)


TIMES: list[dict[str, Any]] = [
    {"schedule": "@every 7s"},
    {"timezone": "Europe/Berlin"},
    {"enabled": False, "next_fire_at": None},
]


@pytest.mark.parametrize("change", TIMES, ids=lambda change: next(iter(change)))
async def test_an_edit_of_the_times_brings_a_next_fire_of_its_own(store: Store, change: dict[str, Any]) -> None:
    [read] = await kept(store, a_schedule())
    own = {"next_fire_at": now() + MINUTE, **change}

    assert (await edited(store, read, **own)).next_fire_at == own["next_fire_at"]


@pytest.mark.parametrize("change", TIMES, ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("last", [False, True], ids=["fires on", "fired for the last time"])
async def test_p17_an_edit_of_the_times_never_brings_an_instant_back_that_fired_since_it_was_read(
    store: Store, change: dict[str, Any], last: bool
) -> None:
    """The next fire of the new times was computed before the fire, and may be the very instant."""
    [read] = await kept(store, a_schedule())
    begins = a_fire(read, next_fire_at=None) if last else a_fire(read)
    [held] = await store.schedules.begin_fires([begins], "s1")

    with pytest.raises(Conflict):
        await edited(store, read, **change)

    assert await look_at(store) == held


async def test_an_edit_of_the_times_can_be_made_anew_of_what_has_fired_since_it_was_read(store: Store) -> None:
    """Among others, which are as they were read."""
    reads = await kept(store, *(a_schedule(f"s{number}") for number in range(5)))
    held = await begin(store, reads[2])
    assert held is not None
    seen: list[Schedule] = []

    def rebased(present: Schedule) -> Schedule:
        seen.append(present)
        return present.model_copy(update={"schedule": "@hourly", "next_fire_at": now() + 2 * HOUR})

    edits = [Edit(read, read.model_copy(update={"schedule": "@hourly"}), rebased) for read in reads]
    await store.schedules.write(edit=edits)

    assert seen == [held]
    after = await store.schedules.all()
    assert [schedule.schedule for schedule in after] == ["@hourly"] * 5
    kept_times = [new.next_fire_at == read.next_fire_at for new, read in zip(after, reads, strict=True)]
    assert kept_times == [True, True, False, True, True]
    assert after[2].firing == held.firing


async def test_a_schedule_that_is_named_twice_in_one_write_is_a_conflict(store: Store) -> None:
    [read] = await kept(store, a_schedule())

    for edit, delete in (([Edit(read, read)] * 2, []), ([Edit(read, read)], [read]), ([], [read, read])):
        with pytest.raises(Conflict):
            await store.schedules.write(edit=edit, delete=delete)
        assert await store.schedules.all() == [read]


async def test_an_open_fire_outlives_an_edit(store: Store) -> None:
    held = await begun(store)

    after = await edited(store, held, source="file")
    assert after.firing == held.firing

    await store.schedules.end_fires([FireEnd(held, "fire:s@t")])
    assert (await look_at(store)).firing is None


@pytest.mark.parametrize("change", ["created", "edited", "deleted", "edited before the delete"])
async def test_an_edit_of_what_has_changed_is_a_conflict_as_a_whole(store: Store, change: str) -> None:
    [schedule] = await kept(store, a_schedule("s"))
    create, edit, delete = [a_schedule("new")], [Edit(schedule, schedule)], []
    if change == "created":
        create, edit = [*create, a_schedule("s")], []
    else:
        await edited(store, schedule)
    if change == "deleted":
        await store.schedules.write(delete=[await look_at(store)])
    if change == "edited before the delete":
        edit, delete = [], [schedule]
    before = await store.schedules.all()

    with pytest.raises(Conflict):
        await store.schedules.write(create, edit, delete)

    assert await store.schedules.all() == before


async def test_schedules_are_put_and_deleted_together(store: Store) -> None:
    old = await kept(store, a_schedule("a"), a_schedule("b"))

    await store.schedules.write([a_schedule("c")], [Edit(old[0], old[0])], [old[1]])

    assert [(schedule.id, schedule.revision) for schedule in await store.schedules.all()] == [("a", 2), ("c", 2)]


async def test_a_schedule_that_takes_the_id_of_a_deleted_one_is_not_taken_for_it(store: Store) -> None:
    [first] = await kept(store, a_schedule())
    last = await edited(store, first)
    await store.schedules.write(delete=[last])
    [other] = await kept(store, a_schedule("other"))
    await store.schedules.write(delete=[other])

    [second] = await kept(store, a_schedule(task_body={"a": "second"}))

    assert second.revision > last.revision
    for read in (first, last):
        with pytest.raises(Conflict):
            await edited(store, read)
        with pytest.raises(Conflict):
            await store.schedules.write(delete=[read])
    assert await begin(store, last) is None
    assert await look_at(store) == second


async def test_of_two_editors_one_wins(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    schedules = await kept(one, *(a_schedule(f"s{number}") for number in range(5)))

    for schedule in schedules:
        edits = [Edit(schedule, schedule.model_copy(update={"source": source})) for source in ("one", "other")]
        answers = await asyncio.gather(
            one.schedules.write(edit=edits[:1]), other.schedules.write(edit=edits[1:]), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "NoneType"]
        assert (await look_at(one, schedule.id)).revision == 2


# ---- P17 -------------------------------------------------------------------------------------------------------------


async def test_upcoming_schedules_come_soonest_first(store: Store) -> None:
    start = now()
    await begun(store, "open")
    await kept(
        store,
        a_schedule("later", next_fire_at=start + HOUR),
        a_schedule("due", next_fire_at=start - HOUR),
        a_schedule("over", next_fire_at=None),
        a_schedule("disabled", enabled=False),
    )

    assert [schedule.id for schedule in await store.schedules.upcoming(10)] == ["due", "later"]
    assert [schedule.id for schedule in await store.schedules.upcoming(1)] == ["due"]


async def test_p17_a_fire_begins_with_the_next_time_set_and_firing_held(store: Store) -> None:
    [schedule] = await kept(store, a_schedule())
    following = now() + HOUR

    held = await begin(store, schedule, next_fire_at=following)

    assert held == await look_at(store)
    assert held is not None
    assert held.next_fire_at == following
    assert held.firing is not None
    assert held.firing.fire_at == schedule.next_fire_at
    assert held.firing.by.startswith("s1")
    assert abs(held.firing.at - now()) < 5 * SECOND
    assert await store.schedules.open_fires() == [held]


async def test_p17_no_fire_before_its_time(store: Store) -> None:
    [schedule] = await kept(store, a_schedule(next_fire_at=now() + MINUTE))

    assert await begin(store, schedule) is None
    assert await look_at(store) == schedule


async def test_p17_no_second_fire_while_one_is_open(store: Store) -> None:
    held = await begun(store)
    schedule = await edited(store, held, schedule="@hourly", next_fire_at=now() - MINUTE)
    assert schedule.next_fire_at is not None

    assert await begin(store, schedule, "s2") is None

    assert (await look_at(store)).firing == held.firing


@pytest.mark.parametrize("change", ["edited", "disabled", "fired", "deleted"])
async def test_p17_what_changed_since_the_look_does_not_fire(store: Store, change: str) -> None:
    [schedule] = await kept(store, a_schedule())
    match change:
        case "edited":
            await edited(store, schedule)
        case "disabled":
            await edited(store, schedule, enabled=False)
            schedule = await look_at(store)
        case "fired":
            held = await begin(store, schedule)
            assert held is not None
            await store.schedules.end_fires([FireEnd(held, "fire:s@t")])
        case "deleted":
            await store.schedules.write(delete=[schedule])
    before = await store.schedules.all()

    assert await begin(store, schedule, "s2") is None

    assert await store.schedules.all() == before


async def test_p17_two_schedulers_begin_each_fire_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    schedules = await kept(one, *(a_schedule(f"s{number:02}") for number in range(50)))
    fires = [a_fire(schedule) for schedule in schedules]

    answers = await asyncio.gather(
        *(
            store.schedules.begin_fires(part, by)
            for store, by in ((one, "s1"), (other, "s2"))
            for part in (fires, fires[::-1])
        )
    )

    won = [schedule.id for batch in answers for schedule in batch]
    assert sorted(won) == [schedule.id for schedule in schedules]
    for batch in answers:
        for held in batch:
            assert (await look_at(one, held.id)).firing == held.firing


async def test_p17_a_misfire_only_moves_on(store: Store) -> None:
    [schedule] = await kept(store, a_schedule())
    following = now() + HOUR

    assert await begin(store, schedule, fire_at=None, next_fire_at=following, skip=a_skip("misfire", 3)) is None

    after = await look_at(store)
    assert (after.firing, after.next_fire_at, after.skipped) == (None, following, {"misfire": 3})


async def test_p17_the_last_fire_leaves_no_next_one(store: Store) -> None:
    [schedule] = await kept(store, a_schedule())

    held = await begin(store, schedule, next_fire_at=None)

    assert held is not None
    assert held.next_fire_at is None
    assert await store.schedules.upcoming(10) == []


async def test_a_schedule_that_is_over_and_missed_its_last_fire_ends(store: Store) -> None:
    [schedule] = await kept(store, a_schedule())

    assert await begin(store, schedule, fire_at=None, next_fire_at=None) is None

    after = await look_at(store)
    assert (after.next_fire_at, after.firing, after.enabled) == (None, None, True)


async def test_p17_the_end_of_a_fire_clears_it_and_notes_its_task(store: Store) -> None:
    held = await begun(store)

    await store.schedules.end_fires([FireEnd(held, "fire:s@t")])

    after = await look_at(store)
    assert held.firing is not None
    assert (after.firing, after.last_fire_at, after.last_task_id) == (None, held.firing.fire_at, "fire:s@t")
    assert await store.schedules.open_fires() == []


async def test_p17_an_overlap_skip_is_counted_with_the_clear_once(store: Store) -> None:
    held = await begun(store)

    for _ in range(2):
        await store.schedules.end_fires([FireEnd(held, None, a_skip())])

    after = await look_at(store)
    assert (after.firing, after.skipped, after.last_task_id) == (None, {"overlap": 1}, None)


async def test_p17_a_clear_that_comes_late_leaves_the_next_fire_alone(store: Store) -> None:
    first = await begun(store)
    await store.schedules.end_fires([FireEnd(first, "fire:s@1")])
    schedule = await edited(store, first, schedule="@hourly", next_fire_at=now() - MINUTE)
    second = await begin(store, schedule)
    assert second is not None

    await store.schedules.end_fires([FireEnd(first, "fire:s@1", a_skip())])

    assert await look_at(store) == second


# ---- P18 -------------------------------------------------------------------------------------------------------------


async def test_p18_a_fire_that_was_left_is_taken_over(store: Store) -> None:
    left = await begun(store)
    await asyncio.sleep(0.002)

    mine = await store.schedules.take_over(left, "s2")

    assert mine == await look_at(store)
    assert mine is not None
    assert mine.firing is not None
    assert left.firing is not None
    assert mine.firing.fire_at == left.firing.fire_at
    assert mine.firing.at > left.firing.at
    assert mine.firing.by.startswith("s2")


async def test_p18_whoever_lost_a_fire_writes_nothing_more_for_it(store: Store) -> None:
    left = await begun(store)
    mine = await store.schedules.take_over(left, "s2")

    await store.schedules.end_fires([FireEnd(left, "fire:s@t", a_skip())])

    assert await look_at(store) == mine


async def test_p18_two_schedulers_take_a_fire_over_once(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    for number in range(20):
        left = await begun(one, f"s{number}")

        answers = await asyncio.gather(one.schedules.take_over(left, "s1"), other.schedules.take_over(left, "s2"))

        [mine] = [answer for answer in answers if answer is not None]
        assert await look_at(one, left.id) == mine


async def test_p18_a_fire_that_has_ended_is_not_taken_over(store: Store) -> None:
    held = await begun(store)
    await store.schedules.end_fires([FireEnd(held, "fire:s@t")])

    assert await store.schedules.take_over(held, "s2") is None
    assert await store.schedules.take_over(await look_at(store), "s2") is None


async def test_open_fires_come_oldest_first(store: Store) -> None:
    held = []
    for number in range(3):
        held.append(await begun(store, f"s{number}"))
        await asyncio.sleep(0.002)

    assert await store.schedules.open_fires() == held


# ---- runs ------------------------------------------------------------------------------------------------------------


async def test_the_end_of_a_run_is_noted_on_its_schedule(store: Store) -> None:
    await kept(store, a_schedule())
    ended = now()

    await store.schedules.record_runs([RunEnd("s", "fire:s@t", TaskStatus.COMPLETED, ended, 1234)])

    after = await look_at(store)
    assert (after.last_status, after.last_ended_at, after.last_success_at, after.last_duration_ms) == (
        TaskStatus.COMPLETED,
        ended,
        ended,
        1234,
    )


async def test_an_older_run_never_hides_a_newer_one_but_its_success_counts(store: Store) -> None:
    await kept(store, a_schedule())
    ended = now()
    await store.schedules.record_runs([RunEnd("s", "fire:s@2", TaskStatus.FAILED, ended, 2)])

    await store.schedules.record_runs([RunEnd("s", "fire:s@1", TaskStatus.COMPLETED, ended - MINUTE, 1)])
    await store.schedules.record_runs([RunEnd("s", "fire:s@0", TaskStatus.COMPLETED, ended - HOUR, 1)])

    after = await look_at(store)
    assert (after.last_status, after.last_ended_at, after.last_duration_ms) == (TaskStatus.FAILED, ended, 2)
    assert after.last_success_at == ended - MINUTE


async def test_runs_of_schedules_that_are_gone_are_forgotten(store: Store) -> None:
    await kept(store, a_schedule())

    await store.schedules.record_runs([RunEnd(name, "t", TaskStatus.COMPLETED, now(), 1) for name in ("gone", "s")])

    assert (await look_at(store)).last_status is TaskStatus.COMPLETED
    assert [schedule.id for schedule in await store.schedules.all()] == ["s"]


async def test_the_newest_runs_are_remembered_in_the_order_of_their_ends(store: Store) -> None:
    await kept(store, a_schedule())
    start = now() - HOUR
    ends = [
        RunEnd("s", f"t{number}", TaskStatus.COMPLETED, start + number * SECOND, number) for number in range(RECENT + 5)
    ]

    await store.schedules.record_runs(ends[10:])
    await store.schedules.record_runs(ends[:10])
    await store.schedules.record_runs([ends[-1], ends[0]])

    remembered = (await look_at(store)).recent_runs
    assert [run.task_id for run in remembered] == [f"t{number}" for number in range(5, RECENT + 5)]
    assert [run.duration_ms for run in remembered] == list(range(5, RECENT + 5))


async def test_a_task_that_ends_again_after_a_replay_is_another_run(store: Store) -> None:
    await kept(store, a_schedule())

    for status, at in ((TaskStatus.FAILED, now() - MINUTE), (TaskStatus.COMPLETED, now())):
        await store.schedules.record_runs([RunEnd("s", "t", status, at, 1)])

    assert [run.status for run in (await look_at(store)).recent_runs] == [TaskStatus.FAILED, TaskStatus.COMPLETED]


async def test_the_newest_skips_are_remembered_with_their_reason(store: Store) -> None:
    [schedule] = await kept(store, a_schedule())
    passed = a_skip("misfire", 3, until=now())
    held = await begin(store, schedule, skip=passed)
    assert held is not None
    refused = a_skip("overlap", by="fire:s@0")

    await store.schedules.end_fires([FireEnd(held, None, refused)])

    after = await look_at(store)
    assert (after.recent_skips, after.skipped) == ([passed, refused], {"misfire": 3, "overlap": 1})


async def test_no_more_skips_are_remembered_than_fit(store: Store) -> None:
    [schedule] = await kept(store, a_schedule())
    for number in range(RECENT + 3):
        skip = a_skip("misfire", number + 1)
        assert await begin(store, schedule, fire_at=None, next_fire_at=now() - MINUTE, skip=skip) is None
        schedule = await look_at(store)

    assert [skip.count for skip in schedule.recent_skips] == list(range(4, RECENT + 4))


async def test_lists_leave_out_what_is_recent_unless_it_is_asked_for(store: Store) -> None:
    held = await begun(store)
    await store.schedules.record_runs([RunEnd("s", "t", TaskStatus.COMPLETED, now(), 1)])

    [brief], [full], [opened] = (
        await store.schedules.all(),
        await store.schedules.all(recent=True),
        await store.schedules.open_fires(),
    )

    assert (brief.recent_runs, opened.recent_runs) == ([], [])
    assert full == await look_at(store)
    assert len(full.recent_runs) == 1
    assert opened.firing == held.firing


# ---- the whole set ---------------------------------------------------------------------------------------------------


async def test_each_write_is_a_revision_of_the_whole_set_and_fires_are_not(store: Store) -> None:
    before = await store.schedules.revision()

    held = await begun(store)
    await store.schedules.end_fires([FireEnd(held, "fire:s@t")])

    assert await store.schedules.revision() == before + 1


@pytest.mark.parametrize("change", ["created", "edited", "deleted"])
async def test_a_write_of_the_whole_set_is_a_conflict_when_anything_changed(store: Store, change: str) -> None:
    [schedule] = await kept(store, a_schedule("other"))
    revision = await store.schedules.revision()
    match change:
        case "created":
            await kept(store, a_schedule("new"))
        case "edited":
            await edited(store, schedule)
        case "deleted":
            await store.schedules.write(delete=[schedule])
    before = await store.schedules.all()

    with pytest.raises(Conflict):
        await store.schedules.write([a_schedule("mine")], revision=revision)

    assert await store.schedules.all() == before


async def test_of_two_writers_of_the_whole_set_one_wins_although_they_share_no_schedule(adapter: Adapter) -> None:
    stores = [await adapter.open(), await adapter.open()]
    for number in range(10):
        revision = await stores[0].schedules.revision()

        answers = await asyncio.gather(
            *(
                store.schedules.write([a_schedule(f"{name}{number}")], revision=revision)
                for name, store in zip("ab", stores, strict=True)
            ),
            return_exceptions=True,
        )

        assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "NoneType"]
        assert len(await stores[0].schedules.all()) == number + 1


# ---- overdue ---------------------------------------------------------------------------------------------------------


async def test_of_two_schedulers_one_marks_a_schedule_overdue(adapter: Adapter) -> None:
    one, other = await adapter.open(), await adapter.open()
    [read] = await kept(one, a_schedule())
    since = now()

    marked = await asyncio.gather(*(store.schedules.mark_overdue(read, since) for store in (one, other, one)))
    after = await look_at(one)
    unmarked = await asyncio.gather(*(store.schedules.mark_overdue(after, None) for store in (one, other)))

    assert (sorted(marked), sorted(unmarked)) == ([False, False, True], [False, True])
    assert after.overdue_since == since
    assert (await look_at(one)).overdue_since is None


@pytest.mark.parametrize("change", ["edited", "succeeded", "deleted"])
async def test_what_changed_since_the_look_is_not_marked_overdue(store: Store, change: str) -> None:
    [read] = await kept(store, a_schedule())
    match change:
        case "edited":
            await edited(store, read)
        case "succeeded":
            await store.schedules.record_runs([RunEnd("s", "t", TaskStatus.COMPLETED, now(), 1)])
        case "deleted":
            await store.schedules.write(delete=[read])

    assert not await store.schedules.mark_overdue(read, now())


async def test_writers_of_different_schedules_do_not_hinder_each_other(adapter: Adapter) -> None:
    stores = [await adapter.open() for _ in range(6)]

    await asyncio.gather(*(store.schedules.write([a_schedule(f"s{n}")]) for n, store in enumerate(stores)))

    assert len(await stores[0].schedules.all()) == await stores[0].schedules.revision() == len(stores)
