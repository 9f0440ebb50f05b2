"""A duty of the scheduler: one bounded unit of work, and how long until the next."""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta

NAP = timedelta(seconds=15)
"""No duty sleeps longer."""


class Duty(ABC):
    """Any number of schedulers do the same duties at once; every write compares what was read."""

    name: str

    @abstractmethod
    async def tick(self) -> timedelta:
        """Do what is due, then say how long to wait. Raises Unavailable: tried again with backoff."""

    def outage(self) -> None:
        """A tick, of this duty or of another, could not reach the store."""

    async def close(self) -> None:
        """Let go of what the duty holds; it will not tick again."""


def until(
    moment: datetime | None, now: datetime, *, shortest: timedelta = timedelta(milliseconds=5), nap: timedelta = NAP
) -> timedelta:
    """How long to wait for an instant: at least ``shortest``, at most ``nap``."""
    return nap if moment is None else min(nap, max(shortest, moment - now))
