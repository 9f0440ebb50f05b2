"""What is no schedule is refused, with the part that is wrong, the reason and the fix."""

from time import process_time

import pytest

from service.errors import InvalidSchedule
from service.triggers import MAX_TEXT, parse_schedule


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("60 * * * *", "minute", "'60' is outside 0-59; use 0-59"),
        ("* 24 * * *", "hour", "'24' is outside 0-23"),
        ("0 0 0 * *", "day-of-month", "'0' is outside 1-31"),
        ("0 0 32 * *", "day-of-month", "'32' is outside 1-31"),
        ("0 0 1 13 *", "month", "'13' is outside 1-12; use 1-12 or jan-dec"),
        ("0 0 * * 8", "day-of-week", "'8' is outside 0-7; use 0-7 or sun-sat"),
        ("61 * * * * *", "second", "'61' is outside 0-59"),
        ("* 60 * * * *", "minute", "'60' is outside 0-59"),
        ("99999999999999999999 * * * *", "minute", "is outside 0-59"),
        ("0 0 1 janu *", "month", "'JANU' is not a value of this field"),
        ("0 0 * * monday", "day-of-week", "'MONDAY' is not a value of this field; use 0-7 or sun-sat"),
        ("mon * * * *", "minute", "'MON' is not a value of this field"),
        ("0 0 ? * 1", "day-of-month", "'?' is not understood; write *"),
        ("0 0 15W * *", "day-of-month", "'15W' is not a value"),
        ("0 0 L-3 * *", "day-of-month", "'L' is not a value"),
        ("0 0 * * L", "day-of-week", "'L' is not a value"),
        ("0 L * * *", "hour", "'L' is not a value"),
        ("0 0 * * 1#6", "day-of-week", "'1#6' counts weekdays of a month beyond 1-5; write 1#1"),
        ("0 0 * * 1#0", "day-of-week", "beyond 1-5"),
        ("0 0 * * 9L", "day-of-week", "'9' is outside 0-7"),
        ("0 0 L/2 * *", "day-of-month", "'L' is not a value"),
        ("-5 * * * *", "minute", "'-5' is not understood"),
        ("1-2-3 * * * *", "minute", "'1-2-3' is not understood"),
        ("1,,2 * * * *", "minute", "'' is not understood"),
        ("*/ * * * *", "minute", "'*/' is not understood"),
        ("1.5 * * * *", "minute", "'1.5' is not understood"),
        ("*/0 * * * *", "minute", "'*/0' has a step outside 1-60; use @every"),
        ("*/90 * * * *", "minute", "'*/90' has a step outside 1-60; use @every"),
        ("0 */48 * * *", "hour", "'*/48' has a step outside 1-24"),
        ("0 22-5 * * *", "hour", "'22-5' runs backwards; split it"),
        ("0 0 * * fri-mon", "day-of-week", "'FRI-MON' runs backwards; split it"),
        ("0 0 31 2 *", "day-of-month", "'0 0 31 2 *' names a date that never comes; use a day that the month has"),
        ("0 0 30 2 *", "day-of-month", "never comes"),
        ("0 0 31 4,6,9,11 *", "day-of-month", "never comes"),
        ("0 0 */30 2 mon#5", "day-of-month", "never comes"),
        ("0 0 */30 * mon#3", "day-of-month", "never comes"),
        ("@every 0s", "every", "'0s' is not between 1 second and 3653 days"),
        ("@every -5s", "every", "'-5s' is not a duration; write 90s"),
        ("@every 999ms", "every", "is not between 1 second"),
        ("@every 1.0005s", "every", "whole milliseconds"),
        ("@every 4000d", "every", "is not between 1 second and 3653 days"),
        ("@every soon", "every", "'soon' is not a duration"),
        ("@at tomorrow", "at", "'tomorrow' is not a date with a time; write @at 2026-12-24T18:00:00Z"),
        ("@at 2026-12-24", "at", "is not a date with a time"),
        ("@at 2026-02-30T00:00:00Z", "at", "is not a date with a time"),
        ("@at 0001-01-01T00:00:00+14:00", "at", "is not a date with a time"),
    ],
)
def test_a_wrong_part_is_named_with_the_reason_and_the_fix(text: str, field: str, says: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        parse_schedule(text)

    assert refused.value.field == f"schedule.{field}"
    assert says in str(refused.value)
    assert refused.value.fix


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is empty"),
        (" \n ", "is empty"),
        ("* * * *", "'* * * *' has 4 fields instead of 5 or 6; write minute hour"),
        ("* * * * * * *", "has 7 fields"),
        ("@reboot", "'@reboot' is no known schedule; write a cron expression"),
        ("@daily 5", "is no known schedule"),
        ("@every", "is no known schedule"),
        ("@at", "is no known schedule"),
        ("@every30s", "is no known schedule"),
        ("٥ * * * *", "holds characters that no schedule has"),
        ("0 0 * * ſun", "holds characters that no schedule has"),
        ("\ud800 * * * *", "holds characters that no schedule has"),
        ("*" + " *" * MAX_TEXT, "is longer than 200 characters"),
    ],
)
def test_a_text_that_is_no_schedule_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        parse_schedule(text)

    assert refused.value.field == "schedule"
    assert says in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("Mars/Olympus_Mons", "is not a known time zone; use an IANA name"),
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("America/NewYork", "did you mean America/New_York?"),
        ("Europe", "is not a known time zone"),
        ("", "is not a known time zone"),
        ("../../etc/passwd", "is not a known time zone"),
        ("/etc/localtime", "is not a known time zone"),
        ("localtime", "is not a known time zone"),
        ("right/Europe/Berlin", "did you mean Europe/Berlin?"),
        ("tzdata.zi", "is not a known time zone"),
        ("a\0b", "is not a known time zone"),
        ("\ud800", "is not a known time zone"),
        ("x" * 10_000, "is not a known time zone"),
    ],
)
@pytest.mark.parametrize("text", ["0 0 * * *", "@every 30s"])
def test_an_unknown_time_zone_is_refused(text: str, zone: str, says: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        parse_schedule(text, zone)

    assert refused.value.field == "timezone"
    assert says in str(refused.value)
    assert len(str(refused.value)) < 400


def test_dates_that_never_come_are_refused_quickly() -> None:
    began = process_time()

    for text in ("0 0 31 2 *", "* * * 30 2 *", "* * * */30 * mon#3", "*/7 */7 */7 */30 2 mon#5"):
        with pytest.raises(InvalidSchedule):
            parse_schedule(text)

    assert process_time() - began < 10  # some 20 ms; the bound is for slow machines
