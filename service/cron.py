"""A cron expression: its five or six fields checked, and the wall-clock times it names.

Knows no time zone: ``service.triggers`` turns wall-clock times into instants. cronsim reads the fields and decides
which days match (day-of-month or day-of-week, ``L``, ``#``). Walking through the times of a day is done here: cronsim
probes second by second and hour by hour, many times slower, and with seconds it treats clock changes in another way.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from cronsim import CronSim, CronSimError

from service.errors import InvalidSchedule

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_DAY = timedelta(days=1)
_CYCLE_START = date(2000, 1, 1)
"""From here 28 years hold every kind of calendar year: what does not come in them never comes."""
_GIVE_UP_YEARS = 50
"""Longer than any pause of a date that comes at all: 29 February on a given weekday pauses 40 years around 2100."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """In order, the first one meaning ``low``."""

    @property
    def values(self) -> str:
        numbers = f"{self.low}-{self.high}"
        return f"{numbers} or {self.names[0].lower()}-{self.names[-1].lower()}" if self.names else numbers


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day-of-month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day-of-week", 0, 7, _WEEKDAYS),
)
_ITEM = re.compile(r"(?:\*|(?P<start>[0-9A-Z]+)(?:-(?P<end>[0-9A-Z]+))?)(?:/(?P<step>[0-9]+))?")
_MONTH_END = re.compile(r"LW?")
_NTH_WEEKDAY = re.compile(r"(?P<weekday>[0-9A-Z]+?)(?:L|#(?P<nth>[0-9]+))")


class CronExpression:
    """A checked expression. Immutable, so safe to share between threads.

    ``every_hour`` tells whether the hour field begins with ``*``: such a schedule counts real hours; any other names
    times of the day. What that means when the clocks change is decided in ``service.triggers``.
    """

    __slots__ = ("_cron", "_hours", "_minutes", "_seconds", "_times_per_day", "every_hour")

    def __init__(self, text: str) -> None:
        """Read ``text``: five fields, or six with leading seconds.

        Raises:
            InvalidSchedule: names the field, the item and the fix; also for dates that never come.
        """
        fields = text.upper().split()
        if len(fields) == 5:
            fields.insert(0, "0")
        if len(fields) != 6:
            raise InvalidSchedule(
                field="schedule",
                value=text,
                problem=f"has {len(fields)} fields instead of 5 or 6",
                fix="write minute hour day-of-month month day-of-week, with seconds in front if wanted",
            )
        fields = [_checked(field, content) for field, content in zip(_FIELDS, fields, strict=True)]
        try:
            self._cron = CronSim(" ".join(fields), datetime.combine(_CYCLE_START, time()))
        except CronSimError as exc:  # the fields are checked, so what it refuses is a date such as 31 February
            raise _never(text) from exc
        self._hours = sorted(self._cron.hours)
        self._minutes = sorted(self._cron.minutes)
        self._seconds = sorted(self._cron.seconds)
        self._times_per_day = len(self._hours) * len(self._minutes) * len(self._seconds)
        self.every_hour = fields[2].startswith("*")
        if next(self._days_from(_CYCLE_START), None) is None:
            raise _never(text)

    def walls_after(self, wall: datetime) -> Iterator[datetime]:
        """The named wall-clock times (naive, whole seconds) strictly after ``wall``, in order.

        Practically endless: it leaves by ``OverflowError`` at the end of year 9999.
        """
        today = wall.date()
        first = bisect_right(range(self._times_per_day), wall.time(), key=self._time)
        for day in self._days_from(today):
            for index in range(first if day == today else 0, self._times_per_day):
                yield datetime.combine(day, self._time(index))

    def _time(self, index: int) -> time:
        """The ``index``-th time of a matching day."""
        rest, second = divmod(index, len(self._seconds))
        hour, minute = divmod(rest, len(self._minutes))
        return time(self._hours[hour], self._minutes[minute], self._seconds[second])

    def _days_from(self, day: date) -> Iterator[date]:
        """The matching days from ``day`` on; ends after 50 years without one."""
        last_year = day.year + _GIVE_UP_YEARS
        while day.year <= last_year:
            if day.month not in self._cron.months:
                day = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
                continue
            if self._cron.match_day(day):
                yield day
                last_year = day.year + _GIVE_UP_YEARS
            day += _DAY


def _checked(field: _Field, content: str) -> str:
    """The field in numbers; refused is what cronsim refuses without a reason, or takes without a meaning."""
    return ",".join(_checked_item(field, item) for item in content.split(","))


def _checked_item(field: _Field, item: str) -> str:
    if field.name == "day-of-month" and _MONTH_END.fullmatch(item):
        return item
    if field.name == "day-of-week" and (match := _NTH_WEEKDAY.fullmatch(item)):
        weekday, nth = _number(field, match["weekday"]), match["nth"]
        if nth and not 1 <= int(nth) <= 5:
            raise _refused(field, item, "counts weekdays of a month beyond 1-5", "write 1#1 for the first Monday")
        return f"{weekday}#{nth}" if nth else f"{weekday}L"
    match = _ITEM.fullmatch(item)
    if match is None:
        forms = "write *, a value, a range a-b, a step */n or a-b/n, or a list of these with commas"
        raise _refused(field, item, "is not understood", forms)
    # A step beyond the field fires once per round, not every n-th of anything: */90 minutes would mean hourly.
    step, most = match["step"], 7 if field.name == "day-of-week" else field.high - field.low + 1
    if step and not 1 <= int(step) <= most:
        raise _refused(field, item, f"has a step outside 1-{most}", "use @every for periods that fit no field")
    suffix = f"/{step}" if step else ""
    if not match["start"]:
        return f"*{suffix}"
    first = _number(field, match["start"])
    if not match["end"]:
        return f"{first}{suffix}"
    last = _number(field, match["end"])
    if last < first:
        raise _refused(field, item, "runs backwards", "split it at the turn, as in 22-23,0-5 or fri,sat,sun")
    # cronsim takes 5-5/2 for 5/2, which runs to the end of the field.
    return f"{first}" if first == last else f"{first}-{last}{suffix}"


def _number(field: _Field, token: str) -> int:
    if token in field.names:
        return field.low + field.names.index(token)
    if not token.isdigit():
        raise _refused(field, token, "is not a value of this field", f"use {field.values}")
    if not field.low <= int(token) <= field.high:
        raise _refused(field, token, f"is outside {field.low}-{field.high}", f"use {field.values}")
    return int(token)


def _refused(field: _Field, item: str, problem: str, fix: str) -> InvalidSchedule:
    return InvalidSchedule(field=f"schedule.{field.name}", value=item, problem=problem, fix=fix)


def _never(text: str) -> InvalidSchedule:
    return InvalidSchedule(
        field="schedule.day-of-month",
        value=text,
        problem="names a date that never comes",
        fix="use a day that the month has, or L for its last day",
    )
