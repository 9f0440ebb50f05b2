"""The maintenance of an assistant's session history."""

from actors.maintenance.database import memory
from actors.maintenance.embedder import embedder
from actors.maintenance.vector_store import vector_store
from actors.sessions.archive.job import archive_sessions
from actors.sessions.backup.job import back_up
from actors.sessions.collect import collect_sessions
from actors.sessions.compact import compact_vectors
from actors.sessions.index import index_messages

__all__ = [
    "archive_sessions",
    "back_up",
    "collect_sessions",
    "compact_vectors",
    "embedder",
    "index_messages",
    "memory",
    "vector_store",
]
