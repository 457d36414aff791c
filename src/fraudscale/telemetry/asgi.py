"""What all our HTTP servers share below any framework: the socket, a request's body, an error's shape.

An error is answered as RFC 9457 problem JSON, in one stable shape. The balancer's own errors have it too.

    {"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "hour: Expected `int` <= 23",
     "errors": [{"field": "hour", "reason": "Expected `int` <= 23"}]}

`errors` is there for 422 only.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec

from fraudscale.config import SettingsError
from fraudscale.errors import FraudscaleError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

PROBLEM_TYPE: Final = "application/problem+json"
REPLICA_HEADER: Final = "fraudscale-replica"
"""Of the answer to `/readyz`: who is ready. A balancer knows its replicas by it, since anybody may answer 200."""
BACKLOG: Final = 2048
"""Connections that wait to be accepted."""
READ_ON: Final = 8
"""A body that is too large is read to so many times the limit before the connection is closed on it."""
# RFC 9110's names; http.HTTPStatus has them from Python 3.13 on.
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}


class ClientGone(FraudscaleError):
    """The client closed the connection; nobody waits for the answer."""


class BodyTooLarge(FraudscaleError):
    """The request body is longer than allowed."""


class FieldError(msgspec.Struct, frozen=True):
    """Where the input is wrong, and why."""

    field: Annotated[
        str, msgspec.Meta(description='path such as `hour` or `transactions[3].hour`; "" for the whole body')
    ]
    reason: str


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every error answer."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


def problem_json(status: int, detail: str, errors: Iterable[FieldError] = ()) -> bytes:
    """Encode the body of an error answer."""
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    return msgspec.json.encode(ProblemBody("about:blank", title, status, detail, list(errors)))


def bad_request(detail: str) -> bytes:
    """Make the whole answer to what is no request; the connection must be closed after it."""
    body = problem_json(400, detail)
    head = f"content-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return b"HTTP/1.1 400 Bad Request\r\n" + head.encode() + b"\r\n" + body


def listen(setting: str, host: str, port: int) -> socket.socket:
    """Take a port, IPv4 or IPv6; connections wait in it until a server accepts them.

    Raises:
        SettingsError: the port can't be listened on; names the setting.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"{setting}={port}: can't listen on {host}:{port}: {error.strerror}; stop what uses it, or set another"
        ) from error
    listener.setblocking(False)
    return listener


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a whole body of at most `limit` bytes.

    Raises:
        BodyTooLarge: it is longer.
        ClientGone: the connection was closed.
    """
    body, size, more = b"", 0, True
    # The excess is read for a while and thrown away: a client that is still sending when the connection is closed sees
    # a reset instead of the answer.
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


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send an answer in one piece; its length is added to the headers."""
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
