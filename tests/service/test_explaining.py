"""Why a schedule did, did not, or will fire."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.explanation import FireState
from schemas.schedule import RECENT
from schemas.task import TaskStatus
from service.errors import InvalidInput, NotFound
from service.explain import LONGEST_WINDOW, explain, explain_text
from service.fires import fire_id
from service.store.port import FireClaim, RunEnd
from tests.service.conftest import Engine

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def hour(engine: Engine, hours: int = 0) -> datetime:
    """The full hour before now, moved by so many."""
    return engine.clock.now().replace(minute=0, second=0, microsecond=0) + hours * HOUR


def states(fires: list[Any]) -> list[str]:
    return [fire.state.value for fire in fires]


async def test_what_fired_what_is_due_and_what_comes_are_told_apart(engine: Engine) -> None:
    await engine.keep(next_fire_at=hour(engine), misfire="all", overlap="allow")
    await engine.fire()
    engine.clock.advance(HOUR)

    fired, due, future = await engine.explained(hour(engine, -1), hour(engine, 2))

    assert states([fired, due, future]) == ["fired", "due", "future"]
    assert (fired.task_id, fired.status) == (fire_id("s", fired.at), TaskStatus.PENDING)
    assert (due.task_id, future.task_id) == (None, None)


async def test_a_fire_that_overlaps_names_the_task_that_was_still_going(engine: Engine) -> None:
    await engine.keep(next_fire_at=hour(engine))
    await engine.fire()
    engine.clock.advance(HOUR)
    await engine.fire()

    fired, skipped = await engine.explained(hour(engine, -1), hour(engine, 1))

    assert states([fired, skipped]) == ["fired", "overlap"]
    assert skipped.reason == f"skipped: task {fired.task_id} was still pending or running"
    assert (await engine.look()).skipped == {"overlap": 1}


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [
        ("coalesce", ["fired", "coalesced", "coalesced"]),
        ("skip", ["misfire", "misfire", "misfire"]),
        ("all", ["fired", "due", "due"]),
    ],
)
async def test_what_was_missed_in_a_downtime_says_what_became_of_it(
    engine: Engine, misfire: str, expected: list[str]
) -> None:
    await engine.keep(schedule="0 0 * * *", next_fire_at=_midnight(engine, -2), misfire=misfire)
    engine.clock.advance(HOUR)

    await engine.fire()

    fires = await engine.explained(_midnight(engine, -2), _midnight(engine, 1))
    assert states(fires) == expected
    if misfire == "coalesce":
        assert fires[1].reason == f"found due too late: task {fires[0].task_id} ran for it and others"


async def test_a_fire_under_way_names_who_makes_its_task(engine: Engine) -> None:
    schedule = await engine.keep(next_fire_at=hour(engine))
    await engine.store.schedules.begin_fires([FireClaim(schedule, hour(engine), hour(engine, 1))], "s7")

    [fire] = await engine.explained(hour(engine), hour(engine, 1))

    assert fire.state is FireState.OPEN
    assert fire.reason is not None and fire.reason.startswith("s7/")


async def test_a_paused_schedule_fires_neither_then_nor_later(engine: Engine) -> None:
    await engine.keep()
    await engine.table.set_enabled("s", False)
    engine.clock.advance(2 * HOUR)

    asleep = await engine.explained(hour(engine, -1), hour(engine, 2))
    await engine.table.set_enabled("s", True)
    awake = await engine.explained(hour(engine, -1), hour(engine, 2))

    assert states(asleep) == ["paused"] * 3
    assert states(awake) == ["paused", "paused", "future"]
    assert awake[0].reason is not None and " until " in awake[0].reason


async def test_before_it_existed_it_did_not_fire(engine: Engine) -> None:
    await engine.keep()

    [fire] = await engine.explained(hour(engine, -1), hour(engine))

    assert fire.state is FireState.ABSENT


async def test_a_run_is_remembered_when_its_record_is_gone_but_not_for_ever(engine: Engine) -> None:
    await engine.keep(schedule="* * * * *", next_fire_at=hour(engine, 1) + HOUR)
    engine.clock.advance(HOUR)
    first = hour(engine)
    runs = [first + minutes * timedelta(minutes=1) for minutes in range(RECENT + 1)]
    ends = [RunEnd("s", fire_id("s", at), TaskStatus.COMPLETED, at + SECOND, 5) for at in runs]
    await engine.store.schedules.record_runs(ends)
    engine.clock.advance(HOUR - timedelta(minutes=1))

    fires = await engine.explained(first, runs[-1] + SECOND)

    assert states(fires) == ["unknown"] + ["fired"] * RECENT
    assert (fires[1].reason, fires[1].status) == ("its record is gone", TaskStatus.COMPLETED)


async def test_jitter_says_when_a_task_may_start(engine: Engine) -> None:
    await engine.keep(jitter="10m")

    [fire] = await engine.explained(hour(engine, 1), hour(engine, 2))

    assert fire.starts_at is not None
    assert fire.at <= fire.starts_at <= fire.at + timedelta(minutes=10)


async def test_a_wrong_window_and_an_unknown_schedule_are_refused(engine: Engine) -> None:
    now = engine.clock.now()
    await engine.keep()

    for end, said in ((now, "is not after from"), (now + LONGEST_WINDOW + SECOND, "days after from")):
        with pytest.raises(InvalidInput, match=said):
            await explain(engine.store, "s", now, end, 1)
    with pytest.raises(NotFound):
        await explain(engine.store, "none", now, now + HOUR, 1)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("0001-01-02T00:00:00Z", "0001-01-03T00:00:00Z", "from: .* is out of range; give a year from 2 to 8999"),
        ("8999-12-31T00:00:00Z", "9000-01-07T00:00:00Z", "to: .* is out of range"),
    ],
)
def test_a_window_that_leaves_the_calendar_is_refused(start: str, end: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        explain_text("@daily", "UTC", datetime.fromisoformat(start), datetime.fromisoformat(end), 10)


# ---- clock changes ---------------------------------------------------------------------------------------------------


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("zone", "day", "fires_at", "clock", "effect"),
    [
        (
            "Europe/Berlin",
            "2026-03-29T00:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "02:30 does not exist on this day: fires at the first moment after the gap",
            "local time from 02:00 to 03:00 does not exist",
        ),
        (
            "Europe/Berlin",
            "2026-10-25T00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "02:30 comes twice on this day: this is the first",
            "local time from 02:00 to 03:00 comes twice",
        ),
        (
            "America/New_York",
            "2026-03-08T00:00-05:00",
            "2026-03-08T03:00:00-04:00",
            "02:30 does not exist on this day: fires at the first moment after the gap",
            "local time from 02:00 to 03:00 does not exist",
        ),
        (
            "America/New_York",
            "2026-11-01T00:00-04:00",
            "2026-11-01T01:30:00-04:00",
            "01:30 comes twice on this day: this is the first",
            "local time from 01:00 to 02:00 comes twice",
        ),
    ],
)
def test_a_time_of_day_is_explained_over_a_clock_change(
    zone: str, day: str, fires_at: str, clock: str, effect: str
) -> None:
    text = "30 1 * * *" if "01:30" in fires_at else "30 2 * * *"

    made = explain_text(text, zone, instant(day), instant(day) + timedelta(hours=26), 10)

    assert (made.fires[0].local, made.fires[0].clock) == (fires_at, clock)
    assert [fire.clock for fire in made.fires[1:]] == [None] * len(made.fires[1:])
    assert [change.effect.startswith(effect) for change in made.clock_changes] == [True]


@pytest.mark.parametrize(
    ("zone", "start", "shown"),
    [
        ("Europe/Berlin", "2026-10-25T01:30+02:00", ["02:00 +0200 first", "02:00 +0100 second", "03:00 +0100"]),
        ("Europe/Berlin", "2026-03-29T00:30+01:00", ["01:00 +0100", "03:00 +0200", "04:00 +0200"]),
        ("America/New_York", "2026-11-01T00:30-04:00", ["01:00 -0400 first", "01:00 -0500 second", "02:00 -0500"]),
        ("America/New_York", "2026-03-08T00:30-05:00", ["01:00 -0500", "03:00 -0400", "04:00 -0400"]),
    ],
)
def test_hours_that_pass_are_explained_over_a_clock_change(zone: str, start: str, shown: list[str]) -> None:
    made = explain_text("0 * * * *", zone, instant(start), instant(start) + timedelta(hours=3), 10)

    told = [
        datetime.fromisoformat(fire.local).strftime("%H:%M %z") + (f" {fire.clock.split()[-1]}" if fire.clock else "")
        for fire in made.fires
    ]
    assert told == shown


def test_a_gap_that_swallows_several_times_fires_once_and_names_the_first() -> None:
    made = explain_text(
        "0,30 2,3 * * *", "Europe/Berlin", instant("2026-03-29T00:00+01:00"), instant("2026-03-29T12:00+02:00"), 10
    )

    # 03:00 is a named time itself.
    assert [(fire.local[11:16], fire.clock) for fire in made.fires] == [("03:00", None), ("03:30", None)]


def test_periods_know_no_clock_changes() -> None:
    made = explain_text(
        "@every 30m", "Europe/Berlin", instant("2026-10-25T02:00+02:00"), instant("2026-10-25T03:00+01:00"), 10
    )

    assert [fire.clock for fire in made.fires] == [None] * 4


def test_a_cut_list_tells_no_clock_change_beyond_it() -> None:
    made = explain_text(
        "@daily", "Europe/Berlin", instant("2026-03-01T00:00+01:00"), instant("2026-12-01T00:00+01:00"), 3
    )

    assert (len(made.fires), made.truncated, made.clock_changes) == (3, True, [])


def _midnight(engine: Engine, days: int) -> datetime:
    return engine.clock.now().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=days)
