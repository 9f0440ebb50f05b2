"""What an author of handlers imports."""

from actors.worker.context import Context
from actors.worker.declare import actor, resource
from service.signals import Discard, Retry, Snooze

__all__ = ["Context", "Discard", "Retry", "Snooze", "actor", "resource"]
