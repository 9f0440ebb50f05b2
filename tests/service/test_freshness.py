"""How schedules are doing, and who tells that one is overdue."""

import asyncio
from collections.abc import MutableMapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from actors.scheduler.watch import Watch
from schemas.schedule import Schedule
from schemas.task import TaskStatus
from service.freshness import job, jobs, overdue_since
from service.metrics import Metrics
from service.store.port import RunEnd
from tests.service.conftest import Engine

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


async def watch(engine: Engine) -> list[MutableMapping[str, Any]]:
    """Schedulers look, all at once; what they log."""
    with capture_logs() as lines:
        await asyncio.gather(*(Watch(each.store, each.broker, Metrics()).tick() for each in (engine, engine)))
    await asyncio.sleep(0)
    return [line for line in lines if line["event"] in ("schedule.overdue", "schedule.recovered")]


async def succeeded(engine: Engine, at: datetime, milliseconds: int = 5) -> None:
    await engine.store.schedules.record_runs([RunEnd("s", f"t@{at}", TaskStatus.COMPLETED, at, milliseconds)])


async def test_an_overdue_schedule_is_told_once_with_two_schedulers_and_recovers_by_itself(engine: Engine) -> None:
    schedule = await engine.keep(expect_success_within="90m")
    assert schedule.created_at is not None
    assert await watch(engine) == []
    engine.clock.advance(2 * HOUR)

    told = await watch(engine)
    after_a_restart = await watch(engine)
    await succeeded(engine, engine.clock.now())
    recovered = await watch(engine)
    later = await watch(engine)

    assert [(line["event"], line["schedule_id"]) for line in told] == [("schedule.overdue", "s")]
    assert after_a_restart == []
    assert [(line["event"], line["reason"]) for line in recovered] == [("schedule.recovered", "succeeded")]
    assert later == []
    names = [event.event for event in engine.events if event.event.startswith("schedule.")]
    assert names == ["schedule.overdue", "schedule.recovered"]
    assert (await engine.look()).overdue_since is None


async def test_the_record_says_since_when_it_is_overdue(engine: Engine) -> None:
    schedule = await engine.keep(expect_success_within="90m")
    assert schedule.created_at is not None
    engine.clock.advance(2 * HOUR)

    await watch(engine)

    assert (await engine.look()).overdue_since == schedule.created_at + 90 * MINUTE


@pytest.mark.parametrize(("change", "reason"), [("paused", "paused"), ("edited", "edited")])
async def test_an_overdue_schedule_that_is_paused_or_edited_is_overdue_no_more(
    engine: Engine, change: str, reason: str
) -> None:
    await engine.keep(expect_success_within="90m")
    engine.clock.advance(2 * HOUR)
    await watch(engine)

    if change == "paused":
        await engine.table.set_enabled("s", False)
    else:
        await engine.table.patch("s", {"expect_success_within": "1d"})

    assert [line["reason"] for line in await watch(engine)] == [reason]


async def test_a_schedule_that_was_paused_for_long_counts_from_its_resumption(engine: Engine) -> None:
    await engine.keep(schedule="* * * * *")
    await engine.table.set_enabled("s", False)
    engine.clock.advance(2 * HOUR)

    resumed = (await engine.table.set_enabled("s", True)).after

    assert overdue_since(resumed, engine.clock.now()) is None
    assert overdue_since(resumed, engine.clock.now() + 3 * MINUTE) is not None


async def test_whoever_marks_with_an_old_look_tells_nothing(engine: Engine) -> None:
    read = await engine.keep()
    await succeeded(engine, engine.clock.now())

    assert not await engine.store.schedules.mark_overdue(read, engine.clock.now())
    assert (await engine.look()).overdue_since is None


async def test_without_an_expectation_two_cadences_are_too_long(engine: Engine) -> None:
    await engine.keep(schedule="@every 10m")
    at = engine.clock.now()
    await succeeded(engine, at)
    schedule = await engine.look()

    assert overdue_since(schedule, at + 20 * MINUTE) is None
    assert overdue_since(schedule, at + 21 * MINUTE) == at + 20 * MINUTE


def test_a_weekend_without_fires_is_no_failure() -> None:
    friday = datetime.fromisoformat("2026-01-02T17:55:00+00:00")
    schedule = Schedule(
        id="s", task_type="t", schedule="*/5 9-17 * * mon-fri", last_success_at=friday, created_at=friday
    )

    assert overdue_since(schedule, friday + timedelta(days=2)) is None
    assert overdue_since(schedule, friday + timedelta(days=6)) is not None


async def test_a_job_shows_its_cadence_its_durations_and_by_how_much_it_is_overdue(engine: Engine) -> None:
    await engine.keep(schedule="@every 10m")
    at = engine.clock.now()
    for number, took in enumerate((10, 30, 20)):
        await succeeded(engine, at + number * MINUTE, took)
    failed = RunEnd("s", "t", TaskStatus.FAILED, at + 3 * MINUTE, 99)
    await engine.store.schedules.record_runs([failed])
    engine.clock.advance(HOUR)

    [seen] = await jobs(engine.store)

    assert (seen.cadence, seen.durations_ms, seen.usual_duration_ms) == (10 * MINUTE, [10, 30, 20], 20)
    assert (seen.last_status, seen.last_duration_ms) == (TaskStatus.FAILED, 99)
    assert seen.last_success_at == at + 2 * MINUTE
    assert seen.overdue_since == at + 22 * MINUTE
    assert seen.overdue_by is not None
    assert seen.overdue_by >= 38 * MINUTE
    assert seen == job(await engine.look(), seen.overdue_since + seen.overdue_by)
