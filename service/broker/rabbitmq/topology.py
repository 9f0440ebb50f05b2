"""What is declared on the broker: pure functions of names and task types, and the one place that declares it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelLockedResource, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.common import FieldTable

from service.broker.names import Names
from service.broker.port import DELAY_LADDER
from service.broker.rabbitmq.address import Address
from service.broker.rabbitmq.driver import RPC_SECONDS, bounded, reason
from service.errors import BrokerUnavailable, ConfigError

DELIVERY_LIMIT = 1_000_000
"""Requeues before the broker gives up on a message. From 4.0 on its default is 20, and -1 means unlimited; on 3.10, -1
drops at once. Each cancelled consumer requeues what it holds: a message that is perfectly well soon reaches 20."""

DEAD_LETTERS_MOST = 10_000
DEAD_LETTERS_MOST_BYTES = 256 * 1024 * 1024
DEAD_LETTERS_OLDEST = timedelta(days=30)

CONTROL_MOST = 1_000
EVENTS_MOST = 10_000

DECLARING_CHANNELS = 4
"""A quorum queue takes up to 0.1 s to declare, and a channel declares one after the other."""


@dataclass(frozen=True)
class Exchange:
    name: str
    kind: str
    arguments: FieldTable = field(default_factory=dict)


@dataclass(frozen=True)
class Queue:
    """A durable queue."""

    name: str
    arguments: FieldTable


@dataclass(frozen=True)
class Binding:
    queue: str
    exchange: str
    key: str = ""


@dataclass(frozen=True)
class Topology:
    """Everything that outlives a process."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


def quorum_queue(dead_letter_exchange: str) -> FieldTable:
    """Arguments of a queue that loses nothing: what expires or exceeds the delivery limit goes on, at least once.

    That needs ``reject-publish``: with the default overflow, the broker silently falls back to at most once. No
    ``x-expires`` anywhere: it throws away what a queue holds, and is not renewed by declaring the queue again.
    """
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": dead_letter_exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def task_queue(names: Names) -> FieldTable:
    return quorum_queue(names.intake) | {"x-delivery-limit": DELIVERY_LIMIT}


def intake_queue(names: Names) -> FieldTable:
    """Its own way out is the dead-letter exchange: there is no other queue that someone reads."""
    return quorum_queue(names.dead) | {"x-delivery-limit": DELIVERY_LIMIT}


def delay_queue(names: Names, step: timedelta) -> FieldTable:
    """One time to live for the whole queue, so that nothing waits behind something slower; the routing key is kept."""
    return quorum_queue(names.tasks) | {"x-message-ttl": _milliseconds(step)}


def dead_letter_queue() -> FieldTable:
    """The one queue that drops, and from its head: it holds copies for whoever looks, the store holds the dead letters.

    Were it to reject when it is full, a queue that nobody reads would in the end keep every new dead letter from being
    confirmed, and relay would try for ever.
    """
    return {
        "x-queue-type": "quorum",
        "x-overflow": "drop-head",
        "x-max-length": DEAD_LETTERS_MOST,
        "x-max-length-bytes": DEAD_LETTERS_MOST_BYTES,
        "x-message-ttl": _milliseconds(DEAD_LETTERS_OLDEST),
        "x-delivery-limit": DELIVERY_LIMIT,
    }


def control_queue() -> FieldTable:
    """Named, since a virtual host may have another default. Hints grow old: a process that hangs keeps the newest."""
    return {"x-queue-type": "classic", "x-max-length": CONTROL_MOST, "x-overflow": "drop-head"}


def event_queue() -> FieldTable:
    """Of one listener: one that is too slow loses the oldest, and costs the broker no more than this."""
    return {"x-queue-type": "classic", "x-max-length": EVENTS_MOST, "x-overflow": "drop-head"}


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def topology(names: Names, types: Mapping[str, Sequence[str]]) -> Topology:
    """All that is durable, for these task types and their aliases."""
    delays = [(names.delay(step), delay_queue(names, step)) for step in DELAY_LADDER]
    return Topology(
        exchanges=(
            Exchange(names.intake, "fanout"),
            Exchange(names.tasks, "direct", {"alternate-exchange": names.intake}),
            Exchange(names.dead, "topic"),
            Exchange(names.events, "topic"),
            Exchange(names.control, "fanout"),
            *(Exchange(name, "fanout") for name, _ in delays),
        ),
        queues=(
            Queue(names.intake, intake_queue(names)),
            Queue(names.dead_letters, dead_letter_queue()),
            *(Queue(names.queue(task_type), task_queue(names)) for task_type in types),
            *(Queue(name, arguments) for name, arguments in delays),
        ),
        bindings=(
            Binding(names.intake, names.intake),
            Binding(names.dead_letters, names.dead, "#"),
            *(
                Binding(names.queue(task_type), names.tasks, key)
                for task_type, aliases in types.items()
                for key in dict.fromkeys((task_type, *aliases))
            ),
            *(Binding(name, name) for name, _ in delays),
        ),
    )


async def declare(connection: AbstractConnection, wanted: Topology, address: Address) -> None:
    """Declare what is missing; repeats quietly what exists.

    Raises ConfigError when something exists with other arguments or permissions are missing, else BrokerUnavailable.
    """
    await _on_channels(
        connection, address, 1, [(f"exchange {each.name!r}", _declaring_exchange(each)) for each in wanted.exchanges]
    )
    await _on_channels(
        connection,
        address,
        DECLARING_CHANNELS,
        [(f"queue {each.name!r}", _declaring_queue(each)) for each in wanted.queues],
    )
    await _on_channels(
        connection, address, 1, [(f"binding of queue {each.queue!r}", _binding(each)) for each in wanted.bindings]
    )


_Step = Callable[[AbstractChannel], Awaitable[object]]


def _declaring_exchange(exchange: Exchange) -> _Step:
    return lambda channel: channel.exchange_declare(
        exchange.name, exchange_type=exchange.kind, durable=True, arguments=exchange.arguments
    )


def _declaring_queue(queue: Queue) -> _Step:
    return lambda channel: channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)


def _binding(binding: Binding) -> _Step:
    return lambda channel: channel.queue_bind(binding.queue, binding.exchange, binding.key)


async def _on_channels(
    connection: AbstractConnection, address: Address, channels: int, steps: Sequence[tuple[str, _Step]]
) -> None:
    """Take the steps, on throw-away channels: a refused declaration closes its channel."""
    left = deque(steps)

    async def work_off() -> None:
        channel = await bounded(connection.channel(publisher_confirms=False), RPC_SECONDS, address, "opening a channel")
        try:
            while left:
                what, step = left.popleft()
                await _step(channel, step, what, address)
        except BaseException:
            left.clear()  # the other channels need not go on
            raise
        await bounded(channel.close(), RPC_SECONDS, address, "closing a channel")

    outcomes = await asyncio.gather(*(work_off() for _ in range(min(channels, len(steps)))), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _step(channel: AbstractChannel, step: _Step, what: str, address: Address) -> None:
    try:
        await bounded(step(channel), RPC_SECONDS, address, what)
    except ChannelPreconditionFailed as exc:
        raise ConfigError(
            f"{what} exists at {address.shown} with other arguments ({reason(exc)}); delete it once it is empty, "
            "or set another VERGER_PREFIX"
        ) from exc
    except ChannelLockedResource as exc:
        raise ConfigError(
            f"{what} exists at {address.shown} and belongs to another connection ({reason(exc)}); delete it, "
            "or set another VERGER_PREFIX"
        ) from exc
    except ChannelNotFoundEntity as exc:
        # Deleted again by someone between two of our steps.
        raise BrokerUnavailable(f"{address.shown}: {reason(exc)}: {what}") from exc
