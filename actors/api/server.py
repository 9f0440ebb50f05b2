"""The HTTP server of the admin API, inside the process's event loop."""

import asyncio
import socket

import structlog
import uvicorn
from fastapi import FastAPI

from actors.api.connection import Connection
from service.errors import ConfigError
from service.log_events import LogEvent

log = structlog.get_logger()

GRACE_SECONDS = 2.0
"""How long answers under way may take when the server stops."""
LAST_SECONDS = 1.0
"""And how long those that were cancelled then may take to end."""
BACKLOG = 128


class ApiServer:
    """Listens from ``start`` to ``stop``."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self.app, self._host, self._port = app, host, port
        self._server: uvicorn.Server | None = None
        self.url = ""
        """Where it listens, once it does."""

    async def start(self) -> None:
        """Raises ConfigError when the address cannot be listened on."""
        listener = _listen(self._host, self._port)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        config = uvicorn.Config(
            self.app,
            http=Connection,
            ws="none",
            lifespan="off",
            # Ours is set up already, and errors are all that is worth a line.
            log_config=None,
            access_log=False,
            # Who calls is who connects: an address in a header would be anybody's to choose.
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
        )
        config.load()
        self._server = server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Not serve(): it takes over the signals of the process, and wakes ten times a second to look at a flag.
        await server.startup(sockets=[listener])
        log.info(LogEvent.API_STARTED, url=self.url)

    async def stop(self) -> None:
        """Answers under way may end; bounded in time."""
        server, self._server = self._server, None
        if server is None:
            return
        self.app.state.closing.set()
        for listener in server.servers:
            listener.close()
        state = server.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await _ended(state.tasks, GRACE_SECONDS)
        cut = len(state.tasks)
        for task in list(state.tasks):
            task.cancel()
        await _ended(state.tasks, LAST_SECONDS)
        for connection in list(state.connections):
            connection.transport.close()
        log.info(LogEvent.API_STOPPED, cut=cut)


async def _ended(tasks: set[asyncio.Task[None]], seconds: float) -> None:
    if tasks:
        await asyncio.wait(list(tasks), timeout=seconds)


def _listen(host: str, port: int) -> socket.socket:
    where = f"VERGER_API_HOST={host} and VERGER_API_PORT={port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"the admin API cannot listen on {where}: {error.strerror}") from None
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # :: is every address, of both kinds
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = "choose another VERGER_API_PORT, or leave the role api out"
        raise ConfigError(f"the admin API cannot listen on {where}: {error.strerror}; {hint}") from None
    return listener
