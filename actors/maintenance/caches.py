"""In-memory caches of this worker that let go of what is stale when they are told.

    with caches.registered("titles", titles.drop_stale):
        yield titles

Whoever keeps one registers it, best in the resource that opens it. ``graph.cache_cleanup`` tells every worker by the
control message ``evict``, which is a hint: a cache must bound itself too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from service.log_events import LogEvent

log = structlog.get_logger()

Evict = Callable[[], int]
"""Lets go of what is stale; how many entries that were. Called in the event loop's thread: it must not block."""

_registered: list[tuple[str, Evict]] = []


@contextmanager
def registered(name: str, callback: Evict) -> Iterator[None]:
    """Inside, ``callback`` is told. Several caches may have one name."""
    entry = (name, callback)
    _registered.append(entry)
    try:
        yield
    finally:
        _registered.remove(entry)


def evict(name: str | None = None) -> None:
    """Tell the caches of this name, or all. One that fails does not keep the others from it."""
    for each, callback in _registered:
        if name not in (None, each):
            continue
        try:
            entries = callback()
        except Exception:
            # Whatever a stranger's cache raises: the worker goes on.
            log.exception(LogEvent.CACHE_FAILED, cache=each)
        else:
            log.info(LogEvent.CACHE_EVICTED, cache=each, entries=entries)
