"""Sends over HTTP: kept-alive connections, one request at a time on each, driven by one event loop.

The loop's timers tick in milliseconds and round to the nearest; a send that its timer woke too early for polls the loop
until it is due. That costs a tenth of a core at 1,000/s, and half the sends are less than 0.1 ms late.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from fraudscale.errors import FraudscaleError
from fraudscale.load.measure import Item, Items, Measures, StopRequest

TICK_SECONDS: Final = 0.05
OPEN_AT_ONCE: Final = 8
"""Connections that may be on their way: more would only wait for the same listener."""
IDLE_SECONDS: Final = 2.0
"""A connection that nobody used for so long is closed: servers end silent ones, and one that just does so may take a
request and never answer it, or answer 408 (HAProxy, 5 s after a connection came and said nothing)."""
LAST_ANSWERS_SECONDS: Final = 2.0
"""What unanswered requests get after Ctrl-C."""


class Unreachable(FraudscaleError):
    """Nothing answers where the load should go."""


@dataclass(frozen=True)
class HttpTarget:
    """Where the requests go, and from where."""

    url: str
    source: str | None = None
    """Local address of our connections."""
    connections: int = 512
    """At most; opened as they are needed."""
    timeout: float = 10.0
    """Seconds after which a request counts as failed."""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80


class _Connection(asyncio.Protocol):
    """One connection: writes a request, and tells the sender what became of it."""

    def __init__(self, sender: "HttpLoad") -> None:
        self._sender = sender
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.due: float | None = None
        """Of the request under way."""
        self.sent_at = 0.0
        self.idle_since = perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._sender.opened(self)

    def send(self, item: Item, head: bytes, now: float) -> None:
        self.due, self.sent_at = item.due, now
        assert self._transport is not None  # noqa: S101 - only connected ones are free
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(item.body), item.body))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("not HTTP")

    def on_message_complete(self) -> None:
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        self.idle_since = perf_counter()
        self._sender.answered(self, status, keep=keep)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._sender.lost(self, "connection")

    def give_up(self, kind: str) -> None:
        """Count the request under way as failed and close."""
        self._sender.lost(self, kind)
        if self._transport is not None:
            self._transport.abort()


class HttpLoad:
    """Sends items when they are due, until there are no more or a stop is asked for."""

    def __init__(
        self, target: HttpTarget, items: Items, seconds: float, measures: Measures, stop: StopRequest
    ) -> None:
        """Prepare a run; what could not be sent a timeout after the schedule's `seconds` is left."""
        host, port = target.address
        self._target = target
        self._items = items
        self._seconds = seconds
        self._measures = measures
        self._stop = stop
        self._head = (
            f"POST /predict HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\ncontent-length: "
        ).encode()
        self._next = next(items, None)
        self._free: list[_Connection] = []
        self._busy: dict[_Connection, None] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._start = 0.0

    async def run(self, started: Callable[[float], None]) -> None:
        """Send, and wait for the answers; `started` is told the start, a `perf_counter()`.

        Raises:
            Unreachable: nothing listens there.
        """
        self._loop = asyncio.get_running_loop()
        await self._open_first()
        self._start = perf_counter()
        started(self._start)
        self._pump()
        while self._next is not None or self._busy:
            await asyncio.sleep(TICK_SECONDS)
            self._tick(perf_counter())
        if self._timer:
            self._timer.cancel()
        await asyncio.gather(*self._opening)
        for connection in self._free.copy():
            connection.give_up("")

    def opened(self, connection: _Connection) -> None:
        self._free.append(connection)

    def answered(self, connection: _Connection, status: int, *, keep: bool) -> None:
        """Take the answer to a connection's request."""
        due, connection.due = connection.due, None
        if due is None:  # an answer to nothing; what follows is the end of the connection
            return
        del self._busy[connection]
        if status == 200:
            self._measures.scored(due, perf_counter() - self._start)
        else:
            self._measures.failed(due, str(status))
        if keep:
            self._free.append(connection)  # last in, first out: what isn't needed grows old
        self._pump()

    def lost(self, connection: _Connection, kind: str) -> None:
        """Take note that a connection is gone, and with it the request that it had, if it had one."""
        due, connection.due = connection.due, None
        if due is None:
            if connection in self._free:
                self._free.remove(connection)
            return
        del self._busy[connection]
        self._measures.failed(due, kind)

    async def _open_first(self) -> None:
        try:
            await self._connect()
        except OSError as error:
            raise Unreachable(
                f"{self._target.url}: {error.strerror or error}; is the platform up? `fraudscale status` tells"
            ) from error

    def _pump(self) -> None:
        """Send what is due as far as connections are free; set the timer for what comes next."""
        while self._next is not None:
            now = perf_counter()
            if now - self._start < self._next.due:
                self._wake_after(self._next.due - (now - self._start))
                return
            self._close_idle(now)
            if not self._free:
                self._open_more()
                return
            connection = self._free.pop()
            self._busy[connection] = None
            connection.send(self._next, self._head, now)
            self._measures.took(self._next.due, now - self._start)
            self._next = next(self._items, None)

    def _close_idle(self, now: float) -> None:
        """Close what is free for too long; the free ones lie in the order of their last use, the oldest first."""
        while self._free and now - self._free[0].idle_since > IDLE_SECONDS:
            self._free.pop(0).give_up("")

    def _wake_after(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._pump)

    def _open_more(self) -> None:
        total = len(self._busy) + len(self._opening)
        for _ in range(min(OPEN_AT_ONCE - len(self._opening), self._target.connections - total)):
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            await self._connect()
        except OSError as error:
            self._not_opened("timeout" if isinstance(error, TimeoutError) else "connection")
        self._pump()

    async def _connect(self) -> None:
        local = (self._target.source, 0) if self._target.source else None
        async with asyncio.timeout(self._target.timeout):
            await self._loop.create_connection(
                lambda: _Connection(self), *self._target.address, local_addr=local, family=socket.AF_INET
            )

    def _not_opened(self, kind: str) -> None:
        """Count a send that had no connection: one that is due, for each that failed to open."""
        at = perf_counter() - self._start
        if self._next is not None and self._next.due <= at:
            self._measures.took(self._next.due, at)
            self._measures.failed(self._next.due, kind)
            self._next = next(self._items, None)

    def _tick(self, now: float) -> None:
        """Give up requests that take too long; end the sending at a stop, and long after the schedule's end."""
        at = now - self._start
        if self._stop.asked and self._next is not None:
            self._stop.at = at
            self._next = None
        if at > self._seconds + self._target.timeout:
            self._next = None
        limit = LAST_ANSWERS_SECONDS if self._stop.asked else self._target.timeout
        for connection in list(self._busy):
            if now - connection.sent_at < limit and self._stop.asked < 2:
                break
            connection.give_up("timeout")
        self._pump()
