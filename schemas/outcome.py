"""How a run can end: the handler's answer, before ``service/states.py`` makes a state of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from schemas.task import TaskError


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned."""

    result: Any = None
    note: str | None = None
    """A line for the history, such as why the result could not be kept."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or its time was up."""

    error: TaskError
    delay: timedelta | None
    """Until the next attempt; None: no attempt can help, a dead letter."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Snoozed:
    """Again at ``until``; burns no attempt."""

    until: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The worker gives the claim back unfinished; burns no attempt."""

    reason: str


@dataclass(frozen=True, slots=True)
class Discarded:
    """The handler says the task is not worth doing: it ends cancelled, and is no dead letter."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Someone asked, and the handler stopped."""

    reason: str


Outcome = Completed | Failed | Snoozed | Released | Discarded | Cancelled
