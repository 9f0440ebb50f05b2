"""Schedule text to fire instants. Pure: the same text gives the same instants on every replica and after every restart.

Forms:
    ``*/5 * * * *``                  cron as in Debian: minute hour day-of-month month day-of-week
    ``30 */5 * * * *``               the same with leading seconds
    ``@hourly`` ``@daily`` …         short names for cron
    ``@every 90s``                   counted from 1970-01-01T00:00:00Z, so it never drifts
    ``@at 2026-12-24T18:00:00Z``     once

When the clocks change, a cron schedule whose hour field begins with ``*`` goes on by elapsed time: every hour that
passes counts, also the repeated one. Any other names times of the day: one that exists twice fires the first time, one
that does not exist fires at the first moment after the gap, and several in the same gap fire once.
"""

from abc import abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from apscheduler.triggers.base import BaseTrigger

from schemas.duration import parse_duration
from service.clock_changes import STRIDE, first_change, offset, wall as wall_at
from service.cron import CronExpression
from service.errors import InvalidSchedule

MAX_TEXT = 200
"""Characters of the longest schedule text that is looked at."""
SHORTEST_EVERY = timedelta(seconds=1)
LONGEST_EVERY = timedelta(days=3653)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Trigger(BaseTrigger):  # type: ignore[misc]  # apscheduler is untyped
    """The fire instants of one schedule: aware UTC, whole milliseconds, strictly increasing, none before 1970.

    Immutable, so safe to share. Instants passed in must be aware, in any zone; a naive one raises ``ValueError``.
    """

    __slots__ = ()

    @abstractmethod
    def _fires_after(self, instant: datetime) -> Iterator[datetime]:
        """The fires strictly after ``instant`` (aware UTC), strictly increasing; may end by ``OverflowError``."""

    def fires_after(self, instant: datetime) -> Iterator[datetime]:
        """The fires strictly after ``instant``, in order; most schedules never end."""
        last = max(_utc(instant), _EPOCH - _SECOND)
        try:
            for fire in self._fires_after(last):
                if fire > last:
                    last = fire
                    yield fire
        except OverflowError:  # the calendar of datetime ends with year 9999
            return

    def next_after(self, instant: datetime) -> datetime | None:
        """The first fire strictly after ``instant``; None when there is none left."""
        return next(self.fires_after(instant), None)

    def between(self, start: datetime, end: datetime, limit: int) -> list[datetime]:
        """The first ``limit`` fires with ``start <= fire < end``."""
        fires: list[datetime] = []
        for fire in self.fires_after(max(start, _EPOCH) - timedelta.resolution):
            if fire >= end or len(fires) >= limit:
                break
            fires.append(fire)
        return fires

    def named_time(self, fire: datetime) -> datetime | None:
        """The local time, naive, that one of its fires stands for; None if it names no times of day.

        It is what clocks show then; or, for a fire at the end of a gap, the first named time that the gap swallowed.
        """
        return None

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """For APScheduler: the first fire strictly after both, so a clock that goes back repeats nothing."""
        now = _utc(now)
        return self.next_after(now if previous_fire_time is None else max(_utc(previous_fire_time), now))


class CronTrigger(Trigger):
    """The wall-clock times of a cron expression in a time zone."""

    __slots__ = ("_cron", "_zone")

    def __init__(self, cron: CronExpression, zone: tzinfo) -> None:
        self._cron, self._zone = cron, zone

    def _fires_after(self, instant: datetime) -> Iterator[datetime]:
        instant = instant.replace(microsecond=0)  # cron fires at whole seconds only
        return self._by_elapsed_time(instant) if self._cron.every_hour else self._by_time_of_day(instant)

    def named_time(self, fire: datetime) -> datetime | None:
        shown = wall_at(fire, self._zone)
        if next(self._cron.walls_after(shown - _SECOND)) == shown:
            return shown
        gap = offset(fire, self._zone) - offset(fire - _SECOND, self._zone)
        return next(self._cron.walls_after(shown - gap - _SECOND))

    def _by_time_of_day(self, instant: datetime) -> Iterator[datetime]:
        # In a repeated hour the first of these lie before `instant`: fires_after drops them.
        after: datetime | None = wall_at(instant, self._zone)
        while after is not None:
            walls, after = self._cron.walls_after(after), None
            for wall in walls:
                moment = _moment(wall, self._zone)
                yield moment
                if (shown := wall_at(moment, self._zone)) != wall:
                    # All times in a gap share a moment. A gap may be a day long: the rest of it is passed over.
                    after = shown - _SECOND
                    break

    def _by_elapsed_time(self, instant: datetime) -> Iterator[datetime]:
        # Until the clocks change the offset is constant; then start anew with the next one.
        after = wall_at(instant, self._zone)
        while True:
            shift, change, calm_until = offset(instant, self._zone), None, instant
            for wall in self._cron.walls_after(after):
                fire = wall.replace(tzinfo=UTC) - shift
                if fire > calm_until and change is None:
                    calm_until = fire + STRIDE
                    change = first_change(instant, calm_until, self._zone)
                if change is not None and fire >= change:
                    break
                yield fire
                instant = fire
            if change is None:
                return
            instant, after = change, wall_at(change, self._zone) - _SECOND


class EveryTrigger(Trigger):
    """Every whole multiple of a period since 1970-01-01T00:00:00Z, so all replicas agree however they were started."""

    __slots__ = ("_period",)

    def __init__(self, period: timedelta) -> None:
        self._period = period

    def _fires_after(self, instant: datetime) -> Iterator[datetime]:
        fire = _EPOCH + (instant - _EPOCH) // self._period * self._period
        while True:
            fire += self._period
            yield fire


class OnceTrigger(Trigger):
    """One instant."""

    __slots__ = ("_at",)

    def __init__(self, at: datetime) -> None:
        self._at = at

    def _fires_after(self, instant: datetime) -> Iterator[datetime]:
        yield self._at


@lru_cache(maxsize=10_000)
def trigger_of(schedule: str, timezone: str) -> Trigger:
    """As ``parse_schedule``, remembered: what is stored is parsed again and again."""
    return parse_schedule(schedule, timezone)


def parse_schedule(text: str, timezone: str = "UTC") -> Trigger:
    """Read a schedule; ``timezone`` is an IANA name, used by cron and by an ``@at`` without an offset.

    An ``@at`` in the past is valid and has no fire left.

    Raises:
        InvalidSchedule: the text or the time zone is wrong, or the schedule names only dates that never come.
    """
    if len(text) > MAX_TEXT:
        raise InvalidSchedule(
            field="schedule", value=text, problem=f"is longer than {MAX_TEXT} characters", fix="split it into several"
        )
    zone = zone_of(timezone)
    text = text.strip()
    if not text or not text.isascii():
        raise _unknown(text, "is empty" if not text else "holds characters that no schedule has")
    if not text.startswith("@"):
        return CronTrigger(CronExpression(text), zone)
    match text.split(maxsplit=1):
        case [word, period] if word.lower() == "@every":
            return EveryTrigger(_period(period))
        case [word, at] if word.lower() == "@at":
            return OnceTrigger(_single(at, zone))
        case [word] if word.lower() in _NAMED:
            return CronTrigger(CronExpression(_NAMED[word.lower()]), zone)
    raise _unknown(text, "is no known schedule")


def _unknown(text: str, problem: str) -> InvalidSchedule:
    fix = f"write a cron expression such as */5 * * * *, {' '.join(_NAMED)}, @every 90s or @at 2026-12-24T18:00:00Z"
    return InvalidSchedule(field="schedule", value=text, problem=problem, fix=fix)


def _period(text: str) -> timedelta:
    try:
        period = parse_duration(text)
    except ValueError as exc:
        raise InvalidSchedule(
            field="schedule.every", value=text, problem="is not a duration", fix="write 90s, 10m, 1h30m or PT10M"
        ) from exc
    if not SHORTEST_EVERY <= period <= LONGEST_EVERY or period % _MILLISECOND:
        raise InvalidSchedule(
            field="schedule.every",
            value=text,
            problem=f"is not between 1 second and {LONGEST_EVERY.days} days in whole milliseconds",
            fix="write @every 1s or longer",
        )
    return period


def _single(text: str, zone: tzinfo) -> datetime:
    try:
        if len(text) <= len("2026-12-24"):
            raise ValueError("a date without a time")
        at = datetime.fromisoformat(text)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        return _moment(at, zone) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidSchedule(
            field="schedule.at",
            value=text,
            problem="is not a date with a time",
            fix="write @at 2026-12-24T18:00:00Z, or without Z for the schedule's time zone",
        ) from exc


def zone_of(name: str) -> tzinfo:
    """Of an IANA name. Raises InvalidSchedule."""
    if name == "UTC":
        return UTC  # also where no time zone database is installed
    try:
        # Zones of the machine differ between replicas, and right/ counts leap seconds.
        if name.startswith(("right/", "posix/", "localtime", "posixrules", "Factory")):
            raise ValueError("not a place")
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidSchedule(
            field="timezone", value=name, problem="is not a known time zone", fix=_suggestion(name)
        ) from exc


def _suggestion(name: str) -> str:
    known = _known_zones()
    if not known:
        return "install the tzdata package: this machine has no time zone database"
    close = get_close_matches(name[:64].casefold(), known, n=1)
    return f"did you mean {known[close[0]]}?" if close else "use an IANA name such as Europe/Berlin, or UTC"


@lru_cache(maxsize=1)
def _known_zones() -> dict[str, str]:
    return {name.casefold(): name for name in available_timezones()}


def _utc(instant: datetime) -> datetime:
    """In UTC, because Python compares two times of one zone by their clocks, and those repeat."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    return instant.astimezone(UTC)


def _moment(wall: datetime, zone: tzinfo) -> datetime:
    """The first instant (UTC) at which a clock in ``zone`` shows ``wall``, or the end of the gap that swallows it."""
    moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if wall_at(moment, zone) == wall:
        return moment
    # In a gap fold 0 reads the offset before the change and lands after it; fold 1 the other way round (PEP 495).
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return first_change(before, moment, zone) or moment
