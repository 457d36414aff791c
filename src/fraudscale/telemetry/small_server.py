"""A small HTTP server in a thread of its own, for the few paths of a process without an API, and for the console.

Uvicorn without a framework on top: FastAPI would cost such a process more memory than all of its own work.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from threading import Thread
from typing import Final, NamedTuple, TypeVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fraudscale.errors import FraudscaleError
from fraudscale.telemetry.asgi import (
    PROBLEM_TYPE,
    BodyTooLarge,
    ClientGone,
    Receive,
    Scope,
    Send,
    bad_request,
    problem_json,
    read_body,
    send_whole,
)

PLAIN: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
HEAD_BYTES: Final = 64 * 1024
"""Of a request line and its headers; a query of Prometheus may be long."""
BODY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 2.0
"""More than closing needs: it waits for no answer."""
CLOSE: Final = {"connection": "close"}
"""What is left of a body would be taken for the next request."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Request(NamedTuple):
    """A request without its body."""

    method: str
    """GET for HEAD too: the server sends no body then."""
    path: str
    """As it was sent: percent signs are not decoded."""
    query: str
    """What follows the question mark."""
    headers: Mapping[str, str]
    """Names in lower case."""
    receive: Receive

    async def body(self, limit: int) -> bytes:
        """Read the body.

        Raises:
            Rejected: it did not arrive in time.
            BodyTooLarge: it has more than `limit` bytes.
            ClientGone: the connection was closed.
        """
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await read_body(self.receive, limit)
        except TimeoutError:
            raise Rejected(408, f"the body did not arrive within {BODY_SECONDS:g} s", CLOSE) from None


class Reply(NamedTuple):
    """An answer in one piece."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}


class Rejected(FraudscaleError):
    """The request can't be answered; with the HTTP status to say so."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.reply = Reply(status, PROBLEM_TYPE, problem_json(status, detail), headers or {})


Handler = Callable[[Request], Awaitable[Reply]]
"""Answers a request; may raise `Rejected`. It must not block: `in_thread` is for what takes time."""


class SmallServer:
    """Serves a handler from a thread of its own, so that it answers whatever the other threads of the process do."""

    def __init__(
        self,
        listener: socket.socket,
        handler: Handler,
        *,
        methods: tuple[str, ...] = ("GET", "HEAD"),
        headers: Mapping[str, str] | None = None,
        idle_seconds: int = 75,
    ) -> None:
        """Prepare; answering begins with `start`.

        Args:
            listener: from `listen`; is closed by `stop`.
            handler: of all paths.
            methods: others get 405.
            headers: of every answer.
            idle_seconds: after which a connection is closed that sends nothing; 75 s is longer than Prometheus keeps
                one between two scrapes.
        """
        self._listener = listener
        self._handler = handler
        self._methods = methods
        self._headers = dict(headers or {})
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                http=_Protocol,
                loop="asyncio",
                lifespan="off",
                ws="none",
                interface="asgi3",
                log_config=None,
                log_level=logging.CRITICAL,  # a bad request, or an answer that a stop cut off, is no event
                access_log=False,
                server_header=False,
                proxy_headers=False,
                workers=1,  # else it reads WEB_CONCURRENCY, which is another program's
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=idle_seconds,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="small-server", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the port, after `start`; an answer that is under way and not sent in a moment is cut off."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(STOP_SECONDS)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._handler(self._request(scope, receive))
        except ClientGone:
            return
        except Rejected as error:
            reply = error.reply
        except BodyTooLarge as error:
            reply = Rejected(413, str(error), CLOSE).reply
        except Exception as error:  # every request gets an answer, and the log says why it is this one
            _log.error("a request to %s failed", scope["path"], exc_info=error)
            reply = Rejected(500, "an unexpected error; the log of the process says which").reply
        named = {**self._headers, **reply.headers, "content-type": reply.content_type}
        headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
        await send_whole(send, reply.status, headers, reply.body)

    def _request(self, scope: Scope, receive: Receive) -> Request:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method not in self._methods:
            allowed = ", ".join(self._methods)
            raise Rejected(405, f"only {' and '.join(allowed.rsplit(', ', 1))}", {"allow": allowed})
        return Request(
            method,
            scope["raw_path"].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            receive,
        )


class _Protocol(H11Protocol):
    """Uvicorn's, but a connection on which no request comes is closed too, and a bad request gets problem JSON.

    It is based on h11: the C parser refuses an unknown method as a bad request, where 405 names the allowed ones.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_request()

    def _await_request(self) -> None:
        between = self.cycle is None or self.cycle.response_complete
        if between and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        self.transport.write(bad_request(msg))
        self.transport.close()


async def in_thread(work: Callable[[], T]) -> T:
    """Do what takes time in a thread of its own, so that other requests are answered meanwhile.

    asyncio's own threads would be waited for at the end of the process; these end with it.
    """
    result: Future[T] = Future()

    def run() -> None:
        if not result.set_running_or_notify_cancel():  # nobody waits any more
            return
        try:
            result.set_result(work())
        except Exception as error:  # belongs to who waits
            result.set_exception(error)

    Thread(target=run, name="small-server-work", daemon=True).start()
    return await asyncio.wrap_future(result)
