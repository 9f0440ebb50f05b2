"""Time is a port: ``now()`` is the store's time, ``monotonic()`` measures durations."""

import time
from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Protocol

from schemas.base import to_instant

SLOW_SECONDS = 1.0
"""An answer that took longer does not move the clock."""
_UPTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC_RAW)
"""Linux stops its monotonic clocks while the machine is suspended, and has one that goes on; those of macOS go on."""


def uptime() -> float:
    """Seconds since some moment, also those for which the machine was suspended; never goes back."""
    return time.clock_gettime(_UPTIME)


def suspended() -> float:
    """For how many seconds the machine has been suspended, plus a constant: what grows was a suspension."""
    return uptime() - time.monotonic()


class Clock(Protocol):
    """What everything that asks for the time asks."""

    @abstractmethod
    def now(self) -> datetime:
        """Aware UTC, whole milliseconds."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds since some moment, also those for which the machine was suspended; never goes back."""


class SystemClock(Clock):
    """This machine's clock."""

    def now(self) -> datetime:
        return to_instant(datetime.now(UTC))

    def monotonic(self) -> float:
        return uptime()


class StoreClock(Clock):
    """The store's time, carried forward by this machine's monotonic clock between two looks at the server.

    A worker whose own clock is ten minutes wrong decides like every other, and so does one whose machine was suspended;
    until the first look it is the system clock.
    """

    def __init__(self) -> None:
        # One tuple, so that a heartbeat's thread replaces both halves at once.
        self._anchor = (datetime.now(UTC), uptime())
        self._set = False
        self.offset = timedelta()
        """The store's time minus this machine's, at the last look."""

    def set_from(self, server_time: datetime, asked_at: float, answered_at: float) -> None:
        """Anchor to a server time whose question left and whose answer came at these monotonic seconds.

        A slow answer says little of when the server looked at its clock: the last quick one stands.
        """
        if self._set and answered_at - asked_at > SLOW_SECONDS:
            return
        # The answer is at most half a round trip old (the same assumption as NTP's).
        self._anchor = (server_time.astimezone(UTC), (asked_at + answered_at) / 2)
        self._set = True
        self.offset = self._exactly() - datetime.now(UTC)

    def _exactly(self) -> datetime:
        anchor, at = self._anchor
        return anchor + timedelta(seconds=uptime() - at)

    def now(self) -> datetime:
        return to_instant(self._exactly())

    def monotonic(self) -> float:
        return uptime()
