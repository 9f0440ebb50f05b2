"""Which week belongs to which month and year: every day is in one archive of each level, and none is torn."""

from datetime import date

import pytest
from hypothesis import given, strategies

from actors.sessions.archive.periods import DAY, Level, Period

days = strategies.dates(date(1900, 1, 1), date(2200, 1, 1))


@pytest.mark.parametrize(
    ("day", "week", "month", "year"),
    [
        ("2026-03-04", "2026-W10", "2026-03", "2026"),
        ("2026-03-01", "2026-W09", "2026-02", "2026"),  # a Sunday: its Thursday is in February
        ("2025-12-29", "2026-W01", "2026-01", "2026"),  # its Thursday is New Year's Day
        ("2026-01-04", "2026-W01", "2026-01", "2026"),
        ("2020-12-28", "2020-W53", "2020-12", "2020"),
        ("2021-01-03", "2020-W53", "2020-12", "2020"),
        ("2021-01-04", "2021-W01", "2021-01", "2021"),
        ("2027-01-01", "2026-W53", "2026-12", "2026"),
        ("2024-02-29", "2024-W09", "2024-02", "2024"),
        ("1970-01-01", "1970-W01", "1970-01", "1970"),
    ],
)
def test_a_week_belongs_to_the_month_and_the_year_of_its_thursday(day: str, week: str, month: str, year: str) -> None:
    periods = [Period.of(level, date.fromisoformat(day)).name for level in Level]

    assert periods == [day, week, month, year]


@given(days)
def test_each_period_lies_whole_in_one_coarser_period(day: date) -> None:
    for level in list(Level)[1:]:
        period = Period.of(level.finer, day)
        coarser = period.within(level)
        assert period.first <= day < period.end
        assert coarser.first <= period.first < period.end <= coarser.end
        assert coarser == Period.of(level, day) == Period.of(level, period.end - DAY)


@given(days)
def test_periods_follow_each_other_without_a_gap_and_can_be_read_from_their_names(day: date) -> None:
    for level in Level:
        period = Period.of(level, day)
        assert Period.of(level, period.end).first == period.end
        assert Period.of(level, period.first - DAY).end == period.first
        assert Period.parse(level, period.name) == period


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("daily", "2026-02-30"),
        ("daily", "20260201"),
        ("daily", "2026-02-01 "),
        ("weekly", "2021-W53"),
        ("weekly", "2021-W1"),
        ("weekly", "2021-53"),
        ("monthly", "2026-13"),
        ("monthly", "2026-1"),
        ("yearly", "26"),
        ("daily", "9999-10-24"),
        ("weekly", "9999-W40"),
        ("monthly", "9999-05"),
        ("yearly", "9999"),
        ("yearly", "x"),
    ],
)
def test_what_names_no_period_is_none(level: str, name: str) -> None:
    assert Period.parse(Level(level), name) is None
