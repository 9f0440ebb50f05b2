"""Time is a port: ``now()`` is the store's time, ``monotonic()`` measures durations."""

import time
from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Protocol

from schemas.base import to_instant


class Clock(Protocol):
    """What everything that asks for the time asks."""

    @abstractmethod
    def now(self) -> datetime:
        """Aware UTC, whole milliseconds."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""


class SystemClock(Clock):
    """This machine's clock."""

    def now(self) -> datetime:
        return to_instant(datetime.now(UTC))

    def monotonic(self) -> float:
        return time.monotonic()


class StoreClock(Clock):
    """The store's time, carried forward by this machine's monotonic clock between two looks at the server.

    A worker whose own clock is ten minutes wrong decides like every other; until the first look it is the system clock.
    """

    def __init__(self) -> None:
        self._anchor = datetime.now(UTC)
        self._anchored_at = time.monotonic()
        self.offset = timedelta()
        """The store's time minus this machine's, at the last look."""

    def set_from(self, server_time: datetime, asked_at: float, answered_at: float) -> None:
        """Anchor to a server time whose question left and whose answer came at these monotonic seconds."""
        # The answer is at most half a round trip old (the same assumption as NTP's).
        self._anchored_at = (asked_at + answered_at) / 2
        self._anchor = server_time.astimezone(UTC)
        age = timedelta(seconds=time.monotonic() - self._anchored_at)
        self.offset = self._anchor + age - datetime.now(UTC)

    def now(self) -> datetime:
        return to_instant(self._anchor + timedelta(seconds=time.monotonic() - self._anchored_at))

    def monotonic(self) -> float:
        return time.monotonic()
