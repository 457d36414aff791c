"""Reads the bodies of requests, within limits: how long, how slow, and how many slow ones at once.

The server below has no limit of its own for a body that trickles in.
"""

import asyncio
from collections.abc import Generator
from typing import Any, Final

from fraudscale.config import HttpSettings
from fraudscale.telemetry.asgi import Receive, Scope, read_body
from fraudscale.web.clients import Clients
from fraudscale.web.problems import BodyTimeout, Overloaded, RetryLater, UnsupportedMediaType
from fraudscale.web.shares import Shares

GRACE_SECONDS: Final = 0.5
"""A body is slow once it is this much later than its head: many clients send the two in separate pieces."""


class Bodies:
    """Reads the bodies of requests. Slow ones are bounded in time and in number; who has most of them makes room for others."""

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
            Overloaded: it is slow, too many are, and no client has more of them.
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
        place = _Place(self._slow, self._clients.name(scope))
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
    """The bodies that arrive slowly: each takes one of a bounded number of places."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._shares: Shares[_Place] = Shares()
        self.taken = 0

    def take(self, place: "_Place") -> Overloaded | None:
        """Give it a place, if need be that of a client with more of them; or return why there is none."""
        if self.taken >= self._places:
            greediest = self._shares.greediest_but(place.client)
            if greediest is None:
                return self._full(place.client)
            self._shares.latest_of(greediest).give_up(self._full(greediest))
        self._shares.add(place.client, place)
        self.taken += 1
        return None

    def release(self, place: "_Place") -> None:
        if self._shares.drop(place.client, place):
            self.taken -= 1

    def _full(self, client: str) -> Overloaded:
        who = client or "this client"
        detail = f"{self._places} bodies arrive slowly already, and {who} has most of them (SLOW_BODIES)"
        return Overloaded(1, detail, close=True)


class _Place:
    """The place of one body: taken once the body is slow, released in the end."""

    def __init__(self, slow: _SlowBodies, client: str) -> None:
        self._slow = slow
        self.client = client
        self._timer: asyncio.TimerHandle | None = None
        self._timeout: asyncio.Timeout | None = None
        self.refusal: RetryLater | None = None

    def take_when_slow(self, timeout: asyncio.Timeout) -> None:
        """Take it after the grace; where there is none, let the timeout end now."""
        loop = asyncio.get_running_loop()
        self._timeout = timeout

        def take() -> None:
            if not timeout.expired() and (refusal := self._slow.take(self)):
                self.give_up(refusal)

        def wait_again() -> None:
            self._timer = loop.call_later(GRACE_SECONDS / 2, take)

        # A process that did not run at all finds its timers due and the bytes unread. In two steps, the turn of the loop
        # between them reads what has come: only then it is known who is slow.
        self._timer = loop.call_later(GRACE_SECONDS / 2, wait_again)

    def give_up(self, refusal: RetryLater) -> None:
        """Let the timeout end now, for this reason."""
        self._slow.release(self)
        if self._timeout is not None and not self._timeout.expired():
            self.refusal = refusal
            self._timeout.reschedule(0)

    def release(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._slow.release(self)


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
