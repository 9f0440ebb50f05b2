"""Time for tests: a clock that is set by hand."""

from datetime import datetime, timedelta

from schemas.base import to_instant
from service.clock import StoreClock


class SettableClock(StoreClock):
    """The store's clock, moved forward by hand. Claims are dated by the server itself, so that moving it makes none
    stale."""

    def __init__(self) -> None:
        super().__init__()
        self._moved = timedelta()

    def advance(self, span: timedelta) -> None:
        """Move forward; never back."""
        if span < timedelta():
            raise ValueError(f"a clock does not go back: {span}")
        self._moved += span

    def now(self) -> datetime:
        return to_instant(super().now() + self._moved)
