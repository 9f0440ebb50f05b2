"""What an author of handlers imports."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.worker.context import Context
    from actors.worker.declare import actor, resource
    from service.signals import Discard, Retry, Snooze
else:
    # Looked up when asked for: a command that runs no handler must not wait for what handlers need.
    _PLACES = {
        "Context": "actors.worker.context",
        "Discard": "service.signals",
        "Retry": "service.signals",
        "Snooze": "service.signals",
        "actor": "actors.worker.declare",
        "resource": "actors.worker.declare",
    }

    def __getattr__(name: str) -> Any:
        if name in _PLACES:
            return getattr(import_module(_PLACES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Context", "Discard", "Retry", "Snooze", "actor", "resource"]
