"""The driver's calls, bounded in time and with its errors in our words."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiormq import exceptions as amqp
from aiormq.abc import AbstractConnection
from pamqp.exceptions import PAMQPException

from service.broker.rabbitmq.address import Address
from service.errors import BrokerUnavailable, ConfigError, VergerError

RPC_SECONDS = 10.0
"""How long one question to the broker may take: the declaration of a quorum queue on a busy cluster takes seconds."""

T = TypeVar("T")


async def bounded(work: Awaitable[T], seconds: float, address: Address, what: str) -> T:
    """Await a call of the driver.

    Raises BrokerUnavailable when it fails, or has no answer in time, and ConfigError when credentials or permissions
    are wrong. A 404, 405 or 406 is passed on as the driver's, since only the caller knows what it means.

    When a connection ends, the driver cancels what waits on it. Awaited directly, that would look like a cancellation
    of ours; as a task of its own it can be told apart.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        if not task.done():
            # Not awaited: the driver's way out may wait for a frozen broker. It ends with the connection.
            task.add_done_callback(_retrieve)
            task.cancel()
    if not task.done():
        raise BrokerUnavailable(f"{address.shown} did not answer within {seconds:g} s: {what}")
    if task.cancelled():
        raise BrokerUnavailable(f"the connection to {address.shown} was lost: {what}")
    error = task.exception()
    if error is None:
        return task.result()
    raise _translated(error, address, what) from error


def _retrieve(task: "asyncio.Future[T]") -> None:
    if not task.cancelled():
        task.exception()


def _translated(error: BaseException, address: Address, what: str) -> BaseException:
    match error:
        case VergerError():
            return error
        case amqp.ProbableAuthenticationError() | amqp.AuthenticationError():
            return ConfigError(f"{address.shown} refuses the user {address.user!r}; correct VERGER_AMQP_URL")
        case amqp.InvalidFrameError() if "Connection.OpenOk" in reason(error):
            # The driver does not pass on why the broker closes the connection when it is asked for the virtual host.
            return ConfigError(
                f"{address.shown} does not let {address.user!r} into the virtual host; correct VERGER_AMQP_URL, "
                "or create the virtual host and grant the user access to it"
            )
        case amqp.ChannelAccessRefused():
            return ConfigError(
                f"{address.shown}: {reason(error)}; grant {address.user!r} configure, write and read permissions"
            )
        case amqp.ChannelNotFoundEntity() | amqp.ChannelPreconditionFailed() | amqp.ChannelLockedResource():
            return error
        case amqp.ConnectionInternalError():
            return BrokerUnavailable(f"{address.shown}: {reason(error)} (the broker's log says why): {what}")
        case amqp.AMQPError() | OSError() | TimeoutError() | RuntimeError() | PAMQPException() | EOFError():
            # RuntimeError is the driver's "closed".
            return BrokerUnavailable(f"{address.shown}: {reason(error)}: {what}")
        case _:
            return error


def reason(error: BaseException) -> str:
    """What the broker or the network said, without the driver's wrapping."""
    said = ", ".join(str(part) for part in error.args if part)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def whenever_done(future: "asyncio.Future[T]", then: Callable[[], None]) -> None:
    """Call ``then`` when the future is done, however it ends."""
    future.add_done_callback(lambda _: then())


def is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has told this connection to publish nothing (a resource alarm).

    The driver has no such property, only a coroutine that waits for the opposite: does it end without waiting?
    """
    waiting = connection.ready()
    try:
        waiting.send(None)
    except StopIteration:
        return False
    waiting.close()
    return True
