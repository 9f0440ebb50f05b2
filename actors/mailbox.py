"""An actor's mailbox: anyone in the loop's thread puts, one takes."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Unbounded by itself: what is put is bounded by prefetch, slots, or the rate of people."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._bell = asyncio.Event()

    def put(self, item: T) -> None:
        self._items.append(item)
        self._bell.set()

    def ring(self) -> None:
        """Wake the owner although nothing was put."""
        self._bell.set()

    def take(self, most: int | None = None) -> list[T]:
        """Up to ``most`` items, oldest first; never waits."""
        if most is None or most >= len(self._items):
            items = list(self._items)
            self._items.clear()
            return items
        return [self._items.popleft() for _ in range(most)]

    def put_back(self, items: list[T]) -> None:
        """To the front, in this order."""
        self._items.extendleft(reversed(items))

    async def wait(self, seconds: float | None = None) -> None:
        """Until something is put or the bell is rung since the last wait, or the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        except TimeoutError:
            pass
        self._bell.clear()

    def __len__(self) -> int:
        return len(self._items)
