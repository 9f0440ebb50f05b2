"""Clients that hold on to a server as long as it lets them: they say little, slowly, and listen to nothing."""

import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass

HEAD = b"POST /admin/tasks/fault.work HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
KINDS = {
    "mute": b"",
    "dripping head": HEAD + b"X-Drip: ",
    "dripping body": HEAD + b"Content-Length: 100000\r\n\r\n",
    "deaf": b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 8,
}


@dataclass
class _Client:
    kind: str
    due: float
    connection: socket.socket | None = None
    greeted: bool = False


class SlowClients:
    """So many connections, of all kinds in equal parts, each with a turn ``every`` so many seconds. What is closed on
    them they open again at their next turn.

    ``counts``: opened, greeted (have said their first), closed (by the server), dripped bytes.
    """

    def __init__(self, port: int, count: int, every: float = 1.0) -> None:
        self._address, self._every = ("127.0.0.1", port), every
        self.counts: Counter[str] = Counter()
        kinds, now = list(KINDS), time.monotonic()
        self._clients = [_Client(kinds[number % len(kinds)], now + every * number / count) for number in range(count)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow clients", daemon=True)

    def __enter__(self) -> "SlowClients":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for client in self._clients:
            if client.connection is not None:
                client.connection.close()

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            now = time.monotonic()
            for client in self._clients:
                if now >= client.due:
                    client.due = now + self._every
                    self._turn(client)

    def _turn(self, client: _Client) -> None:
        if client.connection is None:
            client.connection, client.greeted = self._open(), False
        try:
            if not client.greeted:
                # At once: a second later, the server may have given its place to others.
                client.connection.sendall(KINDS[client.kind])
                client.greeted = True
                self.counts["greeted"] += 1
                return
            if client.kind != "deaf" and self._hung_up(client.connection):
                raise ConnectionResetError
            if client.kind.startswith("dripping"):
                self.counts["dripped"] += client.connection.send(b"a")
        except BlockingIOError:
            pass  # not connected yet, or its buffer is full
        except OSError:
            self.counts["closed"] += 1
            client.connection.close()
            client.connection = None

    def _open(self) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        connection.connect_ex(self._address)
        self.counts["opened"] += 1
        return connection

    @staticmethod
    def _hung_up(connection: socket.socket) -> bool:
        try:
            return connection.recv(4096) == b""
        except BlockingIOError:
            return False
