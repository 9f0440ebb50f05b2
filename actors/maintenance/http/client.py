"""A client for URLs that come from tenants, and the resource ``http``.

- It asks the public internet by https on port 443, and what ``VERGER_HTTP_ALLOW`` names, that also by http and on any
  port.
- A name is looked up once; if even one of its addresses may not be asked, none is. It connects to the checked address.
- It follows no redirect, reads no proxy and no password from the environment, and keeps no cookie.
- An answer is read up to a limit, and the whole request has a time limit.
- Certificates are verified, against those of the system or what ``SSL_CERT_FILE`` names.
"""

import asyncio
import io
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    InvalidURL,
    TCPConnector,
)
from yarl import URL

from actors import resource
from actors.maintenance.blocking import in_thread
from actors.maintenance.http.errors import HttpRefused, HttpUnavailable
from actors.maintenance.http.gate import Allowed, Gate, Lookup, SystemLookup, is_literal, is_name
from service.settings import Settings

AGENT = "verger"
MAX_URL = 8000
_METHOD = re.compile(r"[A-Z]{1,20}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e\t]{0,7000}")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect", "upgrade"})
"""Headers that say how the request travels; a caller does not set them."""


@dataclass(frozen=True)
class Answer:
    """What the server said. Names of headers are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """Safe to use by many runs at once; connections are kept open for a while and used again."""

    def __init__(self, allowed: Allowed, lookup: Lookup, tls: ssl.SSLContext) -> None:
        self._gates = {scheme: Gate(allowed, lookup, tls=scheme == "https") for scheme in ("https", "http")}
        self._sessions = {scheme: _session(gate, tls) for scheme, gate in self._gates.items()}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: timedelta,
        max_bytes: int,
        whole: bool = True,
    ) -> Answer:
        """Ask once. Any status is an answer, redirects too.

        Args:
            timeout: Of everything: the lookup, the connection, the answer to its end.
            max_bytes: How much of the answer's body is read.
            whole: False: the status is what counts, and as much of the body as comes within both limits is enough.

        Raises:
            HttpRefused: it may not be sent; another attempt fares no better.
            HttpUnavailable: no answer in time, none that is whole, or a longer one.
        """
        target = _read_url(url)
        place = f"{target.scheme}://{target.host}:{target.port}"
        self._check(target)
        sent = _headers(method, headers or {})
        answer: Answer | None = None
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                async with self._sessions[target.scheme].request(
                    method,
                    target,
                    headers=sent,
                    data=None if body is None else io.BytesIO(body),
                    allow_redirects=False,
                    skip_auto_headers=("Content-Type",),
                ) as response:
                    read = bytearray()
                    answer = Answer(response.status, response.headers, b"")
                    try:
                        await _read(response, read, max_bytes)
                    finally:
                        answer = Answer(response.status, response.headers, bytes(read[:max_bytes]))
            return answer
        except InvalidURL:  # nothing that was let through is known to be one; its text shows the URL
            raise HttpRefused(f"{place}: the URL cannot be asked") from None
        except (TimeoutError, ClientError, OSError, _TooLong) as error:
            if answer is not None and not whole:
                return answer
            raise HttpUnavailable(f"{place}: {_said(error, timeout, max_bytes)}") from None

    def _check(self, target: URL) -> None:
        """An address in the URL itself is never looked up, so it is checked here."""
        host, port = target.raw_host, target.port
        assert host is not None and port is not None
        if is_literal(host):
            self._gates[target.scheme].check(host, port, [host])
        elif not is_name(host):
            raise HttpRefused(f"{host[:100]!r} is not the name of a host")

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()


@resource("http")
async def http(settings: Settings) -> AsyncIterator[Http]:
    """One client for a worker."""
    lookup = SystemLookup()
    client = Http(Allowed.read(settings.http_allow), lookup, await in_thread(ssl.create_default_context))
    try:
        yield client
    finally:
        await client.close()
        lookup.close()


class _TooLong(Exception):
    """The answer does not end within the limit."""


def _session(gate: Gate, tls: ssl.SSLContext) -> ClientSession:
    # Its own limits are off: the handlers' slots are the limit, and waiting for a connection would eat up their time.
    connector = TCPConnector(resolver=gate, use_dns_cache=False, ssl=tls, limit=0)
    return ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=ClientTimeout(),
    )


def _read_url(text: str) -> URL:
    """Raises HttpRefused."""
    if len(text) > MAX_URL or not text.isprintable() or " " in text:
        raise HttpRefused(f"a URL has at most {MAX_URL} characters, and no spaces or control characters among them")
    try:
        url = URL(text)
    except ValueError:
        raise HttpRefused("the URL cannot be read; write https://host/path") from None
    if url.scheme not in ("https", "http") or not url.raw_host or not url.port:
        raise HttpRefused("the URL is not one of https; write https://host/path")
    if url.raw_user is not None or url.raw_password is not None:
        raise HttpRefused(f"the URL of {url.host} has credentials in it; name a secret instead")
    return url


def _headers(method: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Raises HttpRefused."""
    if not _METHOD.fullmatch(method):
        raise HttpRefused("the method is none")
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise HttpRefused(f"a header may not be called {name[:50]!r}")
        if not _VALUE.fullmatch(value):
            raise HttpRefused(
                f"the value of the header {name} is too long, or has characters other than printable ASCII"
            )
    # Not compressed: a short answer must not become a long one here.
    return {"User-Agent": AGENT, "Accept-Encoding": "identity"} | {name.title(): headers[name] for name in headers}


async def _read(response: ClientResponse, into: bytearray, limit: int) -> None:
    async for chunk in response.content.iter_any():
        into += chunk
        if len(into) > limit:
            response.close()
            raise _TooLong


def _said(error: BaseException, timeout: timedelta, max_bytes: int) -> str:
    match error:
        case TimeoutError():
            return f"no answer within {timeout.total_seconds():g} s"
        case _TooLong():
            return f"the answer is longer than {max_bytes} bytes"
        case ClientResponseError():  # its text shows the URL
            return f"the answer cannot be read: {error.message[:200]!r}"
    return (str(error) or type(error).__name__)[:300]
