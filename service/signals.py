"""What a handler may raise to steer its task; control flow, not failures in the log."""

from datetime import datetime, timedelta

from schemas.duration import parse_duration
from service.states import LONGEST_WAIT


def _span(value: timedelta | str | float) -> timedelta:
    if isinstance(value, str):
        value = parse_duration(value)
    span = value if isinstance(value, timedelta) else timedelta(seconds=value)
    return max(timedelta(), min(span, LONGEST_WAIT))


class Signal(Exception):
    """Root of the three."""


class Retry(Signal):
    """This attempt failed; try again, after ``after`` (seconds, ``"10m"`` or a timedelta) if given, else as the policy
    says."""

    def __init__(self, reason: str = "", *, after: timedelta | str | float | None = None) -> None:
        super().__init__(reason)
        self.after = None if after is None else _span(after)


class Snooze(Signal):
    """Not now: run again at ``until``, or after ``after``; burns no attempt."""

    def __init__(
        self, reason: str = "", *, until: datetime | None = None, after: timedelta | str | float | None = None
    ) -> None:
        if (until is None) == (after is None):
            raise ValueError("give Snooze either until or after")
        if until is not None and until.tzinfo is None:
            raise ValueError("Snooze(until=…) needs a time zone")
        super().__init__(reason)
        self.until, self.after = until, None if after is None else _span(after)


class Discard(Signal):
    """Not worth doing: the task ends cancelled, with this reason; no dead letter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
