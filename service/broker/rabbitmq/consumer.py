"""Consuming a queue: deliveries handed over synchronously, settled in batches.

Straight on the driver's channel, and deliveries before it reads them (``tap``): aio-pika would make an object with
thirty attributes of each message, and wait for the socket at each acknowledgement.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from aiormq import Channel
from aiormq.abc import ChannelFrame, DeliveredMessage
from structlog.typing import FilteringBoundLogger

from service.broker.port import Consumer, Delivery
from service.broker.rabbitmq.address import Address
from service.broker.rabbitmq.driver import RPC_SECONDS, bounded
from service.broker.rabbitmq.feed import Feed
from service.broker.rabbitmq.link import Link
from service.broker.rabbitmq.tap import Arrival
from service.broker.rabbitmq.wire import acknowledgement, requeue
from service.clock import Clock
from service.log_events import LogEvent

SETTLE_SECONDS = 5.0
"""How long an acknowledgement may wait to be written."""
LARGEST_PREFETCH = 2_000
"""A quorum queue gives no more."""


class _Tag(NamedTuple):
    """Tags count per channel: the same number on another channel is another message."""

    channel: Channel
    number: int


class RabbitConsumer(Consumer):
    """One subscription to one queue, on a channel of its own."""

    def __init__(
        self,
        link: Link,
        address: Address,
        queue: tuple[str, str],
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        redeclare: Callable[[], Awaitable[None]],
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        """``queue``: its name in deliveries, and that on the broker. ``redeclare`` makes it when it is gone."""
        self._link = link
        self._address = address
        self._queue, self._queue_name = queue
        self._prefetch = min(prefetch, LARGEST_PREFETCH)
        self._on_delivery = on_delivery
        self._clock = clock
        self._held: dict[int, None] = {}
        """What is neither acked nor requeued, in the order of delivery."""
        self._settling = asyncio.Lock()
        self._stopped = False
        self._closing: asyncio.Task[None] | None = None
        self._log = log.bind(queue=self._queue_name)
        self._stop_listening: Callable[[], None] = lambda: None
        self._feed = Feed(link, address, self._subscribe, self._lost, redeclare, self._log)

    @property
    def alive(self) -> bool:
        return self._feed.alive

    @property
    def finished(self) -> bool:
        """Whether it takes no more and has nothing in hand any more."""
        return self._stopped and not self._held

    async def open(self) -> None:
        """Subscribe. Raises BrokerUnavailable or ConfigError."""
        await self._feed.open()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, acknowledgement)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, requeue)

    async def cancel(self) -> None:
        if not self._stopped:
            await self._feed.stop()
            self._stopped = True
            self._close_if_finished()

    async def forsake(self) -> None:
        """Attach no more; the connection is about to be closed."""
        self._stopped = True
        if self._closing is not None:
            self._closing.cancel()
            await asyncio.wait((self._closing,))
        await self._feed.forsake()

    async def _subscribe(self, channel: Channel) -> str:
        limiting = channel.basic_qos(prefetch_count=self._prefetch)
        await bounded(limiting, RPC_SECONDS, self._address, "limiting the prefetch")
        tap = self._link.tap(channel.connection)
        tap.listen(channel.number, partial(self._deliver, channel))
        self._stop_listening = partial(tap.ignore, channel.number)
        consuming = channel.basic_consume(self._queue_name, _left_to_the_broker)
        consumed = await bounded(consuming, RPC_SECONDS, self._address, f"consuming {self._queue_name!r}")
        assert consumed.consumer_tag is not None
        return consumed.consumer_tag

    def _lost(self) -> None:
        self._stop_listening()
        self._held.clear()

    def _deliver(self, channel: Channel, arrival: Arrival) -> None:
        if channel is not self._feed.channel:
            return
        self._held[arrival.tag] = None
        delivery = Delivery(
            body=arrival.body,
            headers=arrival.headers,
            routing_key=arrival.routing_key,
            message_id=arrival.message_id,
            content_type=arrival.content_type,
            queue=self._queue,
            received_at=self._clock.monotonic(),
            tag=_Tag(channel, arrival.tag),
        )
        try:
            self._on_delivery(delivery)
        except Exception:
            self._log.exception(LogEvent.CONSUMER_CALLBACK_FAILED)  # it is in nobody's hand now, until the channel ends

    async def _settle(self, deliveries: Sequence[Delivery], frame: "_Frame") -> None:
        if not deliveries:
            return
        # In turn: "all up to 5" must not be overtaken by "all up to 6" of someone who means only the sixth.
        async with self._settling:
            channel = self._feed.channel
            if channel is None:
                return
            numbers = {delivery.tag.number for delivery in deliveries if delivery.tag.channel is channel}
            await self._write(channel, *self._take(numbers), frame)
        self._close_if_finished()

    def _take(self, numbers: set[int]) -> tuple[int | None, list[int]]:
        """What one "all up to" covers, and the rest. To settle twice, or what is not held, would cost the channel."""
        up_to = None
        for number in self._held:
            if number not in numbers:
                break
            up_to = number
        singles = sorted(number for number in numbers if number in self._held and number > (up_to or 0))
        for number in numbers:
            self._held.pop(number, None)
        return up_to, singles

    async def _write(self, channel: Channel, up_to: int | None, singles: Sequence[int], frame: "_Frame") -> None:
        frames = [] if up_to is None else [frame(channel.number, up_to, multiple=True)]
        frames += [frame(channel.number, number, multiple=False) for number in singles]
        if not frames or channel.is_closed:
            return  # closed: the broker delivers again
        try:
            # All in one write; the driver's own calls would wait in turn for each.
            async with asyncio.timeout(SETTLE_SECONDS):
                await channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))
        except TimeoutError:
            self._link.reset(channel.connection, "an acknowledgement could not be written")
        except BaseException:
            # Cut off half-way; the broker would wait for what is no longer held.
            self._link.reset(channel.connection, "an acknowledgement was cut off")
            raise

    def _close_if_finished(self) -> None:
        if self.finished and self._closing is None and self._feed.channel is not None:
            self._closing = asyncio.create_task(self._feed.close(), name="broker consumer closing")


_Frame = Callable[..., bytes]


async def _left_to_the_broker(_: DeliveredMessage) -> None:
    """What comes while nobody listens any more: the channel is being closed, and the broker delivers again."""
