"""The maintenance of an assistant's session history."""

from actors.sessions.collect import collect_sessions
from actors.sessions.database import memory

__all__ = ["collect_sessions", "memory"]
