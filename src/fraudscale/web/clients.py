"""Who asks, and how often they may: a client's address behind proxies, and a token bucket for each client.

Pure: `now` is an argument, the addresses come from the request. Both are on the way of every request, so they are cheap.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

HOPS: Final = 16
"""Proxies in a row that are followed back to the client."""
LONGEST_ADDRESS: Final = 64
"""Characters; what is longer is no address, and must not fill the cache."""
KNOWN_ADDRESSES: Final = 8192
"""Kept with what they are: to find it out costs 10 µs, to look it up a tenth of one."""
ROUNDING_SECONDS: Final = 1e-6
"""Far above the rounding of a sum of instants, far below the time between two tokens."""

Network = IPv4Network | IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """Read a list such as `127.0.0.1,10.0.0.0/8`; empty for none.

    Raises:
        ValueError: one of them is no address and no network.
    """
    return tuple(ip_network(item.strip()) for item in text.split(",") if item.strip())


class Buckets:
    """A token bucket for each client, the table of them bounded.

    A bucket is one number: the instant at which it will be full again (the generic cell rate algorithm, ITU-T I.371).
    In any window of `t` seconds a client gets at most `burst + rate * t` tokens.
    """

    def __init__(self, rate: float, burst: int, most: int) -> None:
        """Make the table.

        Args:
            rate: tokens a second that a bucket gains.
            burst: tokens in a full one.
            most: buckets kept; for one more the idlest is forgotten, which makes it full.
        """
        self._interval = 1 / rate
        self._slack = (burst - 1) / rate + ROUNDING_SECONDS
        self._most = most
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, now: float) -> float:
        """Take a token: 0.0, or the seconds until there will be one; then nothing is taken."""
        table = self._full_at
        # Taken out and put in again at the end: so the dictionary is in the order of use. Who is refused is not idle either.
        full_at = table.pop(client, now)
        wait = full_at - now - self._slack
        if wait > 0:
            table[client] = full_at
            return wait
        table[client] = max(now, full_at) + self._interval
        if len(table) > self._most:
            del table[next(iter(table))]
        return 0.0


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
