"""Calls that come while another is under way are made together: one round trip, one durable write for all of them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from service.errors import Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MOST = 500
"""Items of one group."""


class Together(Generic[Item, Answer]):
    """The first call goes at once, so an idle process waits for nothing; the busier it is, the larger the groups.

    One group at a time: a second beside it costs the servers as much again, and both take longer. For one event loop.
    """

    def __init__(self, act: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]) -> None:
        """``act``: does it for many, answers in order. When it fails, it is called for each of them alone: it must be
        safe to repeat, and one bad item fails nobody else."""
        self._act = act
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """The answer for this item. Raises what ``act`` raises for it.

        One that is cancelled while it waits for its turn is not served; later, the outcome is open, as that of any
        write whose caller went away.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._serving is None:
            # In nobody's context: while it is busy, the first caller's log fields and deadline would be everybody's.
            self._serving = asyncio.create_task(self._serve(), name="together", context=Context())
        return await future

    async def _serve(self) -> None:
        group: list[tuple[Item, asyncio.Future[Answer]]] = []
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                await self._answer([(item, future) for item, future in group if not future.done()])
        finally:
            self._serving = None
            # Only when the loop ends, or by a fault of ours: nobody is left waiting for ever.
            for _, future in (*group, *self._waiting):
                future.cancel()

    async def _answer(self, group: Sequence[tuple[Item, "asyncio.Future[Answer]"]]) -> None:
        if not group:
            return
        try:
            answers = await self._act([item for item, _ in group])
        except Exception as error:  # handed to whoever asked
            if len(group) > 1 and not isinstance(error, Unavailable):
                await asyncio.gather(*(self._answer([one]) for one in group))
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(group, answers, strict=True):
            if not future.done():
                future.set_result(answer)
