"""Local servers that stand for those of strangers: one that notes what it got, and one that misbehaves byte by byte."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from actors.maintenance.http import Http
from actors.maintenance.http.gate import Allowed, Lookup, SystemLookup


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: tuple[str, int]


@dataclass
class Receiver:
    """Notes each request, then answers with the next of ``answers``; the last one repeats."""

    answers: list[web.Response | int] = field(default_factory=lambda: [200])
    requests: list[Received] = field(default_factory=list)
    port: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    before: Callable[[Received], Awaitable[None]] | None = None
    """Awaited before each answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def handle(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        got = Received(request.method, request.path_qs, request.headers, await request.read(), peer)
        self.requests.append(got)
        self.arrived.set()
        if self.before is not None:
            await self.before(got)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            return web.Response(status=answer)
        # A response is sent once only; the last one repeats.
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


@asynccontextmanager
async def receiver(*answers: web.Response | int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""
    receiver = Receiver(list(answers) or [200])
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


TLS = ssl.create_default_context()  # takes a while

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(talk: Talk) -> AsyncIterator[int]:
    """A server that does with each connection what ``talk`` does; its port. What talks at the end is cut off."""
    talking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            talking.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking)
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """A request with a ``Content-Length``, or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0]) if lengths else 0)


@asynccontextmanager
async def http_client(*allow: str, lookup: Lookup | None = None) -> AsyncIterator[Http]:
    """The client of the actors."""
    system = SystemLookup()
    client = Http(Allowed.read(allow), lookup or system, TLS)
    try:
        yield client
    finally:
        await client.close()
        system.close()


def certificate(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for these names: its file, and the context of a server that shows it."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    wanted = f"subjectAltName={','.join(f'DNS:{name}' for name in names)}"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    use = "keyUsage=critical,digitalSignature,keyCertSign"
    options = ["-days", "2", "-subj", "/CN=test", "-addext", wanted, "-addext", use]
    command += [*options, "-keyout", str(key), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return file, context
