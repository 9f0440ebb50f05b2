"""A queue of this process's own behind an exchange: what was sent while it was lost is missed."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import uuid4

from aiormq import Channel, ChannelClosed
from aiormq.abc import DeliveredMessage
from pamqp.common import FieldTable
from structlog.typing import FilteringBoundLogger

from service.broker.rabbitmq.address import Address
from service.broker.rabbitmq.driver import RPC_SECONDS, bounded
from service.broker.rabbitmq.feed import Feed
from service.broker.rabbitmq.link import Link
from service.errors import BrokerUnavailable


class Listener:
    """Exclusive, deleted with its connection, read without acknowledgements."""

    def __init__(
        self,
        link: Link,
        address: Address,
        exchange: str,
        key: str,
        name: Callable[[str], str],
        arguments: FieldTable,
        on_body: Callable[[bytes], None],
        on_lost: Callable[[], None],
        redeclare: Callable[[], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        """``name`` makes the queue's name of a random token; ``on_lost`` follows each interruption."""
        self._address = address
        self._exchange, self._key, self._name, self._arguments = exchange, key, name, arguments
        self._on_body, self._on_lost = on_body, on_lost
        self._queue = ""
        self._listening = False
        self._feed = Feed(link, address, self._subscribe, self._lost, redeclare, log.bind(queue=exchange))

    async def open(self) -> None:
        """Subscribe. Raises BrokerUnavailable or ConfigError."""
        await self._feed.open()
        self._listening = True  # what fails before is no interruption

    async def rebind(self) -> None:
        """Bind the queue again, after the exchange was declared again; it may be a new one. Never raises
        Unavailable."""
        channel = self._feed.channel
        if channel is not None and self._queue:
            # If the queue is gone too, this costs the channel, and the feed makes both anew.
            with suppress(BrokerUnavailable, ChannelClosed):
                await self._bind(channel)

    async def close(self) -> None:
        """Listen no more; the queue goes with its only consumer."""
        self._listening = False
        await self._feed.close()

    async def forsake(self) -> None:
        """Attach no more; the connection is about to be closed."""
        self._listening = False
        await self._feed.forsake()

    def _lost(self) -> None:
        if self._listening:
            self._on_lost()

    async def _subscribe(self, channel: Channel) -> str:
        # A new name each time: the broker may not have noticed yet that the owner of the last one is gone.
        self._queue = self._name(uuid4().hex)
        declaring = channel.queue_declare(self._queue, exclusive=True, auto_delete=True, arguments=self._arguments)
        await bounded(declaring, RPC_SECONDS, self._address, f"queue {self._queue!r}")
        await self._bind(channel)
        consuming = channel.basic_consume(self._queue, self._receive, no_ack=True)
        consumed = await bounded(consuming, RPC_SECONDS, self._address, f"consuming {self._queue!r}")
        assert consumed.consumer_tag is not None
        return consumed.consumer_tag

    async def _bind(self, channel: Channel) -> None:
        binding = channel.queue_bind(self._queue, self._exchange, self._key)
        await bounded(binding, RPC_SECONDS, self._address, f"binding of queue {self._queue!r}")

    async def _receive(self, message: DeliveredMessage) -> None:
        self._on_body(message.body)
