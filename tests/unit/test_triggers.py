"""Schedule text to instants: tables of expressions and of clock changes."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import process_time
from zoneinfo import ZoneInfo

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from service.triggers import parse_schedule

NEW_YORK, BERLIN, LORD_HOWE, HAVANA = "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana"
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# Each row: schedule, an instant, the fires strictly after it. 2026-01-01 is a Thursday.
IN_UTC = [
    # minutes and hours
    ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z 2026-01-01T00:02:00Z"),
    ("* * * * *", "2026-01-01T00:00:00.001Z", "2026-01-01T00:01:00Z"),
    ("* * * * *", "2025-12-31T23:59:59.999Z", "2026-01-01T00:00:00Z"),
    ("* * * * *", "2026-01-01T01:00:00+01:00", "2026-01-01T00:01:00Z"),
    ("5 * * * *", "2026-01-01T00:05:00Z", "2026-01-01T01:05:00Z 2026-01-01T02:05:00Z"),
    ("*/15 * * * *", "2026-01-01T00:07:00Z", "2026-01-01T00:15:00Z 2026-01-01T00:30:00Z"),
    ("*/25 * * * *", "2026-01-01T00:40:00Z", "2026-01-01T00:50:00Z 2026-01-01T01:00:00Z 2026-01-01T01:25:00Z"),
    ("*/60 * * * *", "2026-01-01T00:40:00Z", "2026-01-01T01:00:00Z 2026-01-01T02:00:00Z"),
    ("5/20 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z 2026-01-01T00:25:00Z 2026-01-01T00:45:00Z"),
    ("10-20/5 * * * *", "2026-01-01T00:11:00Z", "2026-01-01T00:15:00Z 2026-01-01T00:20:00Z 2026-01-01T01:10:00Z"),
    ("0,30,45 * * * *", "2026-01-01T00:30:00Z", "2026-01-01T00:45:00Z 2026-01-01T01:00:00Z"),
    ("1-2,58-59 * * * *", "2026-01-01T00:02:00Z", "2026-01-01T00:58:00Z 2026-01-01T00:59:00Z 2026-01-01T01:01:00Z"),
    ("05 09 * * *", "2026-01-01T00:00:00Z", "2026-01-01T09:05:00Z 2026-01-02T09:05:00Z"),
    ("30 2 * * *", "2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"),
    ("0 */8 * * *", "2026-01-01T01:00:00Z", "2026-01-01T08:00:00Z 2026-01-01T16:00:00Z 2026-01-02T00:00:00Z"),
    ("0 9-17/4 * * *", "2026-01-01T10:00:00Z", "2026-01-01T13:00:00Z 2026-01-01T17:00:00Z 2026-01-02T09:00:00Z"),
    ("0 22-23,0-1 * * *", "2026-01-01T22:30:00Z", "2026-01-01T23:00:00Z 2026-01-02T00:00:00Z 2026-01-02T01:00:00Z"),
    ("*/30 23 * * *", "2026-01-01T23:30:00Z", "2026-01-02T23:00:00Z 2026-01-02T23:30:00Z"),
    ("  0   6\t* * *  ", "2026-01-01T00:00:00Z", "2026-01-01T06:00:00Z"),
    # seconds
    ("* * * * * *", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z 2026-01-01T00:00:02Z"),
    ("*/20 * * * * *", "2026-01-01T00:00:21Z", "2026-01-01T00:00:40Z 2026-01-01T00:01:00Z"),
    ("30 */5 * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:05:30Z 2026-01-01T00:10:30Z"),
    ("0,59 59 23 * * *", "2026-01-01T23:59:30Z", "2026-01-01T23:59:59Z 2026-01-02T23:59:00Z"),
    ("15 0 0 1 1 *", "2026-01-01T00:00:15Z", "2027-01-01T00:00:15Z"),
    # weekdays
    ("0 0 * * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z 2026-01-11T00:00:00Z"),
    ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z 2026-01-11T00:00:00Z"),
    ("0 0 * * sun", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z 2026-01-11T00:00:00Z"),
    ("0 0 * * 0,7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z 2026-01-11T00:00:00Z"),
    ("0 0 * * 1", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"),
    ("0 0 * * MON", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"),
    ("0 0 * * 5-7", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z 2026-01-03T00:00:00Z 2026-01-04T00:00:00Z"),
    ("0 9 * * 1-5", "2026-01-01T09:00:00Z", "2026-01-02T09:00:00Z 2026-01-05T09:00:00Z"),
    ("0 9 * * mon-fri", "2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z"),
    ("0 9 * * Mon-Fri/2", "2026-01-01T09:00:00Z", "2026-01-02T09:00:00Z 2026-01-05T09:00:00Z 2026-01-07T09:00:00Z"),
    ("0 9 * * sat,SUN", "2026-01-01T09:00:00Z", "2026-01-03T09:00:00Z 2026-01-04T09:00:00Z 2026-01-10T09:00:00Z"),
    ("0 9 * * sun-tue", "2026-01-01T09:00:00Z", "2026-01-04T09:00:00Z 2026-01-05T09:00:00Z 2026-01-06T09:00:00Z"),
    ("0 0 * * */2", "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z 2026-01-04T00:00:00Z 2026-01-06T00:00:00Z"),
    ("0 0 * * 5L", "2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z 2026-02-27T00:00:00Z"),
    ("0 0 * * friL", "2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z 2026-02-27T00:00:00Z"),
    ("0 0 * * 2#2", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z 2026-02-10T00:00:00Z"),
    ("0 0 * * tue#2,tue#4", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z 2026-01-27T00:00:00Z"),
    # day-of-month or day-of-week; and if one begins with *
    ("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z 2026-01-09T00:00:00Z 2026-01-13T00:00:00Z"),
    ("0 0 1,15 * 1", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z 2026-01-12T00:00:00Z 2026-01-15T00:00:00Z"),
    ("0 0 13 * *", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z 2026-02-13T00:00:00Z"),
    ("0 0 */2 * fri", "2026-01-01T00:00:00Z", "2026-01-09T00:00:00Z 2026-01-23T00:00:00Z"),
    ("0 0 13 * */5", "2026-01-01T00:00:00Z", "2026-02-13T00:00:00Z 2026-03-13T00:00:00Z 2026-09-13T00:00:00Z"),
    # months, their ends, leap days
    ("0 0 1 jan *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ("0 0 1 Mar,jUn *", "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z 2026-06-01T00:00:00Z 2027-03-01T00:00:00Z"),
    ("0 0 1 */4 *", "2026-01-01T00:00:00Z", "2026-05-01T00:00:00Z 2026-09-01T00:00:00Z"),
    ("0 0 1 jan-mar/2 *", "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z 2027-01-01T00:00:00Z"),
    ("0 0 30 * *", "2026-01-30T00:00:00Z", "2026-03-30T00:00:00Z"),
    ("0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z 2026-05-31T00:00:00Z 2026-07-31T00:00:00Z"),
    ("59 23 L * *", "2026-01-31T23:59:00Z", "2026-02-28T23:59:00Z 2026-03-31T23:59:00Z 2026-04-30T23:59:00Z"),
    ("0 0 L 2 *", "2026-03-01T00:00:00Z", "2027-02-28T00:00:00Z 2028-02-29T00:00:00Z"),
    ("0 0 1,L * *", "2026-02-01T00:00:00Z", "2026-02-28T00:00:00Z 2026-03-01T00:00:00Z 2026-03-31T00:00:00Z"),
    ("0 0 LW * *", "2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z 2026-02-27T00:00:00Z 2026-03-31T00:00:00Z"),
    ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"),
    ("0 0 29 2 *", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"),
    ("0 0 29 2 */7", "2088-02-29T00:00:00Z", "2128-02-29T00:00:00Z"),
    ("59 59 23 31 12 *", "2026-01-01T00:00:00Z", "2026-12-31T23:59:59Z 2027-12-31T23:59:59Z"),
    # names
    ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z 2026-01-01T02:00:00Z"),
    ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
    ("@midnight", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
    ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z 2026-01-11T00:00:00Z"),
    ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z 2026-03-01T00:00:00Z"),
    ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    (" @Annually ", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    # periods, counted from 1970
    ("@every 30s", "2026-01-01T00:00:01Z", "2026-01-01T00:00:30Z 2026-01-01T00:01:00Z"),
    ("@every 1500ms", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01.500Z 2026-01-01T00:00:03Z"),
    ("@every PT10M", "2026-01-01T00:10:00Z", "2026-01-01T00:20:00Z"),
    ("@EVERY 1h30m", "1970-01-01T00:00:00Z", "1970-01-01T01:30:00Z 1970-01-01T03:00:00Z"),
    ("@every 7d", "2026-01-02T00:00:00Z", "2026-01-08T00:00:00Z 2026-01-15T00:00:00Z"),
]

# The hour field begins with *: elapsed time counts. Clocks: New York 8 March and 1 November, Berlin 29 March and
# 25 October, Lord Howe (by half an hour) 5 April and 4 October, Havana (at midnight) 8 March and 1 November.
BY_ELAPSED_TIME = [
    ("0 * * * *", NEW_YORK, "2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-08T04:00:00-04:00"),
    ("0 * * * *", NEW_YORK, "2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00 2026-11-01T02:00:00-05:00"),
    ("*/30 * * * *", NEW_YORK, "2026-11-01T01:15:00-04:00", "2026-11-01T01:30:00-04:00 2026-11-01T01:00:00-05:00"),
    ("* * * * *", NEW_YORK, "2026-03-08T01:58:59-05:00", "2026-03-08T01:59:00-05:00 2026-03-08T03:00:00-04:00"),
    ("30 * * * * *", BERLIN, "2026-10-25T02:59:00+02:00", "2026-10-25T02:59:30+02:00 2026-10-25T02:00:30+01:00"),
    ("0 * * * *", BERLIN, "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00 2026-10-25T03:00:00+01:00"),
    ("@hourly", BERLIN, "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"),
    ("0 */2 * * *", BERLIN, "2026-03-29T00:00:00+01:00", "2026-03-29T04:00:00+02:00"),
    ("0 */2 * * *", BERLIN, "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00 2026-10-25T04:00:00+01:00"),
    ("0 */2 * * *", NEW_YORK, "2026-11-01T00:30:00.500-04:00", "2026-11-01T02:00:00-05:00"),
    ("0 * 25 10 *", BERLIN, "2025-10-26T12:00:00+01:00", "2026-10-25T00:00:00+02:00 2026-10-25T01:00:00+02:00"),
    ("45 * * * *", LORD_HOWE, "2026-04-05T01:45:00+11:00", "2026-04-05T01:45:00+10:30 2026-04-05T02:45:00+10:30"),
    ("15 * * * *", LORD_HOWE, "2026-04-05T01:15:00+11:00", "2026-04-05T02:15:00+10:30"),
    ("15 * * * *", LORD_HOWE, "2026-10-04T01:15:00+10:30", "2026-10-04T03:15:00+11:00"),
    ("@every 1h", NEW_YORK, "2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-08T04:00:00-04:00"),
]
# It does not: the fire belongs to a time of the day.
BY_TIME_OF_DAY = [
    ("30 2 * * *", NEW_YORK, "2026-03-07T02:30:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:30:00-04:00"),
    ("45 30 2 * * *", NEW_YORK, "2026-03-07T03:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:30:45-04:00"),
    ("0 2,3 * * *", NEW_YORK, "2026-03-08T00:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:00:00-04:00"),
    ("*/10 2 * * *", NEW_YORK, "2026-03-08T00:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:00:00-04:00"),
    ("30 2 * * *", NEW_YORK, "2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"),
    ("30 1 * * *", NEW_YORK, "2026-10-31T01:30:00-04:00", "2026-11-01T01:30:00-04:00 2026-11-02T01:30:00-05:00"),
    ("0 30 1 * * *", NEW_YORK, "2026-10-31T01:30:00-04:00", "2026-11-01T01:30:00-04:00 2026-11-02T01:30:00-05:00"),
    ("30 1 * * *", NEW_YORK, "2026-11-01T01:10:00-05:00", "2026-11-02T01:30:00-05:00"),
    ("*/30 1-2 * * *", NEW_YORK, "2026-11-01T01:00:00-04:00", "2026-11-01T01:30:00-04:00 2026-11-01T02:00:00-05:00"),
    ("30 2 * * *", BERLIN, "2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:30:00+02:00"),
    ("30 2 * * *", BERLIN, "2026-10-24T02:30:00+02:00", "2026-10-25T02:30:00+02:00 2026-10-26T02:30:00+01:00"),
    ("7 30 2 * * *", BERLIN, "2026-10-24T12:00:00+02:00", "2026-10-25T02:30:07+02:00 2026-10-26T02:30:07+01:00"),
    ("0 12 * * *", BERLIN, "2026-03-28T12:00:00+01:00", "2026-03-29T12:00:00+02:00 2026-03-30T12:00:00+02:00"),
    ("15 2 * * *", LORD_HOWE, "2026-10-03T12:00:00+10:30", "2026-10-04T02:30:00+11:00 2026-10-05T02:15:00+11:00"),
    ("45 1 * * *", LORD_HOWE, "2026-04-04T12:00:00+11:00", "2026-04-05T01:45:00+11:00 2026-04-06T01:45:00+10:30"),
    ("*/10 2 * * *", LORD_HOWE, "2026-04-04T12:00:00+11:00", "2026-04-05T02:00:00+10:30 2026-04-05T02:10:00+10:30"),
    ("@daily", HAVANA, "2026-03-07T00:00:00-05:00", "2026-03-08T01:00:00-04:00 2026-03-09T00:00:00-04:00"),
    ("@daily", HAVANA, "2026-10-31T12:00:00-04:00", "2026-11-01T00:00:00-04:00 2026-11-02T00:00:00-05:00"),
    ("0 6 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00"),
]


@pytest.mark.parametrize(("text", "after", "fires"), IN_UTC)
def test_a_schedule_fires_at_the_instants_it_names(text: str, after: str, fires: str) -> None:
    expected = [instant(fire) for fire in fires.split()]

    trigger = parse_schedule(text)

    assert trigger.between(instant(after) + timedelta.resolution, expected[-1] + SECOND, 10) == expected


@pytest.mark.parametrize(("text", "zone", "after", "fires"), BY_ELAPSED_TIME)
def test_a_schedule_of_every_hour_goes_on_by_elapsed_time(text: str, zone: str, after: str, fires: str) -> None:
    assert _next_fires(text, zone, after, fires) == fires.split()


@pytest.mark.parametrize(("text", "zone", "after", "fires"), BY_TIME_OF_DAY)
def test_a_time_of_day_fires_once_when_clocks_change(text: str, zone: str, after: str, fires: str) -> None:
    assert _next_fires(text, zone, after, fires) == fires.split()


def test_a_day_that_clocks_leave_out_is_passed_over_quickly() -> None:
    # Samoa had no 30 December 2011: all of its 86,400 seconds are the same moment.
    trigger = parse_schedule("* * 0-23 * * *", "Pacific/Apia")
    change = instant("2011-12-31T00:00:00+14:00")
    began = process_time()

    fires = trigger.between(change - 3 * SECOND, change + 3 * SECOND, 10)

    assert fires == [change + n * SECOND for n in range(-3, 3)]
    assert process_time() - began < 2  # a few milliseconds; the bound is for slow machines


def _next_fires(text: str, zone: str, after: str, fires: str) -> list[str]:
    trigger = parse_schedule(text, zone)
    found, last = [], datetime.fromisoformat(after)
    for _ in fires.split():
        following = trigger.next_after(last)
        assert following is not None
        last = following
        found.append(last.astimezone(ZoneInfo(zone)).isoformat())
    return found


@pytest.mark.parametrize(
    ("text", "zone", "fire"),
    [
        ("@at 2026-12-24T18:00:00Z", NEW_YORK, "2026-12-24T18:00:00Z"),
        ("@at 2026-12-24T18:00:00.123456+01:00", "UTC", "2026-12-24T17:00:00.123Z"),
        ("@at 2026-12-24 18:00", NEW_YORK, "2026-12-24T23:00:00Z"),
        ("@AT  2026-07-01T09:30:00", BERLIN, "2026-07-01T07:30:00Z"),
        ("@at 2026-11-01T01:30:00", NEW_YORK, "2026-11-01T01:30:00-04:00"),
        ("@at 2026-03-08T02:30:00", NEW_YORK, "2026-03-08T03:00:00-04:00"),
    ],
)
def test_a_single_instant_fires_once_and_is_over(text: str, zone: str, fire: str) -> None:
    trigger = parse_schedule(text, zone)

    assert trigger.next_after(instant("2026-01-01T00:00:00Z")) == instant(fire)
    assert trigger.next_after(instant(fire)) is None
    assert trigger.between(instant(fire), instant(fire) + SECOND, 10) == [instant(fire)]


def test_a_span_includes_its_start_and_not_its_end() -> None:
    trigger = parse_schedule("0 * * * *")
    start = instant("2026-01-01T00:00:00Z")

    assert trigger.between(start, start + 120 * MINUTE, 10) == [start, start + 60 * MINUTE]
    assert trigger.between(start + timedelta.resolution, start + 61 * MINUTE, 10) == [start + 60 * MINUTE]
    assert len(trigger.between(start, start + 600 * MINUTE, 3)) == 3
    assert trigger.between(start, start, 10) == []
    assert trigger.between(start, start - MINUTE, 10) == []


def test_instants_are_utc_whatever_zone_is_asked_in() -> None:
    trigger = parse_schedule("0 12 * * *", BERLIN)

    fire = trigger.next_after(datetime(2026, 7, 1, 0, 0, tzinfo=ZoneInfo(NEW_YORK)))

    assert fire == instant("2026-07-01T10:00:00Z")
    assert fire.tzinfo is UTC


def test_a_naive_instant_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        parse_schedule("@daily").next_after(instant("2026-01-01T00:00:00Z").replace(tzinfo=None))


@pytest.mark.parametrize("zone", ["UTC", NEW_YORK, "Asia/Tokyo"])
@pytest.mark.parametrize("text", ["0 0 * * *", "0 * * * *", "* * * * * *", "0 0 29 2 *", "@every 1h"])
def test_the_ends_of_the_calendar_are_no_errors(text: str, zone: str) -> None:
    trigger = parse_schedule(text, zone)

    first = trigger.next_after(datetime.min.replace(tzinfo=UTC))
    assert first is not None
    assert first >= instant("1970-01-01T00:00:00Z")
    assert trigger.next_after(datetime.max.replace(tzinfo=UTC)) is None


def test_apscheduler_gets_fires_later_than_the_last_and_than_now() -> None:
    trigger = parse_schedule("*/10 * * * *")
    now = instant("2026-01-01T00:05:00Z")

    assert isinstance(trigger, BaseTrigger)
    assert trigger.get_next_fire_time(None, now) == instant("2026-01-01T00:10:00Z")
    assert trigger.get_next_fire_time(now - 60 * MINUTE, now) == instant("2026-01-01T00:10:00Z")
    # The clock went back: what fired stays fired.
    assert trigger.get_next_fire_time(now + 60 * MINUTE, now) == instant("2026-01-01T01:10:00Z")
    # A fire is not repeated when now is exactly its instant.
    assert trigger.get_next_fire_time(None, instant("2026-01-01T00:10:00Z")) == instant("2026-01-01T00:20:00Z")


def test_instants_are_compared_in_the_repeated_hour_too() -> None:
    trigger = parse_schedule("*/10 * * * *", NEW_YORK)
    zone = ZoneInfo(NEW_YORK)
    previous = datetime(2026, 11, 1, 1, 30, tzinfo=zone)
    now = datetime(2026, 11, 1, 1, 10, tzinfo=zone, fold=1)  # 40 minutes later, by a clock that shows less

    fire = trigger.get_next_fire_time(previous, now)

    assert fire == instant("2026-11-01T01:20:00-05:00")


async def test_apscheduler_takes_a_trigger_as_it_is() -> None:
    scheduler = AsyncIOScheduler(event_loop=asyncio.get_running_loop())
    scheduler.start(paused=True)
    try:
        job = scheduler.add_job(print, parse_schedule("@every 10s"))
        assert job.next_run_time.timestamp() % 10 == 0
    finally:
        scheduler.shutdown(wait=False)
