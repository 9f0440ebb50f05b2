"""The names of the family's collections, and the indexes that serve its queries."""

from pymongo import ASCENDING, IndexModel

from actors.maintenance.database import Database
from schemas.base import Model


class Collections(Model):
    """A service with its own names gives them here."""

    projects: str = "projects"
    sessions: str = "sessions"
    messages: str = "messages"
    files: str = "collector_files"
    """One document a session file: how far it was read."""


async def ensure_indexes(database: Database, names: Collections) -> None:
    """Create what is missing; changes nothing otherwise.

    ``sessions`` and ``collector_files`` are only ever asked by ``_id``.
    """
    await database[names.projects].create_indexes([IndexModel([("path", ASCENDING)], name="path")])
    await database[names.messages].create_indexes(
        [
            # With ``at``, so that a session is read in order, and counted, without touching its messages.
            IndexModel([("sessionId", ASCENDING), ("at", ASCENDING)], name="session"),
            IndexModel([("indexedAt", ASCENDING), ("indexAttempts", ASCENDING), ("_id", ASCENDING)], name="unindexed"),
            IndexModel([("indexedModel", ASCENDING), ("_id", ASCENDING)], name="model"),
        ]
    )
