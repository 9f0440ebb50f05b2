"""A circuit breaker: one bad record is skipped, many in a row mean that something larger is wrong."""

from service.errors import VergerError


class CircuitOpen(VergerError):
    """Too many failures in a row: something larger is wrong. What was done is kept; the next run goes on."""


class Breaker:
    """Counts failures one after the other; a success closes it again."""

    def __init__(self, limit: int, what: str) -> None:
        """``what`` failed, in the plural: ``"files"``."""
        self._limit, self._what = limit, what
        self._in_row = 0

    def worked(self) -> None:
        self._in_row = 0

    def failed(self, error: BaseException) -> None:
        """Raises CircuitOpen, from ``error``, when it was one too many."""
        self._in_row += 1
        if self._in_row >= self._limit:
            raise CircuitOpen(f"{self._in_row} {self._what} in a row failed, at last: {error}") from error
