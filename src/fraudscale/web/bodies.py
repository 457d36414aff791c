"""Reads the bodies of requests, within limits: how long, how slow, and how many slow ones at once.

The server below has no limit of its own for a body that trickles in.
"""

import asyncio
from collections import Counter
from collections.abc import Generator
from typing import Any, Final

from fraudscale.config import HttpSettings
from fraudscale.telemetry.asgi import Receive, Scope, read_body
from fraudscale.web.clients import Clients, peer_of
from fraudscale.web.problems import (
    BodyTimeout,
    Overloaded,
    RateExceeded,
    RetryLater,
    UnsupportedMediaType,
)

GRACE_SECONDS: Final = 0.5
"""A body is slow once it is this much later than its head: many clients send the two in separate pieces."""
SHARE: Final = 8
"""One client may have 1/SHARE of the places for slow bodies, so that it can't take all of them."""


class Bodies:
    """Reads the bodies of requests. Slow ones are bounded in time, in number, and in number per client."""

    def __init__(self, settings: HttpSettings, clients: Clients) -> None:
        self._settings = settings
        self._clients = clients
        self._slow = _SlowBodies(settings.slow_bodies)

    @property
    def slow(self) -> int:
        """Bodies that arrive slowly at this moment."""
        return self._slow.taken

    async def read_json(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body of a request that must be JSON.

        Raises:
            UnsupportedMediaType: a content type other than JSON (none at all is taken for JSON), or a body that is compressed.
            BodyTooLarge: longer than `max_body_bytes`.
            BodyTimeout: not all of it within `body_timeout_seconds`.
            RateExceeded, Overloaded: it is slow, and as many of the client's, or of all, are already.
            ClientGone: the connection was closed.
        """
        for name, value in scope["headers"]:
            if name == b"content-type" and value != b"application/json":
                _check_media_type(value)
            elif name == b"content-encoding":
                _check_encoding(value)
        # Nearly always the body is here already, and timers for each request would cost a tenth of its time. So the
        # coroutine is run by hand up to its first wait, and only a body that has to be waited for gets timers.
        arriving = read_body(receive, self._settings.max_body_bytes).__await__()
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
                place.take_when_slow(timeout)
                return await rest
        except TimeoutError:
            raise place.refusal or BodyTimeout(f"the body did not arrive within {seconds} s") from None
        finally:
            place.release()


class _SlowBodies:
    """Counts the bodies that arrive slowly: each takes one of a bounded number of places."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._share = max(1, places // SHARE)
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        return self._taken.total()

    def take(self, client: str | None) -> RetryLater | None:
        """Take a place, or return why there is none; None is a trusted client."""
        if self.taken >= self._places:
            return Overloaded(1, f"{self._places} bodies arrive slowly already (SLOW_BODIES)", close=True)
        if client is not None and self._taken[client] >= self._share:
            detail = f"{self._share} bodies of {client} arrive slowly already (an eighth of SLOW_BODIES)"
            return RateExceeded(1, detail, close=True)
        self._taken[client or ""] += 1
        return None

    def release(self, client: str | None) -> None:
        name = client or ""
        self._taken[name] -= 1
        if not self._taken[name]:
            del self._taken[name]  # else the table grows by each client that was ever slow


class _Place:
    """The place of one body: taken once the body is slow, released in the end."""

    def __init__(self, slow: _SlowBodies, client: str | None) -> None:
        self._slow = slow
        self._client = client
        self._taken = False
        self._timer: asyncio.TimerHandle | None = None
        self.refusal: RetryLater | None = None

    def take_when_slow(self, timeout: asyncio.Timeout) -> None:
        """Take it after the grace; where there is none, let the timeout end now."""
        loop = asyncio.get_running_loop()

        def take() -> None:
            if timeout.expired():
                return
            self.refusal = self._slow.take(self._client)
            self._taken = self.refusal is None
            if self.refusal:
                timeout.reschedule(0)

        def wait_again() -> None:
            self._timer = loop.call_later(GRACE_SECONDS / 2, take)

        # A process that did not run at all finds its timers due and the bytes unread. In two steps, the turn of the loop
        # between them reads what has come: only then it is known who is slow.
        self._timer = loop.call_later(GRACE_SECONDS / 2, wait_again)

    def release(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._taken:
            self._slow.release(self._client)


class _Resumed:
    """Awaits the rest of a coroutine that was begun by hand; `waits_for` is the future at which it stopped."""

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


def _check_media_type(value: bytes) -> None:
    media_type = value.partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise UnsupportedMediaType(
            f"the body has the type {media_type.decode('latin-1')!r}; send application/json"
        )


def _check_encoding(value: bytes) -> None:
    if value.strip().lower() not in {b"", b"identity"}:
        raise UnsupportedMediaType(
            f"the body has the encoding {value.decode('latin-1')!r}; send it as it is, without Content-Encoding"
        )
