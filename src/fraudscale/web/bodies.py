"""Reads the bodies of requests, within limits: how long, how slow, and how many slow ones at once.

The server below has no limit of its own for a body that trickles in.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any, Final

from fraudscale.config import HttpSettings
from fraudscale.errors import FraudscaleError
from fraudscale.web.clients import Clients
from fraudscale.web.problems import (
    BodyTimeout,
    BodyTooLarge,
    Later,
    Overloaded,
    RateExceeded,
    UnsupportedMediaType,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

GRACE_SECONDS: Final = 0.5
"""A body that is later than its head by less is not slow: many clients send them in two pieces."""
SHARE: Final = 8
"""One client may have an eighth of all slow bodies, so that it can't take every place."""
READ_ON: Final = 8
"""How many times the largest allowed body is read of a longer one before the connection is closed on it."""


class ClientGone(FraudscaleError):
    """The client closed the connection; nobody waits for the answer."""


class Bodies:
    """Reads the bodies of requests; the slow ones are bounded: how long, how many, and how many a client."""

    def __init__(self, settings: HttpSettings, clients: Clients) -> None:
        self._settings = settings
        self._clients = clients
        self._slow = _Slow(settings.slow_bodies)

    @property
    def slow(self) -> int:
        """How many arrive slowly at this moment."""
        return self._slow.taken

    async def read_json(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body of a request that must be JSON.

        Raises:
            UnsupportedMediaType: a content type other than JSON (none at all is taken for JSON).
            BodyTooLarge: longer than `max_body_bytes`.
            BodyTimeout: not all of it within `body_timeout_seconds`.
            RateExceeded, Overloaded: it is slow, and as many of the client's, or of all, are already.
            ClientGone: the connection was closed.
        """
        for name, value in scope["headers"]:
            if name == b"content-type" and value != b"application/json":
                _check_media_type(value)
        # Nearly always the body is here already, and a timer for each request would cost a tenth of its time: only one
        # that has to wait gets timers.
        arriving = _whole_body(receive, self._settings.max_body_bytes).__await__()
        try:
            waits_for = next(arriving)
        except StopIteration as arrived:
            body: bytes = arrived.value
            return body
        return await self._wait(_Resumed(waits_for, arriving), scope)

    async def _wait(self, rest: "_Resumed", scope: Scope) -> bytes:
        place = _Place(self._slow, self._clients.limited(peer_of(scope), scope["headers"]))
        seconds = self._settings.body_timeout_seconds
        try:
            async with asyncio.timeout(seconds) as timeout:
                place.take_when_late(timeout)
                return await rest
        except TimeoutError:
            raise place.refusal or BodyTimeout(f"the body did not arrive within {seconds} s") from None
        finally:
            place.leave()


class _Slow:
    """Counts the bodies that arrive slowly."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._share = max(1, places // SHARE)
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        return self._taken.total()

    def take(self, client: str | None) -> Later | None:
        """Take a place, or return why there is none; None is a trusted client."""
        if self.taken >= self._places:
            return Overloaded(1, f"{self._places} bodies arrive slowly already (SLOW_BODIES)", close=True)
        if client is not None and self._taken[client] >= self._share:
            detail = f"{self._share} bodies of {client} arrive slowly already (an eighth of SLOW_BODIES)"
            return RateExceeded(1, detail, close=True)
        self._taken[client or ""] += 1
        return None

    def leave(self, client: str | None) -> None:
        self._taken[client or ""] -= 1
        if not self._taken[client or ""]:
            del self._taken[client or ""]


class _Place:
    """The place of one body among the slow ones: taken once it is late, given back in the end."""

    def __init__(self, slow: _Slow, client: str | None) -> None:
        self._slow = slow
        self._client = client
        self._taken = False
        self._timer: asyncio.TimerHandle | None = None
        self.refusal: Later | None = None

    def take_when_late(self, timeout: asyncio.Timeout) -> None:
        """Take it after the grace; where there is none, let the timeout end now."""
        loop = asyncio.get_running_loop()

        def take() -> None:
            if timeout.expired():
                return
            self.refusal = self._slow.take(self._client)
            self._taken = self.refusal is None
            if self.refusal:
                timeout.reschedule(0)

        def half() -> None:
            self._timer = loop.call_later(GRACE_SECONDS / 2, take)

        # In two steps: what came while this process did not run at all is read in between.
        self._timer = loop.call_later(GRACE_SECONDS / 2, half)

    def leave(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._taken:
            self._slow.leave(self._client)


def peer_of(scope: Scope) -> str:
    """Return who opened the connection; empty where that has no address, as with a Unix socket."""
    client = scope.get("client")
    return client[0] if client else ""


class _Resumed:
    """Goes on awaiting what was begun by hand: `waits_for` is the future that it stopped at."""

    def __init__(self, waits_for: Any, rest: Generator[Any, Any, bytes]) -> None:
        self._waits_for = waits_for
        self._rest = rest

    def __await__(self) -> Generator[Any, Any, bytes]:
        try:
            yield self._waits_for
        except BaseException:
            self._rest.close()
            raise
        return (yield from self._rest)


async def _whole_body(receive: Receive, limit: int) -> bytes:
    body, size, more = b"", 0, True
    # What is too long is read on for a while and thrown away: a client that is still sending when the connection is
    # closed sees a reset instead of the answer.
    while more and size <= limit * READ_ON:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        body = body + chunk if size <= limit else b""
        more = message.get("more_body", False)
    if size > limit:
        raise BodyTooLarge(
            f"the body has {'more than ' if more else ''}{size} bytes, at most {limit} are taken"
        )
    return body


def _check_media_type(value: bytes) -> None:
    media_type = value.partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise UnsupportedMediaType(
            f"the body has the type {media_type.decode('latin-1')!r}; send application/json"
        )
