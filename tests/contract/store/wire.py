"""A wire between a client and mongod that a test can cut at the worst moment."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

import bson

OP_MSG = 2013
FOR_EVER = float("inf")


@dataclass
class Wire:
    """Carries everything but what it is told to lose. In threads: a client may block the loop of its test."""

    port: int = 0
    lost: list[str] = field(default_factory=list)
    """The commands whose request or reply did not arrive."""
    _command: str = ""
    _after: bool = False
    _left: float = 0
    _skip: int = 0

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true&serverMonitoringMode=poll"

    def lose_requests(self, command: str, *, times: float = FOR_EVER, skip: int = 0) -> None:
        """Cut the connection when this command comes: the server never sees it."""
        self._command, self._after, self._left, self._skip = command, False, times, skip

    def lose_replies(self, command: str, *, times: float = FOR_EVER, skip: int = 0) -> None:
        """Cut the connection when the server has executed this command and answers it."""
        self._command, self._after, self._left, self._skip = command, True, times, skip

    def mend(self) -> None:
        self._left = 0

    def carry(self, client: socket.socket, server: socket.socket) -> None:
        """A request and its reply at a time, until one side hangs up or the wire is cut."""
        while request := read_message(client):
            loses = self._loses(command_of(request))
            if loses and not self._after:
                return
            server.sendall(request)
            reply = read_message(server)
            if loses:
                return
            client.sendall(reply)

    def _loses(self, command: str) -> bool:
        if command != self._command or self._left <= 0:
            return False
        if self._skip:
            self._skip -= 1
            return False
        self._left -= 1
        self.lost.append(command)
        return True


def read_message(side: socket.socket) -> bytes:
    """Empty when the other side has hung up."""
    length = _exactly(side, 4)
    return length + _exactly(side, struct.unpack("<i", length)[0] - 4) if length else b""


def _exactly(side: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = side.recv(count - len(data))
        if not more:
            return b""
        data += more
    return data


def command_of(message: bytes) -> str:
    """The name of the command in a request: the first key of its body."""
    if struct.unpack_from("<i", message, 12)[0] != OP_MSG:
        return ""
    body = message[21:]  # header, flags, kind of section
    size = struct.unpack_from("<i", body)[0]
    return str(next(iter(bson.decode(body[:size]))))


@contextmanager
def wire_to(server_port: int) -> Iterator[Wire]:
    wire = Wire()
    clients: set[socket.socket] = set()

    class Connection(BaseRequestHandler):
        def handle(self) -> None:
            clients.add(self.request)
            with suppress(OSError), socket.create_connection(("127.0.0.1", server_port)) as server:
                wire.carry(self.request, server)
            clients.discard(self.request)

    with ThreadingTCPServer(("127.0.0.1", 0), Connection) as listener:
        wire.port = listener.server_address[1]
        thread = Thread(target=listener.serve_forever, args=(0.01,), name="wire")
        thread.start()
        try:
            yield wire
        finally:
            listener.shutdown()
            thread.join()
            for client in list(clients):
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
