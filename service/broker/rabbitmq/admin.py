"""Questions to the broker, and the repair of what someone deleted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from aiormq import Channel, ChannelNotFoundEntity
from aiormq.abc import AbstractConnection

from service.broker.rabbitmq.address import Address
from service.broker.rabbitmq.driver import bounded
from service.broker.rabbitmq.link import Link
from service.errors import BrokerUnavailable

ASK_SECONDS = 5.0
REDECLARE_EVERY_SECONDS = 1.0

T = TypeVar("T")


class Admin:
    """Asks one question at a time, on a channel that is replaced whenever one fails: most failures cost it."""

    def __init__(self, link: Link, address: Address, declare: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        """``declare`` declares everything on a connection."""
        self._link = link
        self._address = address
        self._declare = declare
        self._channel: Channel | None = None
        self._asking = asyncio.Lock()
        self._declaring = asyncio.Lock()
        self._declared_at: float | None = None

    async def ping(self) -> None:
        """A round trip. Raises BrokerUnavailable."""
        await self._ask("ping", lambda channel: channel.basic_qos(prefetch_count=0))

    async def look(self, queue: str) -> tuple[int, int] | None:
        """How many messages are ready in this queue, and how many consume it; None if there is no such queue.

        Raises BrokerUnavailable.
        """
        try:
            found = await self._ask(f"queue {queue!r}", lambda channel: channel.queue_declare(queue, passive=True))
        except ChannelNotFoundEntity:
            return None
        return found.message_count or 0, found.consumer_count or 0

    async def redeclare(self) -> None:
        """Declare everything anew, but not twice a second: many may notice the same loss.

        Raises BrokerUnavailable or ConfigError.
        """
        async with self._declaring:
            now = asyncio.get_running_loop().time()
            if self._declared_at is None or now - self._declared_at >= REDECLARE_EVERY_SECONDS:
                await self._declare(self._link.require())
                self._declared_at = now

    async def _ask(self, what: str, question: Callable[[Channel], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(ASK_SECONDS), self._asking:
                channel, self._channel = await self._open_channel(), None
                answer = await bounded(question(channel), ASK_SECONDS, self._address, what)
                self._channel = channel
                return answer
        except TimeoutError as exc:
            raise BrokerUnavailable(f"{self._address.shown} did not answer within {ASK_SECONDS:g} s: {what}") from exc

    async def _open_channel(self) -> Channel:
        connection = self._link.require()
        channel = self._channel
        if channel is not None and channel.connection is connection and not channel.is_closed:
            return channel
        opening = connection.channel(publisher_confirms=False)
        return cast("Channel", await bounded(opening, ASK_SECONDS, self._address, "opening a channel"))
