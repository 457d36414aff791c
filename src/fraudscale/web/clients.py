"""Which client a request comes from, also behind proxies. Every request passes here, so it has to be cheap."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple

from fraudscale.config_values import Network
from fraudscale.telemetry.asgi import Scope

HOPS: Final = 16
"""Proxies in a row that are followed back to the client."""
LONGEST_ADDRESS: Final = 64
"""Characters. A longer text is no address, and must not fill the cache."""
KNOWN_ADDRESSES: Final = 8192
"""Addresses in the cache: parsing one costs 10 µs, a look-up a tenth of a microsecond."""


class Address(NamedTuple):
    """What is known of an address."""

    client: str
    """Its name: the address, or the /64 of an IPv6 address, since one customer has all of it."""
    is_proxy: bool
    is_trusted: bool


class Clients:
    """Finds the client of a request: the peer, or the address for which a trusted proxy sends it."""

    def __init__(self, trusted_proxies: Iterable[Network], trusted_clients: Iterable[Network]) -> None:
        """Believe the `X-Forwarded-For` of trusted proxies; do not limit trusted clients."""
        self._proxies = tuple(trusted_proxies)
        self._trusted = tuple(trusted_clients)
        self._know = lru_cache(KNOWN_ADDRESSES)(self._look_up)

    def limited(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the name of the client of a request; None for a trusted client."""
        address = self._find(peer, headers)
        if address is None:
            return peer
        return None if address.is_trusted else address.client

    def name(self, scope: Scope) -> str:
        """Return the name of the client of a request, trusted or not."""
        peer = peer_of(scope)
        address = self._find(peer, scope["headers"])
        return peer if address is None else address.client

    def _find(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> Address | None:
        """Look up who asks; None where the peer has no address.

        Each proxy appends the address from which it got the request. So `X-Forwarded-For` is read from the right, as long
        as the address is one of our proxies. Whatever stands further left was written by the client, and is not believed.

        The peer is who opened the connection, "" for a Unix socket; names of headers are in lower case.
        """
        address = self._know(peer)
        if address is not None and address.is_proxy:
            # A client may have sent a header of its own; all of them are one list, in their order (RFC 9110, 5.3).
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
        return address

    def _look_up(self, text: str | bytes) -> Address | None:
        address = _address(text if isinstance(text, str) else text.decode("latin-1").strip())
        if address is None:
            return None
        client = str(ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
        return Address(client, _is_in(address, self._proxies), _is_in(address, self._trusted))


def peer_of(scope: Scope) -> str:
    """Return the address of who opened the connection; empty for a Unix socket, which has none."""
    client = scope.get("client")
    return client[0] if client else ""


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
