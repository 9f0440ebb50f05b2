"""The maintenance of an assistant's session history."""

from actors.sessions.backup.job import back_up
from actors.sessions.collect import collect_sessions
from actors.sessions.database import memory

__all__ = ["back_up", "collect_sessions", "memory"]
