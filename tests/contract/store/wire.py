"""A wire between a client and mongod that a test can cut at the worst moment."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import bson

HEADER = struct.Struct("<iiii")
OP_MSG = 2013


@dataclass
class Wire:
    """Carries everything, but for what it is told to lose."""

    port: int = 0
    lost: list[str] = field(default_factory=list)
    """The commands whose request or reply did not arrive."""
    _command: str = ""
    _after: bool = False
    _left: float = 0

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true&serverMonitoringMode=poll"

    def lose_requests(self, command: str, times: float = float("inf")) -> None:
        """Cut the connection when this command comes: the server never sees it."""
        self._command, self._after, self._left = command, False, times

    def lose_replies(self, command: str, times: float = float("inf")) -> None:
        """Cut the connection when the server has executed this command and answers it."""
        self._command, self._after, self._left = command, True, times

    def mend(self) -> None:
        self._left = 0

    def _loses(self, command: str) -> bool:
        if command != self._command or self._left <= 0:
            return False
        self._left -= 1
        self.lost.append(command)
        return True

    async def carry(
        self, client: tuple[asyncio.StreamReader, asyncio.StreamWriter], server_port: int
    ) -> None:
        """One connection, a request and its reply at a time."""
        reader, writer = client
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", server_port)
        try:
            while True:
                request = await read_message(reader)
                loses = self._loses(command_of(request))
                if loses and not self._after:
                    return
                upstream.write(request)
                reply = await read_message(upstream_reader)
                if loses:
                    return
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            for side in (writer, upstream):
                side.close()
                with suppress(ConnectionError):
                    await side.wait_closed()


async def read_message(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(struct.unpack("<i", length)[0] - 4)


def command_of(message: bytes) -> str:
    """The name of the command in a request: the first key of its body."""
    if HEADER.unpack_from(message)[3] != OP_MSG:
        return ""
    body = message[21:]  # header, flags, kind of section
    size = struct.unpack_from("<i", body)[0]
    return str(next(iter(bson.decode(body[:size]))))


@asynccontextmanager
async def wire_to(server_port: int) -> AsyncIterator[Wire]:
    wire = Wire()
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(wire.carry((reader, writer), server_port))
        connections.add(connection)
        connection.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
