"""The one HTTP client for what we ask of other servers.

Nothing is read from the environment: a proxy that is set for a person's browser must not see loopback or a registry.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout

from fraudscale.errors import FraudscaleError

LARGEST_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of a body that is read into memory; a server of somebody else's port may send without end."""
REDIRECTS: Final = 5
CHUNK: Final = 64 * 1024


class NoAnswer(FraudscaleError):
    """The server gave no usable answer in time."""


class Answer(NamedTuple):
    """What a server said, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    body: bytes

    def json(self) -> Any:
        """Read the body as JSON.

        Raises:
            NoAnswer: it is something else.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise NoAnswer(
                f"answers {self.status} with a body that is not JSON: {self.text(80)!r}"
            ) from error

    def text(self, most: int = 200) -> str:
        """Return the beginning of the body, for an error's message."""
        return self.body[: 4 * most].decode(errors="replace")[:most]


class Server:
    """A server at one address: connections are kept open, and may be used from several threads."""

    def __init__(
        self,
        address: str,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        most: int = LARGEST_ANSWER,
    ) -> None:
        """Prepare, without connecting.

        Args:
            address: HOST:PORT or a URL, a path before all paths included.
            seconds: limit of a whole exchange, redirects and body included.
            headers: of every request.
            most: bytes that an answer may have.
        """
        self.address = (address if "://" in address else f"http://{address}").rstrip("/")
        self._seconds = seconds
        self._most = most
        self._pool = urllib3.PoolManager(headers=headers, retries=Retry(0, redirect=REDIRECTS))

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """Exchange one request.

        Args:
            method: such as `GET`.
            path: below the address, beginning with a slash.
            query: added to the path; lists give a name several times.
            body: of the request.
            headers: beside those of every request.
            seconds: instead of the server's limit.

        Raises:
            NoAnswer: no connection, no whole answer in time, or one that is too large.
        """
        content = bytearray()
        with self.stream(method, path, query=query, body=body, headers=headers, seconds=seconds) as answer:
            status, found, chunks = answer
            for chunk in chunks:
                content += chunk
                if len(content) > self._most:
                    raise NoAnswer(f"{self.address} answers more than {self._most} bytes to {path}")
        return Answer(status, found, bytes(content))

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        """As `ask`, but for a body that may be large: status, headers, and the body in chunks as they come.

        Raises:
            NoAnswer: as `ask`, also while the chunks are read.
        """
        limit = seconds or self._seconds
        until = monotonic() + limit
        url = self.address + path + (f"?{urlencode(query, doseq=True)}" if query else "")
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers={**self._pool.headers, **(headers or {})},
                timeout=Timeout(total=limit),
                preload_content=False,
            )
            try:
                yield response.status, response.headers, self._chunks(response, until)
            finally:
                # What was read to its end goes back to the pool; a connection with more to come can't be used again.
                response.close() if not response.closed and response.length_remaining else response.release_conn()
        except (HTTPError, OSError) as error:
            raise NoAnswer(f"{self.address} doesn't answer: {_reason(error)}") from error

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._pool.clear()

    def _chunks(self, response: urllib3.BaseHTTPResponse, until: float) -> Iterator[bytes]:
        # Each read has a limit of its own; a server that sends a byte now and then would hold us for ever.
        for chunk in response.stream(CHUNK):
            if monotonic() > until:
                raise NoAnswer(f"{self.address} did not answer in time")
            yield chunk


def _reason(error: Exception) -> str:
    """The innermost cause in words: urllib3 wraps it in its own classes, with addresses of objects in their text."""
    inner: BaseException = error
    while (cause := getattr(inner, "reason", None) or inner.__cause__ or inner.__context__) and isinstance(
        cause, BaseException
    ):
        inner = cause
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__
