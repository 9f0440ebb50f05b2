"""What a request passes before any route sees it: host, origin, key, and the form and size of its body.

It comes before the body is read: whoever has no key makes Verger read nothing.
"""

import asyncio
import ipaddress
import secrets
from collections.abc import Mapping
from email.utils import formatdate
from math import ceil
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.api.access import LOCAL
from actors.api.attempts import Attempts
from actors.api.problems import problem
from schemas.access import Caller
from service.access_keys import KeyRing
from service.log_events import LogEvent

log = structlog.get_logger()

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json"})
"""What needs no key: probes have none."""
BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Refusal(Exception):
    """The request goes no further."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers


class Gate:
    """Wraps the app; sets ``scope["caller"]``."""

    def __init__(self, app: ASGIApp, keys: KeyRing, hosts: tuple[str, ...], most_bytes: int) -> None:
        """``hosts``: names beyond ``localhost`` and IP addresses that requests may call this API by."""
        self._app, self._keys, self._most_bytes = app, keys, most_bytes
        self._hosts = frozenset(host.lower() for host in hosts) | {"localhost"}
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["date"] = formatdate(usegmt=True)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            scope["caller"] = self._identify(scope, headers)
            self._check_body(headers)
            await self._app(scope, self._bounded(receive), answer)
        except Refusal as refusal:
            refused = problem(refusal.status, str(refusal), headers=refusal.headers, path=scope["path"])
            await refused(scope, receive, answer)
        except Exception:
            # Nobody else hears of it: the answer names a line of the log, and nothing of what is inside.
            reference = secrets.token_hex(8)
            log.exception(LogEvent.REQUEST_FAILED, reference=reference, method=scope["method"], path=scope["path"])
            if started:
                raise
            detail = f"Verger failed; its log says more under the reference {reference}"
            await problem(500, detail, path=scope["path"], reference=reference)(scope, receive, answer)

    # ---- where from --------------------------------------------------------------------------------------------------

    def _check_host(self, headers: Headers) -> None:
        """Against pages that make a browser believe that their name leads here (DNS rebinding), and against forms that
        they send here: both would act with the rights of whoever reads the page."""
        host = headers.get("host", "")
        name = _name(host)
        if not (_is_address(name) or name in self._hosts):
            raise Refusal(421, f"{name[:80]!r} is no host of this API; name it in VERGER_API_HOSTS if it is")
        origin = headers.get("origin")
        if origin is not None and _site(origin) != host.lower():
            raise Refusal(403, "a page of another site must not use this API")

    # ---- who ---------------------------------------------------------------------------------------------------------

    def _identify(self, scope: Scope, headers: Headers) -> Caller | None:
        if not self._keys.required:
            return LOCAL
        scheme, _, key = headers.get("authorization", "").partition(" ")
        caller = self._keys.find(key.strip()) if scheme.lower() == "bearer" else None
        if caller is not None or scope["path"] in OPEN:
            return caller
        client = scope.get("client")
        address = client[0] if client else "unknown"
        wait = self._attempts.fail(address)
        if wait is not None:
            seconds = str(ceil(wait))
            raise Refusal(429, f"too many attempts; try again in {seconds} s", {"Retry-After": seconds})
        # The same words for a key that is missing, malformed, wrong or revoked.
        log.warning(LogEvent.ACCESS_REFUSED, address=address, method=scope["method"], path=scope["path"])
        detail = "this needs a valid key: Authorization: Bearer KEY (verger keys create makes one)"
        raise Refusal(401, detail, {"WWW-Authenticate": 'Bearer realm="verger"'})

    # ---- what --------------------------------------------------------------------------------------------------------

    def _check_body(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return
        if length.isdecimal() and int(length) > self._most_bytes:
            raise Refusal(413, self._too_large)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
            raise Refusal(415, "the body must be JSON: Content-Type: application/json")

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._most_bytes} bytes"

    def _bounded(self, receive: Receive) -> Receive:
        """The body, up to its limits; an exception of this kind passes through the framework as it is."""
        size, complete = 0, False
        until = asyncio.get_running_loop().time() + BODY_SECONDS

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._most_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded


def _name(host: str) -> str:
    """Of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _site(origin: str) -> str | None:
    """Its host, with the port; None: it is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # a bracket that does not close
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
