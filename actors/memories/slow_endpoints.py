"""An endpoint that swallows connections does not take every slot of a worker: while it is slow, it has a share."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from actors import Snooze

SLOW = timedelta(seconds=2)
"""A delivery that takes longer makes its endpoint slow, until one is quicker."""
SHARE = 10
"""Deliveries at once to a slow endpoint, from one worker."""
SOONEST, LATEST = 5.0, 60.0
"""Seconds until another is tried: spread, so that a thousand that wait do not come back together."""


class SlowEndpoints:
    """What one worker knows of the endpoints that it delivers to. A fast one has no limit but the slots."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()
        self._slow: set[str] = set()

    @contextmanager
    def delivery(self, url: str) -> Iterator[None]:
        """One delivery. Raises Snooze: the endpoint is slow, and has its share; that burns no attempt."""
        if url in self._slow and self._under_way[url] >= SHARE:
            raise Snooze("the endpoint is slow and has its share", after=random.uniform(SOONEST, LATEST))
        began = time.monotonic()
        self._under_way[url] += 1
        try:
            yield
        finally:
            self._under_way[url] -= 1
            if not self._under_way[url]:
                del self._under_way[url]
            if time.monotonic() - began > SLOW.total_seconds():
                self._slow.add(url)
            else:
                self._slow.discard(url)
