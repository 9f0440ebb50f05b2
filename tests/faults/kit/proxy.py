"""A TCP proxy that does to a connection what networks do."""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65536
T = TypeVar("T")


@dataclass(frozen=True)
class Toxic:
    """What is done to the bytes of one direction. Seconds, bytes."""

    latency: float = 0.0
    jitter: float = 0.0
    """Up to so much more latency, by chance; the order stays."""
    bandwidth: float | None = None
    """Bytes a second, for each connection."""
    slice: int | None = None
    """No more bytes than this at once."""
    black_hole: bool = False
    """Nothing arrives, and nobody is told. What was under way arrives when the hole is closed, if the connection lives
    as long: TCP repeats it."""


CLEAN = Toxic()


class Proxy:
    """Has a thread and a loop of its own, so that a test which blocks its loop does not slow it down.

    ``up`` is what happens to bytes from the client to the server, ``down`` to those from the server; both may be set at
    any time, for all connections. ``counts`` tells what was really done: connections, refused, resets, ``up`` and
    ``down`` bytes, delayed, sliced, held (chunks).
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, seed: int = 0) -> None:
        """In front of ``host:port``."""
        self._target = (host, port)
        self._random = random.Random(seed)
        self.up = self.down = CLEAN
        self.counts: Counter[str] = Counter()
        self._refuses = False
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._server = self._do(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, url: str) -> str:
        """The same address, by this proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    # ---- faults ----------------------------------------------------------------------------------

    def set(self, both: Toxic) -> None:
        self.up = self.down = both

    def clear(self) -> None:
        """All is well again, for connections that still live and for new ones."""
        self.set(CLEAN)
        self._refuses = False

    def partition(self) -> None:
        """Nothing passes, in either direction; new connections are taken and hear nothing."""
        self.set(Toxic(black_hole=True))

    def reset(self) -> int:
        """Reset every connection at both ends; how many there were."""
        return self._do(self._reset())

    def refuse(self) -> int:
        """Reset every connection, and each new one at once, until ``clear``."""
        self._refuses = True
        return self.reset()

    # ---- in the loop -----------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        await self._reset()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _reset(self) -> int:
        pairs, self._pairs = self._pairs, set()
        for writer in (writer for pair in pairs for writer in pair):
            self._abort(writer)
        self.counts["resets"] += len(pairs)
        return len(pairs)

    @staticmethod
    def _abort(writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            self.counts["refused"] += 1
            self._abort(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self.counts["refused"] += 1
            self._abort(writer)
            return
        self.counts["connections"] += 1
        pair = (writer, far_writer)
        self._pairs.add(pair)
        up, down = self._toxics(writer.get_extra_info("peername")[1])
        try:
            await asyncio.gather(self._pass(reader, far_writer, "up", up), self._pass(far_reader, writer, "down", down))
        finally:
            self._pairs.discard(pair)
            for each in pair:
                each.close()

    def _toxics(self, port: int) -> tuple[Callable[[], Toxic], Callable[[], Toxic]]:
        """What tells, at any time, what is done to a connection from this port: up and down."""
        return lambda: self.up, lambda: self.down

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, toxic: Callable[[], Toxic]
    ) -> None:
        """Reads ahead of what it delays, so that latency costs time and not throughput."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        delivering = asyncio.create_task(self._deliver(queue, writer, name, toxic))
        try:
            while data := await reader.read(CHUNK):
                late = toxic().latency + self._random.uniform(0, toxic().jitter)
                self.counts["delayed"] += late > 0
                await queue.put((self._loop.time() + late, data))
            await queue.put((0.0, b""))
            await delivering
        except OSError:
            writer.transport.abort()  # the one end was reset: so is the other
        finally:
            delivering.cancel()

    async def _deliver(
        self,
        queue: "asyncio.Queue[tuple[float, bytes]]",
        writer: asyncio.StreamWriter,
        name: str,
        toxic: Callable[[], Toxic],
    ) -> None:
        with suppress(OSError):
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if toxic().black_hole:
                    self.counts["held"] += 1
                    while toxic().black_hole:
                        await asyncio.sleep(0.02)
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                for piece in self._sliced(data, toxic().slice):
                    writer.write(piece)
                    await writer.drain()
                    self.counts[name] += len(piece)
                    if (bandwidth := toxic().bandwidth) is not None:
                        await asyncio.sleep(len(piece) / bandwidth)

    def _sliced(self, data: bytes, size: int | None) -> list[bytes]:
        if size is None or len(data) <= size:
            return [data]
        self.counts["sliced"] += 1
        return [data[start : start + size] for start in range(0, len(data), size)]
