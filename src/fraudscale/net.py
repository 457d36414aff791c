"""The one HTTP client for what we ask of other servers.

Proxies of the environment are used where it is asked for: they are meant for the internet, and must not see loopback or a
registry.
"""

import base64
import io
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPResponse
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from fraudscale.errors import FraudscaleError

LARGEST_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of a body that is read into memory; a server of somebody else's port may send without end."""
REDIRECTS: Final = 5
KEPT_OPEN: Final = 16
"""Connections to one host that wait for the next request."""
CHUNK: Final = 64 * 1024
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class NoAnswer(FraudscaleError):
    """The server gave no usable answer in time."""


class TooLate(NoAnswer):
    """The server did not answer in time; it may have done what was asked."""


class AnswerTooLarge(NoAnswer):
    """The server answers more bytes than are taken."""


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


class StreamedAnswer(NamedTuple):
    """An answer whose body comes in chunks."""

    status: int
    chunks: Iterator[bytes]
    """Raises NoAnswer where the body breaks off."""


class Server(AbstractContextManager["Server", None]):
    """A server at one address: connections are kept open, and may be used from several threads."""

    def __init__(
        self,
        address: str,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        most: int = LARGEST_ANSWER,
        proxies: bool = False,
    ) -> None:
        """Prepare, without connecting.

        Args:
            address: HOST:PORT or a URL, a path before all paths included; a name and password in it are not sent.
            seconds: limit of a whole exchange, redirects and body included; only connecting to the host of a redirect
                may take as long once more.
            headers: of every request; another host that a redirect leads to does not get them.
            most: bytes that an answer may have.
            proxies: whether `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` hold.
        """
        url = urlsplit(address if "://" in address else f"http://{address}")
        self.address = urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path.rstrip("/"), "", ""))
        self._seconds = seconds
        self._most = most
        self._headers = dict(headers or {})
        retries = Retry(
            None,
            connect=0,
            read=0,
            other=0,
            redirect=REDIRECTS,
            remove_headers_on_redirect=Retry.DEFAULT_REMOVE_HEADERS_ON_REDIRECT | self._headers.keys(),
        )
        if proxies and (proxy := _proxy(url)):
            credentials = _credentials(urlsplit(proxy))
            self._pool: urllib3.PoolManager = urllib3.ProxyManager(
                proxy, maxsize=KEPT_OPEN, retries=retries, proxy_headers=credentials
            )
        else:
            self._pool = urllib3.PoolManager(maxsize=KEPT_OPEN, retries=retries)
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._pool.clear()

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

        A path begins with a slash; a list in a query gives its name several times; `headers` come beside those of
        every request; `seconds` replace the server's limit.

        Raises:
            TooLate: no whole answer in time.
            AnswerTooLarge: it has more bytes than are taken.
            NoAnswer: no connection, or one that breaks off.
        """
        target = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        content = bytearray()
        with self._response(method, target, seconds or self._seconds, body, headers) as response:
            while chunk := self._read(response):
                content += chunk
                if len(content) > self._most:
                    raise AnswerTooLarge(f"{self.address} answers more than {self._most} bytes to {path}")
        return Answer(response.status, response.headers, bytes(content))

    @contextmanager
    def stream(self, method: str, path: str) -> Iterator[StreamedAnswer]:
        """As `ask`, but for a body of any size: the limit of time counts anew for each chunk.

        Raises:
            NoAnswer: as `ask`, also while the chunks are read.
        """
        with self._response(method, path, self._seconds) as response:
            yield StreamedAnswer(response.status, self._chunks(response))

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        _begin(self._seconds)
        while chunk := self._read(response):
            yield chunk
            _begin(self._seconds)

    @contextmanager
    def _response(
        self,
        method: str,
        target: str,
        seconds: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        _begin(seconds)
        with self._named():
            response = self._pool.request(
                method,
                self.address + target,
                body=body,
                headers={**self._headers, **(headers or {})},
                timeout=seconds,
                preload_content=False,
            )
        try:
            yield response
        finally:
            # One that was read to its end is in the pool already; another can't be used again.
            response.close()
            response.release_conn()

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        with self._named():
            # As it comes, whatever `Content-Encoding` says: we ask for none, and digests are of what was sent.
            return response.read1(CHUNK, decode_content=False)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (HTTPError, OSError) as error:
            cause = _innermost(error)
            kind = TooLate if isinstance(cause, TimeoutError) else NoAnswer
            raise kind(f"{self.address} doesn't answer: {_in_words(cause)}") from error


def basic_auth(username: str, password: str) -> str:
    """Return the header `Authorization` of RFC 7617."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def keep_from_proxies(*addresses: str) -> None:
    """Let the libraries of this process ask loopback, and the servers at these addresses, without a proxy of the environment.

    Ours does anyway. MLflow's client and the exporter of spans do what the environment says, and so does what we start.
    """
    if not getproxies():
        return
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [*LOOPBACK, *(urlsplit(address).hostname or "" for address in addresses)]
    all_spared = dict.fromkeys(filter(None, (host.strip() for host in (*spared.split(","), *hosts))))
    # Both: some libraries read the one, some the other, and most the small one first.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(all_spared)


def _proxy(url: SplitResult) -> str | None:
    address = getproxies().get(url.scheme)
    if not address or proxy_bypass(url.hostname or ""):
        return None
    return address if "://" in address else f"http://{address}"


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    return {"Proxy-Authorization": basic_auth(unquote(proxy.username), unquote(proxy.password or ""))}


_deadline: Final = threading.local()
"""`at`: end of the exchange that this thread is in, on the monotonic clock; connections outlive an exchange."""


def _begin(seconds: float) -> None:
    _deadline.at = monotonic() + seconds


class _Bytes(io.RawIOBase):
    """What comes from a socket until the deadline.

    urllib3 limits each wait only: a server that sends a byte now and then would hold us for ever, also in a head.
    """

    def __init__(self, connection: socket.socket, raw: io.RawIOBase) -> None:
        self._connection = connection
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if (left := _deadline.at - monotonic()) <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(connection, *args, **kwargs)
        self.fp = io.BufferedReader(_Bytes(connection, self.fp.detach()))


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _innermost(error: BaseException) -> BaseException:
    """Find the cause: urllib3 wraps it in its own classes, with addresses of objects in their text."""
    nested = (getattr(error, "reason", None), error.__cause__, *error.args)
    inner = next((one for one in nested if isinstance(one, BaseException)), None)
    return _innermost(inner) if inner else error


def _in_words(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
