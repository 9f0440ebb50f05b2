"""Schedules that are changed while they fire."""

from datetime import timedelta

import pytest

from schemas.schedule import Schedule, ScheduleEntry, ScheduleFile
from service.errors import Conflict, Outdated
from service.store.port import Edit
from tests.service.conftest import Engine

MINUTE = timedelta(minutes=1)


async def due_in_a_minute(engine: Engine) -> Schedule:
    now = engine.clock.now()
    return await engine.keep(schedule="@every 1h", overlap="allow", next_fire_at=now + MINUTE)


def file(**entry: object) -> ScheduleFile:
    usual: dict[str, object] = {"task_type": "report.build", "schedule": "@every 1h", "overlap": "allow"}
    return ScheduleFile(schedules=[ScheduleEntry.model_validate({"id": "s", **usual, **entry})])


async def test_a_file_is_applied_although_a_schedule_fired_since_the_plan_and_no_fired_instant_comes_again(
    engine: Engine,
) -> None:
    before = await due_in_a_minute(engine)
    plan = await engine.table.plan(file(schedule="@every 10s"), source="test")
    engine.clock.advance(2 * MINUTE)
    await engine.fire()
    fired = await engine.look()
    assert fired.last_fire_at == before.next_fire_at

    now = engine.clock.now()
    await engine.table.apply(plan)

    after = await engine.look()
    assert (after.schedule, after.last_fire_at) == ("@every 10s", fired.last_fire_at)
    assert after.next_fire_at is not None
    assert now < after.next_fire_at <= engine.clock.now() + timedelta(seconds=10)


async def test_a_one_shot_that_came_due_while_it_was_applied_is_late_and_not_lost(engine: Engine) -> None:
    before = await due_in_a_minute(engine)
    at = engine.clock.now().replace(microsecond=0) + 1.5 * MINUTE
    plan = await engine.table.plan(file(schedule=f"@at {at.isoformat()}"), source="test")
    engine.clock.advance(2 * MINUTE)
    await engine.fire()

    await engine.table.apply(plan)
    await engine.fire()

    assert at != before.next_fire_at
    assert (await engine.look()).last_fire_at == at


async def test_a_plan_is_no_longer_applied_to_a_schedule_that_was_edited_since(engine: Engine) -> None:
    await due_in_a_minute(engine)
    plan = await engine.table.plan(file(schedule="@every 10s"), source="test")
    await engine.table.patch("s", {"jitter": "1s"})
    edited = await engine.look()

    with pytest.raises(Conflict):
        await engine.table.apply(plan)

    assert await engine.look() == edited


@pytest.mark.parametrize("names_a_revision", [True, False])
async def test_a_fire_during_an_edit_is_no_conflict_for_who_edits(engine: Engine, names_a_revision: bool) -> None:
    read = await due_in_a_minute(engine)
    tries: list[Schedule] = []

    def change(before: Schedule, now: object) -> Schedule:
        tries.append(before)
        return before.model_copy(update={"schedule": "@every 10s", "next_fire_at": before.next_fire_at})

    write = engine.store.schedules.write

    async def fires_first(edit: list[Edit]) -> None:
        if len(tries) == 1:
            engine.clock.advance(2 * MINUTE)
            await engine.fire()
        await write(edit=edit)

    engine.store.schedules.write = fires_first  # type: ignore[method-assign,assignment]
    await engine.table.edit("s", change, revision=read.revision if names_a_revision else None)

    assert [before.last_fire_at for before in tries] == [None, read.next_fire_at]
    assert (await engine.look()).schedule == "@every 10s"


async def test_an_edit_between_look_and_write_is_told_to_who_named_a_revision(engine: Engine) -> None:
    read = await due_in_a_minute(engine)
    edits = 0

    def change(before: Schedule, now: object) -> Schedule:
        nonlocal edits
        edits += 1
        return before.model_copy(update={"timezone": "Europe/Berlin"})

    write = engine.store.schedules.write

    async def edited_first(edit: list[Edit]) -> None:
        if edits == 1:
            await write(edit=[Edit(read, read.model_copy(update={"jitter": timedelta(seconds=1)}))])
        await write(edit=edit)

    engine.store.schedules.write = edited_first  # type: ignore[method-assign,assignment]
    with pytest.raises(Outdated):
        await engine.table.edit("s", change, revision=read.revision)

    assert edits == 1
