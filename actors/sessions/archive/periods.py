"""Which archive holds a day: its own, that of its week, of its month, or of its year.

A day is one of UTC, a week is an ISO week, and a week is never torn: it belongs whole to the month and to the year of
its Thursday. So ISO says which year a week is of, and so it is done here with months. ``2026-W01`` runs from Monday,
29 December 2025, to Sunday, 4 January 2026: all of it is in ``2026-01``, and then in ``2026``. ``2020-W53`` ends on
3 January 2021: it is in ``2020-12`` and in ``2020``.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Self

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
THURSDAY = timedelta(days=3)
"""After the Monday."""


class Level(StrEnum):
    """Also the names of the folders, from the finest to the coarsest."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"

    @property
    def finer(self) -> "Level":
        """Not asked of the first."""
        levels = list(Level)
        return levels[levels.index(self) - 1]


@dataclass(frozen=True, slots=True)
class Period:
    """The days of one archive."""

    level: Level
    name: str
    first: date
    end: date
    """The day after its last."""

    def __str__(self) -> str:
        return f"{self.level}/{self.name}"

    @classmethod
    def of(cls, level: Level, day: date) -> Self:
        """The period that a day is in."""
        monday = day - DAY * day.weekday()
        thursday = monday + THURSDAY
        match level:
            case Level.DAILY:
                return cls(level, day.isoformat(), day, day + DAY)
            case Level.WEEKLY:
                year, week, _ = day.isocalendar()
                return cls(level, f"{year:04}-W{week:02}", monday, monday + WEEK)
            case Level.MONTHLY:
                after = (thursday.replace(day=1) + timedelta(days=32)).replace(day=1)
                first, end = _first_monday(thursday.replace(day=1)), _first_monday(after)
                return cls(level, f"{thursday.year:04}-{thursday.month:02}", first, end)
            case Level.YEARLY:
                first, end = (_first_monday(date(year, 1, 1)) for year in (thursday.year, thursday.year + 1))
                return cls(level, f"{thursday.year:04}", first, end)

    @classmethod
    def parse(cls, level: Level, name: str) -> Self | None:
        """The period of this name; None if there is none."""
        try:
            found = cls.of(level, _day_in(level, name))
            found.within(Level.YEARLY)  # what ends with the calendar could never be merged
        except (ValueError, OverflowError):
            return None
        return found if found.name == name else None

    def within(self, level: Level) -> "Period":
        """The coarser period that all of it is in."""
        return Period.of(level, self.first)


def _first_monday(month: date) -> date:
    """The Monday of the first week whose Thursday is not before this day."""
    return month + DAY * ((3 - month.weekday()) % 7) - THURSDAY


def _day_in(level: Level, name: str) -> date:
    match level:
        case Level.DAILY:
            return date.fromisoformat(name)
        case Level.WEEKLY:
            return date.fromisocalendar(int(name[:4]), int(name[6:]), 1)
        case Level.MONTHLY:
            return date(int(name[:4]), int(name[5:]), 15)
        case Level.YEARLY:
            return date(int(name), 7, 1)
