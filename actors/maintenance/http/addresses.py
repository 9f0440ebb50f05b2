"""Which addresses are public (pure). Python's own ``is_global`` is not enough, and differs from release to release."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
"""How the IPv4 internet looks to a machine that has IPv6 only."""
_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),  # carriers' own, and many a cluster's
    IPv4Network("169.254.0.0/16"),  # where clouds keep the credentials of their machines
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("198.18.0.0/15"),
    IPv4Network("240.0.0.0/4"),
    IPv6Network("2001::/23"),  # with Teredo
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),
)


def read_address(text: str) -> Address | None:
    """An address as it is connected to, so an IPv4 address in IPv6 dress is the former; None: the text is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_public(address: Address) -> bool:
    """Whether it belongs to the public internet, and so does each address that is hidden in it."""
    return all(_is_public(each) for each in _unwrap(address))


def _unwrap(address: Address) -> Iterator[Address]:
    if isinstance(address, IPv4Address):
        yield address
    elif address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    else:
        yield address
        for hidden in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())):
            if hidden is not None:
                yield hidden


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or any(address in network for network in _NOT_PUBLIC):
        return False
    return isinstance(address, IPv4Address) or address in _UNICAST
