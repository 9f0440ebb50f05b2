"""The maintenance of an assistant's session history."""

from actors.maintenance.database import memory
from actors.sessions.backup.job import back_up
from actors.sessions.collect import collect_sessions

__all__ = ["back_up", "collect_sessions", "memory"]
