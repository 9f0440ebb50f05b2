"""Control messages: hints to every process."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import uuid4

from aiormq import Channel, ChannelClosed
from aiormq.abc import DeliveredMessage
from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from schemas.event import ControlMessage
from service.broker.names import Names
from service.broker.rabbitmq.address import Address
from service.broker.rabbitmq.driver import RPC_SECONDS, bounded
from service.broker.rabbitmq.feed import Feed
from service.broker.rabbitmq.link import Link
from service.broker.rabbitmq.topology import control_queue
from service.errors import BrokerUnavailable

LARGEST_BYTES = 64 * 1024


class ControlFeed:
    """This process's queue on the control exchange."""

    def __init__(
        self,
        link: Link,
        address: Address,
        names: Names,
        on_message: Callable[[ControlMessage], None],
        redeclare: Callable[[], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        self._address = address
        self._names = names
        self._on_message = on_message
        self._log = log
        self._queue = ""
        self._feed = Feed(link, address, self._subscribe, lambda: None, redeclare, log.bind(queue=names.control))

    async def open(self) -> None:
        """Subscribe. Raises BrokerUnavailable or ConfigError."""
        await self._feed.open()

    async def rebind(self) -> None:
        """Bind the queue again, after the exchange was declared again; it may be a new one. Never raises
        Unavailable."""
        channel = self._feed.channel
        if channel is not None and self._queue:
            # If the queue is gone too, this costs the channel, and the feed makes both anew.
            with suppress(BrokerUnavailable, ChannelClosed):
                await self._bind(channel)

    async def forsake(self) -> None:
        """Attach no more; the connection is about to be closed."""
        await self._feed.forsake()

    async def _subscribe(self, channel: Channel) -> str:
        # A new name each time: the broker may not have noticed yet that the owner of the last one is gone.
        self._queue = self._names.control_queue(uuid4().hex)
        declaring = channel.queue_declare(self._queue, exclusive=True, auto_delete=True, arguments=control_queue())
        await bounded(declaring, RPC_SECONDS, self._address, f"queue {self._queue!r}")
        await self._bind(channel)
        consuming = channel.basic_consume(self._queue, self._receive, no_ack=True)
        consumed = await bounded(consuming, RPC_SECONDS, self._address, f"consuming {self._queue!r}")
        assert consumed.consumer_tag is not None
        return consumed.consumer_tag

    async def _bind(self, channel: Channel) -> None:
        binding = channel.queue_bind(self._queue, self._names.control)
        await bounded(binding, RPC_SECONDS, self._address, f"binding of queue {self._queue!r}")

    async def _receive(self, message: DeliveredMessage) -> None:
        if len(message.body) > LARGEST_BYTES:
            self._log.warning("control.refused", reason="too large", size=len(message.body))
            return
        try:
            control = ControlMessage.model_validate_json(message.body)
        except ValidationError as exc:
            self._log.warning("control.refused", reason=str(exc.errors(include_input=False, include_url=False)))
            return
        self._on_message(control)
