"""One subscription that keeps itself alive, as far as its link does."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

from aiormq import Channel, ChannelLockedResource, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.abc import AbstractConnection
from structlog.typing import FilteringBoundLogger

from service.broker.rabbitmq.address import Address
from service.broker.rabbitmq.driver import RPC_SECONDS, bounded, reason, whenever_done
from service.broker.rabbitmq.link import STABLE_SECONDS, Backoff, Link
from service.errors import BrokerUnavailable, ConfigError
from service.log_events import LogEvent

WATCH_SECONDS = 5.0
"""How often a subscription is looked at without a cause: a safety net below the causes."""
CLOSE_SECONDS = 2.0
FRAME_BUFFER = 1_000
"""Frames between the reader of the connection and that of the channel; the driver's own 10 makes them take turns."""


class Feed:
    """A channel with one consumer on it: attach, wait until the broker stops feeding it, attach again.

    It ends when its channel is closed (by a lost connection, by an error) and when the broker cancels the consumer (its
    queue was deleted, or has a new leader).
    """

    def __init__(
        self,
        link: Link,
        address: Address,
        subscribe: Callable[[Channel], Awaitable[str]],
        on_lost: Callable[[], None],
        redeclare: Callable[[], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        """``subscribe`` consumes on a fresh channel and returns the consumer's tag; ``on_lost`` follows each loss.

        ``redeclare`` makes what ``subscribe`` did not find.
        """
        self._link = link
        self._address = address
        self._subscribe = subscribe
        self._on_lost = on_lost
        self._redeclare = redeclare
        self._log = log
        self._channel: Channel | None = None
        self._tag = ""
        self._ended = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def channel(self) -> Channel | None:
        """The channel it consumes on, or after ``stop`` consumed on, unless that is known to be lost."""
        return self._channel

    @property
    def alive(self) -> bool:
        """Whether the broker feeds it, as far as this side can know."""
        return self._keeper is not None and self._attached()

    async def open(self) -> None:
        """Attach, and from now on stay attached. Raises BrokerUnavailable or ConfigError if it does not work now."""
        await self._attach(self._link.require())
        self._keeper = asyncio.create_task(self._keep(), name="broker feed")

    async def stop(self) -> None:
        """Consume no more; the channel stays, for what it delivered before."""
        await self._end_keeper()
        if self._channel is None or not self._attached():
            return
        try:
            cancelled = self._channel.basic_cancel(self._tag)
            await bounded(cancelled, CLOSE_SECONDS, self._address, "cancelling a consumer")
        except BrokerUnavailable:
            # Whether it still consumes is unknown. Without its channel it does not, and the broker delivers again.
            await self.close()

    async def close(self) -> None:
        """Consume no more, and give back what was delivered."""
        await self._end_keeper()
        await self._abandon()

    async def forsake(self) -> None:
        """Attach no more; the connection is about to be closed, and the channel with it."""
        await self._end_keeper()
        if self._channel is not None:
            self._channel = None
            self._on_lost()

    async def _end_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait((keeper,))

    def _attached(self) -> bool:
        channel = self._channel
        return channel is not None and not channel.is_closed and self._tag in channel.consumers

    async def _keep(self) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            await self._until_ended()
            if loop.time() - since > STABLE_SECONDS:
                backoff.reset()
            self._log.warning(LogEvent.CONSUMER_LOST)
            await self._abandon()
            await self._reattach(backoff)

    async def _until_ended(self) -> None:
        while self._attached():
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._ended.wait()
                return
            except TimeoutError:
                continue

    async def _abandon(self) -> None:
        """Give up the channel: what it delivered and nobody settled is delivered again, by whatever consumer."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        self._on_lost()
        await self._close(channel)

    async def _close(self, channel: Channel) -> None:
        if channel.is_closed:
            return
        closed = False
        try:
            with suppress(Exception):
                await bounded(channel.close(), CLOSE_SECONDS, self._address, "closing a channel")
                closed = True
        finally:
            if not closed:
                # It would keep what it delivered from everybody else, for as long as the connection lives.
                self._link.reset(channel.connection, "a channel could not be closed")

    async def _reattach(self, backoff: Backoff) -> None:
        while True:
            await asyncio.sleep(backoff.next())
            connection = await self._link.up()
            try:
                await self._attach(connection)
            except (BrokerUnavailable, ConfigError) as exc:
                self._log.warning(LogEvent.CONSUMER_ATTACH_FAILED, reason=str(exc))
            except Exception:
                # Whatever it is: if this loop ended, the queue would stay unread for good.
                self._log.exception(LogEvent.CONSUMER_ATTACH_CRASHED)
            else:
                self._log.info(LogEvent.CONSUMER_ATTACHED)
                return

    async def _attach(self, connection: AbstractConnection) -> None:
        try:
            await self._attach_once(connection)
        except ChannelNotFoundEntity:
            await self._redeclare()
            try:
                await self._attach_once(connection)
            except ChannelNotFoundEntity as exc:
                raise BrokerUnavailable(f"{self._address.shown}: {reason(exc)}, although it was just declared") from exc
        except (ChannelLockedResource, ChannelPreconditionFailed) as exc:
            raise ConfigError(f"{self._address.shown}: {reason(exc)}; it seems to belong to another program") from exc

    async def _attach_once(self, connection: AbstractConnection) -> None:
        opening = connection.channel(publisher_confirms=False, frame_buffer_size=FRAME_BUFFER)
        channel = cast("Channel", await bounded(opening, RPC_SECONDS, self._address, "opening a channel"))
        self._ended = ended = asyncio.Event()
        whenever_done(channel.closing, ended.set)
        channel.on_consumer_cancel_callbacks.add(lambda _: ended.set())
        self._channel = channel  # before the first delivery: it may be settled before the subscription is confirmed
        try:
            self._tag = await self._subscribe(channel)
        except BaseException:
            await self._abandon()
            raise
