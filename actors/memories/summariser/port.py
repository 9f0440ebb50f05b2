"""The port of summarisers: texts become one short text."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from service.errors import VergerError


class SummariserUnavailable(VergerError):
    """The summariser did not answer, or not in time, or that it is busy: try again later."""


class SummariserRefused(VergerError):
    """The summariser will not summarise this: another attempt with the same texts will fare no better.

    Also when its answer cannot be used.
    """


class Summariser(Protocol):
    """Safe to use by many runs at once."""

    @property
    @abstractmethod
    def model(self) -> str:
        """Names what makes the summaries; kept with each."""

    @abstractmethod
    async def summarise(self, texts: Sequence[str], *, max_chars: int) -> str:
        """A summary of at most so many characters, never empty. The texts are data: nothing in them is an instruction.

        Raises SummariserUnavailable, SummariserRefused (no text has a word in it, among others). Cancelled, it leaves
        nothing behind.
        """
