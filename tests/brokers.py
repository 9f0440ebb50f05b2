"""What the tests of the brokers stand on: an inbox, a log that can be waited for, and a client that is not ours."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pika
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from service.broker.port import Delivery

SECONDS = 60.0
"""How long anything may take before a test gives up."""

T = TypeVar("T")


class Inbox:
    """What ``on_delivery`` is given."""

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.waiting.append(delivery)
        self._arrived.set()

    async def take(self, count: int = 1, seconds: float = SECONDS) -> list[Delivery]:
        """The next ``count`` deliveries."""
        async with asyncio.timeout(seconds):
            while len(self.waiting) < count:
                self._arrived.clear()
                await self._arrived.wait()
        taken, self.waiting[:] = self.waiting[:count], self.waiting[count:]
        return taken

    async def one(self, seconds: float = SECONDS) -> Delivery:
        return (await self.take(1, seconds))[0]


@dataclass
class Line:
    event: str
    fields: EventDict
    at: float


@dataclass
class LogBook:
    """A logger whose lines can be read and waited for."""

    lines: list[Line] = field(default_factory=list)
    _written: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def logger(self) -> FilteringBoundLogger:
        wrapper = structlog.make_filtering_bound_logger(0)
        logger: FilteringBoundLogger = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[self._write], wrapper_class=wrapper, context_class=dict
        )
        return logger

    def _write(self, _logger: Any, method: str, event: EventDict) -> EventDict:
        fields = dict(event)
        self.lines.append(Line(fields.pop("event"), {"level": method} | fields, time.monotonic()))
        self._written.set()
        return event

    def find(self, event: str, **fields: Any) -> list[Line]:
        """The lines of this name whose fields include these."""
        return [each for each in self.lines if each.event == event and each.fields.items() >= fields.items()]

    async def wait(self, event: str, count: int = 1, seconds: float = SECONDS, **fields: Any) -> Line:
        """The ``count``-th such line."""
        async with asyncio.timeout(seconds):
            while len(found := self.find(event, **fields)) < count:
                self._written.clear()
                await self._written.wait()
        return found[count - 1]


async def eventually(question: Callable[[], Awaitable[T]], wanted: T, seconds: float = SECONDS) -> None:
    """Ask until the answer is the wanted one: for what sends no event."""
    deadline = time.monotonic() + seconds
    while (answer := await question()) != wanted:
        assert time.monotonic() < deadline, f"still {answer!r}, not {wanted!r}"
        await asyncio.sleep(0.02)


@contextmanager
def foreign_channel(url: str) -> Iterator[Any]:
    """A channel of pika's, as any program on the wire would open one; blocking."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


async def foreign(url: str, act: Callable[[Any], T]) -> T:
    """Do something with a foreign channel, beside the loop."""

    def run() -> T:
        with foreign_channel(url) as channel:
            return act(channel)

    return await asyncio.to_thread(run)


def task_properties(headers: Mapping[str, Any] | None = None, **others: Any) -> pika.BasicProperties:
    """What the documentation asks publishers to set."""
    return pika.BasicProperties(content_type="application/json", delivery_mode=2, headers=dict(headers or {}), **others)
