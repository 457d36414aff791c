"""Who asks: a client's address behind proxies.

It is on the way of every request, so it is cheap.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple

from fraudscale.config import Network

HOPS: Final = 16
"""Proxies in a row that are followed back to the client."""
LONGEST_ADDRESS: Final = 64
"""Characters; what is longer is no address, and must not fill the cache."""
KNOWN_ADDRESSES: Final = 8192
"""Kept with what they are: to find it out costs 10 µs, to look it up a tenth of one."""


class Address(NamedTuple):
    """What is known of an address."""

    client: str
    """The name of its bucket: the address, or for IPv6 its /64, which is what one customer has."""
    is_proxy: bool
    is_trusted: bool


class Clients:
    """Tells the client of a request: the peer, or whom a trusted proxy says it speaks for."""

    def __init__(self, trusted_proxies: Iterable[Network], trusted_clients: Iterable[Network]) -> None:
        """Take the lists.

        Args:
            trusted_proxies: whose `X-Forwarded-For` is believed.
            trusted_clients: who is not limited.
        """
        self._proxies = tuple(trusted_proxies)
        self._trusted = tuple(trusted_clients)
        self._know = lru_cache(KNOWN_ADDRESSES)(self._look_up)

    def limited(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the name of the client's bucket; None for a trusted client.

        Each proxy appends whom it got the request from, so the header is read from the right, as far as the proxies are
        ours. What stands further left is the client's own claim and is not believed.

        Args:
            peer: who opened the connection; empty where that has no address.
            headers: names in lower case, and values.
        """
        address = self._know(peer)
        if address is None:
            return peer
        if address.is_proxy:
            forwarded = b""
            for name, value in headers:
                if name == b"x-forwarded-for":
                    forwarded = forwarded + b"," + value if forwarded else value
            for item in reversed(forwarded.rsplit(b",", HOPS)):
                before = self._know(item) if len(item) < LONGEST_ADDRESS else None
                if before is None:
                    break
                address = before
                if not address.is_proxy:
                    break
        return None if address.is_trusted else address.client

    def _look_up(self, text: str | bytes) -> Address | None:
        address = _address(text if isinstance(text, str) else text.decode("latin-1").strip())
        if address is None:
            return None
        client = str(ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
        return Address(client, _is_in(address, self._proxies), _is_in(address, self._trusted))


def _is_in(address: IPv4Address | IPv6Address, of: tuple[Network, ...]) -> bool:
    return any(address in network for network in of)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address; some proxies add a port: `192.0.2.7:1234`, `[2001:db8::7]:1234`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped  # an IPv4 client of a socket that listens on both
    return address
