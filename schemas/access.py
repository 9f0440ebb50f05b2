"""Who may do what through the admin API, and the record of what was done."""

from enum import StrEnum
from typing import Any

from schemas.base import Instant, Model


class KeyRole(StrEnum):
    """Each may do what those before it may."""

    VIEWER = "viewer"
    """Look."""
    OPERATOR = "operator"
    """Trigger, cancel, retry, pause, resume, replay, run a schedule now."""
    ADMIN = "admin"
    """Change schedules, discard dead letters."""

    @property
    def rank(self) -> int:
        return list(KeyRole).index(self)


class Caller(Model):
    """Who asks."""

    name: str
    """Of the key; ``local`` where none is needed."""
    role: KeyRole


class AuditEntry(Model):
    """One change: who did what to what, and what it was before and after."""

    id: str
    at: Instant
    who: str
    action: str
    """``noun.verb``, such as ``schedule.replace``."""
    target: str
    """The id of what was changed."""
    before: Any = None
    after: Any = None


class AuditPage(Model):
    """Some changes, newest first."""

    entries: list[AuditEntry]
    cursor: str | None = None
    """Where the next page starts; null: there is none."""
