"""For tests of what happens between two commands of a job: at the worst moment, each time."""

from collections.abc import Callable
from typing import Any

from pymongo import monitoring

_listeners: list["After"] = []


class After:
    """Calls ``action`` once, right after a command to a collection of a database has succeeded, before the job has its
    answer. ``nth``: after so many of them."""

    def __init__(
        self, database: str, command: str, collection: str, action: Callable[[], Any], *, nth: int = 1
    ) -> None:
        self._database, self._command, self._collection = database, command, collection
        self._action, self._left = action, nth
        self._asked: set[int] = set()

    @property
    def happened(self) -> bool:
        return self._left <= 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        asked = (event.database_name, event.command_name, event.command.get(event.command_name))
        if asked == (self._database, self._command, self._collection):
            self._asked.add(event.request_id)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.request_id not in self._asked:
            return
        self._asked.discard(event.request_id)
        self._left -= 1
        if self._left == 0:
            self._action()

    def __enter__(self) -> "After":
        _listeners.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _listeners.remove(self)


class _Listener(monitoring.CommandListener):
    """Registered once and for all: clients ask for listeners when they are made."""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        for each in _listeners:
            each.started(event)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        for each in _listeners:
            each.succeeded(event)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


monitoring.register(_Listener())
