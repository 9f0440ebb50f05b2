"""One connection that keeps itself alive.

There are two states, up and not up, and one loop: connect, make ready, wait until the connection is lost, drop it,
again. Whatever goes wrong ends in the same place, so that there is nothing to restore piece by piece. (aio-pika's
RobustConnection restores each channel, queue and consumer by itself; what it cannot restore at once, it leaves dead
while the connection lives, and it waits a fixed 5 s between attempts.)
"""

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import aio_pika
from aiormq import TransportFactory
from aiormq.abc import AbstractConnection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory
from structlog.typing import FilteringBoundLogger
from yarl import URL

from service.broker.rabbitmq.address import Address
from service.broker.rabbitmq.driver import bounded, whenever_done
from service.broker.rabbitmq.tap import Tap
from service.errors import BrokerUnavailable, ConfigError
from service.log_events import LogEvent

CONNECT_SECONDS = 5.0
READY_SECONDS = 30.0
CLOSE_SECONDS = 1.0
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
STABLE_SECONDS = 10.0
"""A connection that lived this long has earned a quick first attempt."""
OLDEST_BROKER = (3, 10)


class Backoff:
    """Growing waits with jitter, so that the processes of an installation do not come back in step."""

    def __init__(self) -> None:
        self._attempts = 0

    def reset(self) -> None:
        self._attempts = 0

    def next(self) -> float:
        """Seconds to wait: between half of and all of 0.1, 0.2, 0.4 … 5."""
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(self._attempts, 10))
        self._attempts += 1
        return random.uniform(longest / 2, longest)


class _Transports(TransportFactory):
    """The driver's own, with a tap, and with a way to end a connection whose peer answers nothing."""

    tap: Tap

    def __init__(self, tls: bool) -> None:
        self._inner = TLSTransportFactory() if tls else TCPTransportFactory()
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        stream, self._writer = await self._inner.create(url, **kwargs)
        self.tap = Tap(stream)
        # The driver reads by ``readexactly``, ``read`` and ``at_eof`` alone.
        return cast("asyncio.StreamReader", self.tap), self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class _Connection:
    """One connection, from the attempt to the end."""

    def __init__(self, address: Address, purpose: str) -> None:
        self._transports = _Transports(tls=address.url.scheme == "amqps")
        name = f"verger {purpose} {socket.gethostname()}:{os.getpid()}"
        self._pika = aio_pika.Connection(address.url, client_properties={"connection_name": name})
        self._pika.kwargs["transport_factory"] = self._transports
        self._address = address

    async def connect(self) -> AbstractConnection:
        await bounded(self._pika.connect(), CONNECT_SECONDS, self._address, "connecting")
        assert self._pika.transport is not None
        return self._pika.transport.connection

    @property
    def tap(self) -> Tap:
        return self._transports.tap

    async def end(self) -> None:
        try:
            with suppress(Exception):  # whatever the driver has to say about a connection that is over
                await bounded(self._pika.close(), CLOSE_SECONDS, self._address, "closing")
        finally:
            self._transports.abort()


class Link:
    """A connection for one purpose (publishing, or everything else)."""

    def __init__(
        self,
        address: Address,
        purpose: str,
        on_ready: Callable[[AbstractConnection], Awaitable[None]],
        on_lost: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        """``on_ready`` prepares each new connection and may raise; ``on_lost`` follows each that was ready."""
        self._address = address
        self._purpose = purpose
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._log = log.bind(broker=address.shown, purpose=purpose)
        self._connection: _Connection | None = None
        self._driver: AbstractConnection | None = None
        self._up = asyncio.Event()
        self._ended = asyncio.Event()
        self._why = ""
        self._keeper: asyncio.Task[None] | None = None
        self.errors = self.reconnects = 0

    @property
    def driver(self) -> AbstractConnection | None:
        """The driver's connection while it is up."""
        return self._driver if self._up.is_set() else None

    async def up(self) -> AbstractConnection:
        """Wait until it is up."""
        while (driver := self.driver) is None:
            await self._up.wait()
        return driver

    def require(self) -> AbstractConnection:
        """The driver's connection. Raises BrokerUnavailable while it is not up."""
        if (driver := self.driver) is None:
            raise BrokerUnavailable(f"{self._address.shown} is not connected")
        return driver

    def tap(self, driver: AbstractConnection) -> Tap:
        """Where this connection's deliveries are taken from. Raises BrokerUnavailable when it is not the one."""
        if self._connection is None or driver is not self.driver:
            raise BrokerUnavailable(f"{self._address.shown} has another connection by now")
        return self._connection.tap

    async def open(self) -> None:
        """Connect, and from now on stay connected. Raises BrokerUnavailable or ConfigError if it does not work now."""
        await self._connect()
        self._keeper = asyncio.create_task(self._keep(), name=f"broker link {self._purpose}")

    def reset(self, driver: AbstractConnection, why: str) -> None:
        """Drop this connection, which does not work any more, and make a new one. Nothing, if that was done already."""
        if driver is self.driver and not self._ended.is_set():
            self._why = why
            self._ended.set()

    async def close(self) -> None:
        """Let go, within two seconds whatever state the broker is in."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        self._mark_lost()
        await self._drop()

    async def _keep(self) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            await self._ended.wait()
            if loop.time() - since > STABLE_SECONDS:
                backoff.reset()
            self.errors += 1
            self._log.warning(LogEvent.BROKER_LOST, reason=self._why)
            self._mark_lost()
            await self._drop()
            await self._reconnect(backoff)

    async def _reconnect(self, backoff: Backoff) -> None:
        while True:
            await asyncio.sleep(backoff.next())
            try:
                await self._connect()
            except (BrokerUnavailable, ConfigError) as exc:
                self.errors += 1
                self._log.warning(LogEvent.BROKER_CONNECT_FAILED, reason=str(exc))
            except Exception:
                # Whatever it is: if this loop ended, the process would stay deaf for good.
                self.errors += 1
                self._log.exception(LogEvent.BROKER_CONNECT_CRASHED)
            else:
                self.reconnects += 1
                return

    async def _connect(self) -> None:
        self._connection = _Connection(self._address, self._purpose)
        try:
            driver = await self._connection.connect()
            _check_version(driver, self._address)
            async with asyncio.timeout(READY_SECONDS):
                await self._on_ready(driver)
        except TimeoutError as exc:
            await self._drop()
            raise BrokerUnavailable(f"{self._address.shown} was not ready within {READY_SECONDS:g} s") from exc
        except BaseException:
            await self._drop()
            raise
        self._driver, self._ended, self._why = driver, asyncio.Event(), "the connection ended"
        whenever_done(driver.closing, self._ended.set)
        self._up.set()
        self._log.info(LogEvent.BROKER_CONNECTED)

    def _mark_lost(self) -> None:
        if self._up.is_set():
            self._up.clear()
            self._on_lost()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.end()


def _check_version(driver: AbstractConnection, address: Address) -> None:
    properties = driver.server_properties or {}
    product, version = str(properties.get("product")), str(properties.get("version"))
    numbers = version.split(".")
    if product != "RabbitMQ" or len(numbers) < 2 or not all(part.isdigit() for part in numbers[:2]):
        return
    if (int(numbers[0]), int(numbers[1])) < OLDEST_BROKER:
        raise ConfigError(f"{address.shown} is RabbitMQ {version}; Verger needs 3.10 or later")
