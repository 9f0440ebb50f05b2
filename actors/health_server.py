"""The small port of probes and scrapers. It listens in a thread: a loop that is blocked could not say so itself."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, TypeVar

import structlog

from actors.health import Health, answer
from service.errors import ConfigError
from service.log_events import LogEvent
from service.metrics import CONTENT_TYPE

log = structlog.get_logger()

CLIENT_SECONDS = 5.0
"""How long a client may take to ask."""
MOST = 128
"""Clients at a time, for each has a thread; with one more, the oldest that has not asked yet is cut."""
LOOP_SECONDS = 4.0
"""How long the event loop may take for an answer: it has not turned."""
JSON = "application/json"

T = TypeVar("T")


class HealthServer:
    """Listens from ``start`` to ``stop``: ``/healthz``, ``/readyz`` and ``/metrics``."""

    def __init__(self, health: Health, page: Callable[[], Coroutine[Any, Any, bytes]], host: str, port: int) -> None:
        """``page`` makes that of the metrics, in the event loop."""
        self._health, self._page = health, page
        self._host, self._port = host, port
        self._loop = asyncio.get_running_loop()
        self._server: _Server | None = None
        self.port = 0
        """Where it listens, once it does."""

    def start(self) -> None:
        """Raises ConfigError when the address cannot be listened on."""
        try:
            self._server = server = _Server((self._host, self._port), self)
        except OSError as error:
            raise ConfigError(
                f"probes cannot be answered on VERGER_HEALTH_HOST={self._host} and VERGER_HEALTH_PORT={self._port}: "
                f"{error.strerror or error}; choose another port, or 0 for a free one"
            ) from None
        self.port = server.server_address[1]
        # A daemon: a client that holds on to it must not hold up the end of the process.
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, name="health", daemon=True).start()
        log.info(LogEvent.HEALTH_LISTENING, host=self._host, port=self.port)

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    # ---- in a thread of the server's -----------------------------------------------------------------

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        match path.partition("?")[0]:
            case "/healthz":
                return _json(*answer(self._health.live()))
            case "/readyz":
                ready = self._in_loop(self._health.ready())
                return _json(*answer(ready)) if ready is not None else self._blocked()
            case "/metrics":
                page = self._in_loop(self._page())
                return (200, CONTENT_TYPE, page) if page is not None else self._blocked()
            case _:
                return _json(404, {"status": "unknown", "paths": ["/healthz", "/readyz", "/metrics"]})

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T | None:
        """None: the loop does not turn, or is closed."""
        try:
            asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            return None
        try:
            return asked.result(LOOP_SECONDS)
        except TimeoutError:
            asked.cancel()
            return None

    @staticmethod
    def _blocked() -> tuple[int, str, bytes]:
        problem = {"part": "loop", "problem": "the event loop does not turn: something blocks it"}
        return _json(503, {"status": "unavailable", "problems": [problem]})


def _json(status: int, body: dict[str, object]) -> tuple[int, str, bytes]:
    return status, JSON, json.dumps(body).encode()


class _Server(ThreadingTCPServer):
    """Not the standard library's HTTPServer: that asks a name server who it is before it listens."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: HealthServer) -> None:
        self.owner = owner
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._room = threading.BoundedSemaphore(MOST)
        self._asking: dict[Any, None] = {}
        """Who has not asked yet, oldest first."""
        self._lock = threading.Lock()
        super().__init__(address, _Request)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self._cut_oldest()
            self._room.acquire()
        with self._lock:
            self._asking[request] = None
        super().process_request(request, client_address)

    def _cut_oldest(self) -> None:
        """Its thread reads the end, and makes room."""
        with self._lock, suppress(OSError, StopIteration):
            oldest = next(iter(self._asking))
            del self._asking[oldest]
            oldest.shutdown(socket.SHUT_RDWR)

    def has_asked(self, request: Any) -> None:
        """It is answered now, and is not cut any more."""
        with self._lock:
            self._asking.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        self.has_asked(request)
        super().shutdown_request(request)
        self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        self.server.has_asked(self.connection)
        status, kind, body = self.server.owner.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def version_string(self) -> str:
        return "verger"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Probes are no news."""
