"""What a schedule owes: late fires under each policy, jitter, cadence."""

from datetime import UTC, datetime, timedelta
from time import process_time

import pytest
from hypothesis import given, settings, strategies as st

from schemas.schedule import Misfire
from service.due import CATCH_UP, COUNTED, ON_TIME, FirePlan, cadence, jittered, plan_fire
from service.triggers import parse_schedule

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MILLISECOND = timedelta(milliseconds=1)
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)  # a Monday
FIVE_MINUTELY = parse_schedule("*/5 * * * *")
SECONDLY = parse_schedule("* * * * * *")
ONCE = parse_schedule("@at 2026-06-01T12:00:00Z")


@pytest.mark.parametrize("misfire", Misfire)
@pytest.mark.parametrize("late", [0 * SECOND, MILLISECOND, 3 * SECOND])
def test_a_fire_on_time_is_fired_and_the_next_one_follows(misfire: Misfire, late: timedelta) -> None:
    plan = plan_fire(FIVE_MINUTELY, NOON, NOON + late, misfire, None)

    assert plan == FirePlan(fire_at=NOON, next_fire_at=NOON + 5 * MINUTE, missed=0)


@pytest.mark.parametrize("misfire", Misfire)
def test_a_clock_behind_the_store_does_not_repeat_a_fire(misfire: Misfire) -> None:
    plan = plan_fire(FIVE_MINUTELY, NOON, NOON - 10 * SECOND, misfire, None)

    assert plan == FirePlan(fire_at=NOON, next_fire_at=NOON + 5 * MINUTE, missed=0)


@pytest.mark.parametrize("misfire", Misfire)
def test_a_schedule_that_fires_once_is_over_afterwards(misfire: Misfire) -> None:
    assert plan_fire(ONCE, NOON, NOON + SECOND, misfire, None) == FirePlan(NOON, None, 0)


def test_coalesce_runs_once_for_a_whole_downtime() -> None:
    plan = plan_fire(FIVE_MINUTELY, NOON, NOON + HOUR + SECOND, Misfire.COALESCE, None)

    assert plan == FirePlan(fire_at=NOON, next_fire_at=NOON + 65 * MINUTE, missed=12)


def test_coalesce_runs_however_late_it_is() -> None:
    assert plan_fire(ONCE, NOON, NOON + 400 * DAY, Misfire.COALESCE, MINUTE) == FirePlan(NOON, None, 0)


def test_a_fire_due_at_this_very_instant_is_folded_in_and_not_repeated() -> None:
    plan = plan_fire(FIVE_MINUTELY, NOON, NOON + 5 * MINUTE, Misfire.COALESCE, None)

    assert plan == FirePlan(fire_at=NOON, next_fire_at=NOON + 10 * MINUTE, missed=1)


@pytest.mark.parametrize("misfire", [Misfire.COALESCE, Misfire.SKIP])
def test_a_scheduler_that_is_seconds_late_runs_every_fire(misfire: Misfire) -> None:
    """Seconds late is no downtime: another scheduler died, or this one is busy."""
    now = NOON + ON_TIME[misfire]

    plan = plan_fire(SECONDLY, NOON, now, misfire, None)

    assert plan == FirePlan(NOON, NOON + SECOND, 0)


def test_a_long_grace_makes_up_for_a_bounded_number_of_fires() -> None:
    plan = plan_fire(SECONDLY, NOON, NOON + HOUR, Misfire.COALESCE, 2 * HOUR)

    assert plan == FirePlan(NOON, NOON + HOUR + SECOND, 3600)


def test_skip_fires_what_is_late_by_the_grace_and_nothing_later() -> None:
    hourly = parse_schedule("@hourly")

    in_time = plan_fire(hourly, NOON, NOON + ON_TIME[Misfire.SKIP], Misfire.SKIP, None)
    too_late = plan_fire(hourly, NOON, NOON + ON_TIME[Misfire.SKIP] + MILLISECOND, Misfire.SKIP, None)

    assert in_time == FirePlan(NOON, NOON + HOUR, 0)
    assert too_late == FirePlan(None, NOON + HOUR, 1)


def test_skip_takes_the_grace_of_the_schedule() -> None:
    assert plan_fire(ONCE, NOON, NOON + HOUR, Misfire.SKIP, HOUR).fire_at == NOON
    assert plan_fire(ONCE, NOON, NOON + SECOND, Misfire.SKIP, timedelta()) == FirePlan(None, None, 1)


def test_skip_counts_all_that_fell_into_the_downtime() -> None:
    plan = plan_fire(FIVE_MINUTELY, NOON, NOON + HOUR + SECOND, Misfire.SKIP, None)

    assert plan == FirePlan(None, NOON + 65 * MINUTE, 13)


def test_all_fires_each_instant_in_turn() -> None:
    now = NOON + HOUR + SECOND

    fired, skipped = catch_up("*/5 * * * *", NOON, now, None)

    assert fired == [NOON + n * 5 * MINUTE for n in range(13)]
    assert skipped == 0


def test_all_fires_at_most_the_latest_hundred() -> None:
    exactly, none_skipped = catch_up("* * * * *", NOON, NOON + (CATCH_UP - 1) * MINUTE, None)
    one_more, one_skipped = catch_up("* * * * *", NOON, NOON + CATCH_UP * MINUTE, None)
    many, many_skipped = catch_up("* * * * *", NOON, NOON + 1000 * MINUTE, None)

    assert (len(exactly), none_skipped) == (CATCH_UP, 0)
    assert (one_more[0], len(one_more), one_skipped) == (NOON + MINUTE, CATCH_UP, 1)
    assert (many[0], many[-1]) == (NOON + 901 * MINUTE, NOON + 1000 * MINUTE)
    assert (len(many), many_skipped) == (CATCH_UP, 901)


def test_all_fires_nothing_older_than_the_grace() -> None:
    fired, skipped = catch_up("*/5 * * * *", NOON, NOON + HOUR, 15 * MINUTE)

    assert fired == [NOON + minutes * MINUTE for minutes in (45, 50, 55, 60)]
    assert skipped == 9


def test_all_fires_nothing_when_everything_is_older_than_the_grace() -> None:
    plan = plan_fire(FIVE_MINUTELY, NOON, NOON + 14 * MINUTE, Misfire.ALL, MINUTE)

    assert plan == FirePlan(None, NOON + 15 * MINUTE, 3)


def test_all_keeps_to_the_hundred_also_when_fires_come_in_bursts() -> None:
    bursts = "* * 9 * * *"  # 3600 in an hour, then none for 23

    fired, skipped = catch_up(bursts, NOON - DAY + 21 * HOUR, NOON, None)

    nine = NOON - 3 * HOUR
    assert fired == [nine + HOUR - n * SECOND for n in range(CATCH_UP, 0, -1)]
    assert skipped == 3600 - CATCH_UP


def catch_up(text: str, due: datetime, now: datetime, grace: timedelta | None) -> tuple[list[datetime], int]:
    """Plan until the next fire lies in the future: what was fired, and how many were skipped."""
    trigger, fired, skipped, next_due = parse_schedule(text), [], 0, due
    while next_due <= now:
        plan = plan_fire(trigger, next_due, now, Misfire.ALL, grace)
        skipped += plan.missed
        if plan.fire_at is not None:
            fired.append(plan.fire_at)
        assert plan.next_fire_at is not None
        assert plan.next_fire_at > next_due
        next_due = plan.next_fire_at
    return fired, skipped


@pytest.mark.parametrize("misfire", Misfire)
@pytest.mark.parametrize("text", ["* * * * * *", "0,59 * 9-17 * * *", "@every 1s", "* * * * *"])
def test_a_month_of_downtime_costs_milliseconds(text: str, misfire: Misfire) -> None:
    trigger = parse_schedule(text, "America/New_York")
    began = process_time()

    plan = plan_fire(trigger, NOON - 31 * DAY, NOON, misfire, None)

    assert process_time() - began < 1  # some 30 ms; the bound is for slow machines
    assert plan.missed == COUNTED
    assert plan.next_fire_at is not None
    assert plan.next_fire_at > NOON - DAY


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(["*/5 * * * *", "* * * * *", "*/7 3 * * *", "0 */6 * * *", "@every 90s", "0 9 * * 1-5"]),
    zone=st.sampled_from(["UTC", "America/New_York"]),
    start=st.datetimes(datetime(2026, 10, 30), datetime(2026, 11, 2), timezones=st.just(UTC)),  # noqa: DTZ001
    down=st.timedeltas(timedelta(), 2 * DAY),
    grace=st.none() | st.timedeltas(timedelta(), 2 * DAY),
    misfire=st.sampled_from(Misfire),
)
def test_every_owed_instant_is_either_fired_or_counted(
    text: str, zone: str, start: datetime, down: timedelta, grace: timedelta | None, misfire: Misfire
) -> None:
    trigger = parse_schedule(text, zone)
    due = trigger.next_after(start)
    assert due is not None
    now = due + down
    owed = trigger.between(due, now + timedelta.resolution, COUNTED)

    fired, skipped, following = [], 0, due
    while following <= now:
        plan = plan_fire(trigger, following, now, misfire, grace)
        if plan.fire_at is not None:
            fired.append(plan.fire_at)
        skipped += plan.missed
        assert plan.next_fire_at is not None
        following = plan.next_fire_at

    assert len(fired) + skipped == len(owed)
    assert following == trigger.next_after(now)
    match misfire:
        case Misfire.COALESCE | Misfire.SKIP if (
            down <= (ON_TIME[misfire] if grace is None else grace) and len(owed) <= CATCH_UP
        ):
            assert fired == owed
        case Misfire.COALESCE:
            assert fired == [due]
        case Misfire.SKIP:
            assert fired == []
        case Misfire.ALL:
            fresh = [fire for fire in owed if grace is None or now - fire <= grace]
            assert fired == fresh[-CATCH_UP:]


def test_jitter_is_the_same_everywhere_and_differs_by_schedule_and_fire() -> None:
    shift = jittered(NOON, HOUR, "backup")

    assert shift == jittered(NOON.astimezone(), HOUR, "backup")
    # Fixed, because replicas of two releases run side by side during a rollout.
    assert shift == NOON + timedelta(minutes=20, seconds=22, milliseconds=663)
    assert shift != jittered(NOON, HOUR, "forget")
    assert shift - NOON != jittered(NOON + DAY, HOUR, "backup") - (NOON + DAY)


def test_jitter_spreads_over_the_whole_span() -> None:
    shifts = [jittered(NOON, 3 * MILLISECOND, str(n)) - NOON for n in range(200)]

    assert set(shifts) == {n * MILLISECOND for n in range(4)}


@pytest.mark.parametrize("jitter", [timedelta(), -HOUR, timedelta(microseconds=999)])
def test_no_jitter_moves_nothing(jitter: timedelta) -> None:
    assert jittered(NOON, jitter, "backup") == NOON


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("*/5 * * * *", NOON, 5 * MINUTE),
        ("@every 30s", NOON, 30 * SECOND),
        ("0 3 * * *", NOON, DAY),
        ("0 9 * * 1-5", NOON, 3 * DAY),
        ("0 9 * * 1-5", NOON + 2 * DAY, 3 * DAY),
        ("0 9 1 * *", NOON, 31 * DAY),
        ("0 0 29 2 *", NOON, 1461 * DAY),
        ("@yearly", NOON, 366 * DAY),
        ("0,10 * * * *", NOON, 50 * MINUTE),
        ("*/5 9-17 * * 1-5", NOON, 5 * MINUTE),
        ("*/5 9-17 * * 1-5", NOON + 8 * HOUR, 15 * HOUR + 5 * MINUTE),
        ("*/5 9-17 * * 1-5", NOON + 5 * DAY, 63 * HOUR + 5 * MINUTE),
        ("*/5 9-17 * * 1-5", NOON + 7 * DAY - 3 * HOUR, 63 * HOUR + 5 * MINUTE),
    ],
)
def test_cadence_is_the_largest_gap_around(text: str, at: datetime, expected: timedelta) -> None:
    assert cadence(parse_schedule(text), at) == expected


def test_one_fire_has_no_cadence() -> None:
    assert cadence(ONCE, NOON - DAY) is None
    assert cadence(ONCE, NOON + DAY) is None
