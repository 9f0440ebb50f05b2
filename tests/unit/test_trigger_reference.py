"""Triggers against a slow reference that knows nothing of cronsim: it looks at every minute, or second, in turn."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings, strategies as st

from service.errors import InvalidSchedule
from service.triggers import Trigger, parse_schedule

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
# Moments worth a look: both clock changes of each zone, a month's end, a leap day, a turn of the year.
LANDMARKS = {
    "UTC": ("2026-01-31T12:00Z", "2028-02-29T00:00Z", "2026-12-31T23:00Z"),
    "America/New_York": ("2026-03-08T07:00Z", "2026-11-01T06:00Z", "2028-02-29T05:00Z"),
    "Europe/Berlin": ("2026-03-29T01:00Z", "2026-10-25T01:00Z", "2026-12-31T23:00Z"),
    "Australia/Lord_Howe": ("2026-04-04T15:00Z", "2026-10-03T15:30Z"),
    "America/Havana": ("2026-03-08T05:00Z", "2026-11-01T05:00Z"),
    "Africa/Casablanca": ("2026-02-15T02:00Z", "2026-03-22T02:00Z"),
    "Asia/Kathmandu": ("2026-02-28T18:15Z",),
}


@dataclass(frozen=True)
class Field:
    """What was written, and the values it means."""

    text: str
    values: frozenset[int] = field(repr=False)

    @property
    def starred(self) -> bool:
        return self.text.startswith("*")


@dataclass(frozen=True)
class Cron:
    """An expression as drawn; 32 among the days means the last one, 7 among the weekdays Sunday."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    def text(self, *, seconds: bool) -> str:
        fields = (self.second, self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(each.text for each in (fields if seconds else fields[1:]))

    def names(self, wall: datetime) -> bool:
        last_of_month = (wall + timedelta(days=1)).day == 1
        day = wall.day in self.day.values or (last_of_month and 32 in self.day.values)
        weekday = wall.isoweekday() in self.weekday.values or (wall.isoweekday() == 7 and 0 in self.weekday.values)
        both = self.day.starred or self.weekday.starred
        return (
            wall.second in self.second.values
            and wall.minute in self.minute.values
            and wall.hour in self.hour.values
            and wall.month in self.month.values
            and ((day and weekday) if both else (day or weekday))
        )


def fields(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[Field]:
    """Any way of writing a field: *, values, names, ranges, steps, lists."""
    value = st.integers(low, high)
    step = st.integers(1, 7)

    def spell(number: int) -> str:
        return names[number - low] if number - low < len(names) else str(number)

    def span(pair: tuple[int, int], by: int) -> Field:
        first, last = min(pair), max(pair)
        written = f"{first}-{last}" if last - low >= len(names) else f"{spell(first)}-{spell(last)}"
        return Field(written + (f"/{by}" if by > 1 else ""), frozenset(range(first, last + 1, by)))

    item = st.one_of(
        value.map(lambda number: Field(spell(number), frozenset({number}))),
        st.builds(span, st.tuples(value, value), step),
        st.builds(lambda first, by: Field(f"{first}/{by}", frozenset(range(first, high + 1, by))), value, step),
        step.map(lambda by: Field(f"*/{by}", frozenset(range(low, high + 1, by)))),
    )
    several = st.lists(item, min_size=1, max_size=3).map(
        lambda items: Field(",".join(i.text for i in items), frozenset().union(*(i.values for i in items)))
    )
    return st.one_of(st.just(Field("*", frozenset(range(low, high + 1)))), several)


days = st.one_of(fields(1, 31), st.just(Field("L", frozenset({32}))), st.just(Field("1,L", frozenset({1, 32}))))
crons = st.builds(
    Cron, fields(0, 59), fields(0, 59), fields(0, 23), days, fields(1, 12, MONTHS), fields(0, 7, WEEKDAYS)
)
nights = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(
    lambda hours: Field(",".join(map(str, hours)), frozenset(hours))
)
# Most drawn hours, days and months are far from the landmarks; these are near.
daily = st.builds(
    Cron,
    fields(0, 59),
    fields(0, 59),
    st.one_of(fields(0, 23), nights),
    st.just(Field("*", frozenset(range(1, 32)))),
    st.just(Field("*", frozenset(range(1, 13)))),
    st.just(Field("*", frozenset(range(8)))),
)
places = st.sampled_from([(zone, moment) for zone, moments in LANDMARKS.items() for moment in moments])


def reference(cron: Cron, zone: ZoneInfo, start: datetime, end: datetime, step: timedelta) -> list[datetime]:
    """The fires in ``start <= fire < end``: look at the clock on the wall at every step of real time.

    With a starred hour, each moment whose clock is named fires. Otherwise a clock time counts when it is reached or
    jumped over, and never again.
    """
    fires = []
    moment = start - 3 * HOUR  # longer than any repeated hour
    reached = moment.astimezone(zone).replace(tzinfo=None)
    while moment < end:
        wall = moment.astimezone(zone).replace(tzinfo=None)
        if cron.hour.starred:
            named = cron.names(wall)
        else:
            named = False
            while reached < wall:
                reached += step
                named = cron.names(reached) or named
        if named and moment >= start:
            fires.append(moment)
        moment += step
    return fires


def parsed(text: str, zone: str) -> Trigger | None:
    """None for a date that never comes."""
    try:
        return parse_schedule(text, zone)
    except InvalidSchedule as refused:
        if "never comes" in str(refused):
            return None
        raise


def check(trigger: Trigger | None, expected: list[datetime], start: datetime, end: datetime) -> None:
    if trigger is None:
        assert expected == []
        return
    assert trigger.between(start, end, len(expected) + 1) == expected
    # Step by step from a restart at each fire, the same instants.
    for fire, following in list(pairwise(expected))[:40]:
        assert trigger.next_after(fire) == following


@settings(max_examples=150, deadline=None)
@given(cron=st.one_of(crons, daily), place=places, before=st.integers(0, 2 * 24 * 60))
@example(  # a start within the repeated hour
    cron=Cron(*(Field(text, frozenset(values)) for text, values in (
        ("0", {0}), ("*/10", range(0, 60, 10)), ("1", {1}), ("*", range(1, 32)), ("*", range(1, 13)), ("*", range(8)),
    ))),
    place=("America/New_York", "2026-11-01T06:30Z"),
    before=0,
)  # fmt: skip
def test_minutes_agree_with_the_reference(cron: Cron, place: tuple[str, str], before: int) -> None:
    zone, landmark = place
    start = datetime.fromisoformat(landmark) - before * MINUTE
    end = start + timedelta(days=2)
    at_zero = Cron(Field("0", frozenset({0})), cron.minute, cron.hour, cron.day, cron.month, cron.weekday)

    expected = reference(at_zero, ZoneInfo(zone), start, end, MINUTE)

    check(parsed(cron.text(seconds=False), zone), expected, start, end)


@settings(max_examples=40, deadline=None)
@given(cron=daily, place=places, before=st.integers(0, 2 * 60 * 60))
def test_seconds_agree_with_the_reference(cron: Cron, place: tuple[str, str], before: int) -> None:
    zone, landmark = place
    start = datetime.fromisoformat(landmark) - before * SECOND
    end = start + 2 * HOUR

    expected = reference(cron, ZoneInfo(zone), start, end, SECOND)

    check(parsed(cron.text(seconds=True), zone), expected, start, end)


instants = st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
schedules = st.one_of(
    crons.map(lambda cron: cron.text(seconds=False)),
    crons.map(lambda cron: cron.text(seconds=True)),
    st.integers(1000, 10**9).map(lambda period: f"@every {period}ms"),
    st.sampled_from(["@hourly", "@daily", "@weekly", "@monthly", "@yearly"]),
)


@settings(max_examples=150, deadline=None)
@given(text=schedules, zone=st.sampled_from(sorted(LANDMARKS)), start=instants)
def test_fires_increase_strictly_and_are_the_same_however_asked(text: str, zone: str, start: datetime) -> None:
    trigger, again = parsed(text, zone), parsed(text.upper(), zone)
    if trigger is None or again is None:
        assert trigger is again
        return

    fires = [start]
    while len(fires) < 6 and (fire := trigger.next_after(fires[-1])):
        assert fire.tzinfo is UTC
        assert fire.microsecond % 1000 == 0
        fires.append(fire)

    assert all(earlier < later for earlier, later in pairwise(fires))
    assert again.between(start + timedelta.resolution, fires[-1] + MINUTE, len(fires) - 1) == fires[1:]
    # Asked from anywhere between two fires, the answer is the later one.
    for earlier, later in pairwise(fires[1:]):
        assert again.next_after(earlier + (later - earlier) / 3) == later


@settings(max_examples=100, deadline=None)
@given(text=schedules, previous=instants, now=instants)
def test_the_next_fire_is_later_than_the_last_and_than_now(text: str, previous: datetime, now: datetime) -> None:
    trigger = parsed(text, "Europe/Berlin")
    if trigger is None:
        return

    fire = trigger.get_next_fire_time(previous, now)

    assert fire is not None
    assert fire > max(previous, now)


@settings(max_examples=400, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.text("0123456789*/-,#LWlwmonfrijan @", max_size=30)))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    try:
        trigger = parse_schedule(text)
    except InvalidSchedule:
        return
    trigger.next_after(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("zone", sorted(LANDMARKS))
def test_every_minute_means_each_minute_that_passes(zone: str) -> None:
    trigger = parse_schedule("* * * * *", zone)

    for landmark in LANDMARKS[zone]:
        start = datetime.fromisoformat(landmark) - 3 * HOUR
        assert trigger.between(start, start + 6 * HOUR, 1000) == [start + n * MINUTE for n in range(360)]
