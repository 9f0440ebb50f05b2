"""Where requests may go: to the public internet by TLS on port 443, and to what the settings allow beside it."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Self

from aiohttp.abc import AbstractResolver, ResolveResult

from actors.maintenance.http.addresses import is_public, read_address
from actors.maintenance.http.errors import HttpRefused
from service.errors import ConfigError

PORT = 443
LOOKUPS = 16
"""Names that are looked up at once, in threads of their own: slow ones must not keep other work from its threads."""

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name. Raises OSError."""

_ENTRY = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:/\[\]]+))(?::(?P<port>\d{1,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True)
class Allowed:
    """What may be asked beside the public internet; also without TLS, and on other ports."""

    names: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[tuple[IPv4Network | IPv6Network, int | None], ...] = ()

    @classmethod
    def read(cls, entries: Sequence[str]) -> Self:
        """Raises ConfigError."""
        names: set[tuple[str, int | None]] = set()
        networks: list[tuple[IPv4Network | IPv6Network, int | None]] = []
        for entry in entries:
            try:
                networks.append((ip_network(entry), None))
                continue
            except ValueError:
                pass
            found = _ENTRY.fullmatch(entry)
            port = int(found["port"]) if found and found["port"] else None
            host = (found["v6"] or found["host"]).lower() if found else ""
            address = read_address(host)
            if address is not None:
                networks.append((ip_network(address), port))
            elif is_name(host) and (port is None or port <= 65535):
                names.add((host.rstrip("."), port))
            else:
                raise ConfigError(
                    f"VERGER_HTTP_ALLOW: {entry!r} is neither a network (10.1.0.0/16) nor a host "
                    "(siem.internal, 127.0.0.1:8443, [::1]:8443)"
                )
        return cls(frozenset(names), tuple(networks))

    def has_name(self, host: str, port: int) -> bool:
        return not self.names.isdisjoint({(host.rstrip("."), None), (host.rstrip("."), port)})

    def has_address(self, text: str, port: int) -> bool:
        address = read_address(text)
        return address is not None and any(
            address.version == network.version and address in network and only in (None, port)
            for network, only in self.networks
        )


def is_name(host: str) -> bool:
    """Whether it can be looked up."""
    return len(host) <= 254 and _NAME.fullmatch(host) is not None


def is_literal(host: str) -> bool:
    """Whether it is an address, in any form that a library may take for one: ``2130706433`` and ``0x7f.1`` are."""
    if ":" in host or host.replace(".", "").isdigit():
        return True
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


class Gate(AbstractResolver):
    """Tells aiohttp which addresses to connect to: each was checked, and none is looked up a second time.

    There is one for requests by TLS and one for those without.
    """

    def __init__(self, allowed: Allowed, lookup: Lookup, *, tls: bool) -> None:
        self._allowed, self._lookup, self._tls = allowed, lookup, tls

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises HttpRefused; OSError: the name is not known."""
        found = await self._lookup(host, port)
        if not found:
            raise OSError("the name has no address")
        self.check(host, port, found)
        return [_as_aiohttp(host, port, address) for address in found]

    def check(self, host: str, port: int, addresses: Sequence[str]) -> None:
        """Raises HttpRefused if even one of the addresses may not be connected to."""
        if self._allowed.has_name(host, port):
            return
        for text in addresses:
            if self._allowed.has_address(text, port):
                continue
            address = read_address(text)
            if address is None or not is_public(address):
                problem = f"leads to {text}, which is not public"
            elif not self._tls:
                problem = "is not asked by https"
            elif port != PORT:
                problem = f"is not on port {PORT}"
            else:
                continue
            raise HttpRefused(f"{host}:{port} {problem}; VERGER_HTTP_ALLOW does not allow it either")

    async def close(self) -> None:
        """Nothing is held."""


class SystemLookup:
    """Asks the system, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _ask, host, port)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _ask(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _as_aiohttp(host: str, port: int, address: str) -> ResolveResult:
    return {
        "hostname": host,
        "host": address,
        "port": port,
        "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
        "proto": 0,
        "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    }
