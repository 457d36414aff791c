"""Prometheus, asked for the page: only what reads, bounded in time, in size and in number."""

import re
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import BoundedSemaphore
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from fraudscale.errors import FraudscaleError

ANSWER_BYTES: Final = 8 * 1024 * 1024
TIMEOUT_SECONDS: Final = 10.0
AT_ONCE: Final = 8
"""Questions under way; one more waits for its turn as long as Prometheus may take."""
READS: Final = re.compile(
    r"/api/v1/(query|query_range|series|labels|label/[a-zA-Z_][a-zA-Z0-9_]*/values|alerts|rules)"
)
"""What may be asked; Prometheus takes no change at these."""
FORM: Final = "application/x-www-form-urlencoded"


class Refused(FraudscaleError):
    """Prometheus gave no answer that can be passed on; with the HTTP status to say so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Answer(NamedTuple):
    status: int
    body: bytes
    """JSON."""


class Prometheus:
    """One server; any thread may ask."""

    def __init__(self, url: str, timeout: float = TIMEOUT_SECONDS, at_once: int = AT_ONCE) -> None:
        """Remember where it is; nothing is asked yet.

        Args:
            url: of the server, such as http://127.0.0.1:9090.
            timeout: seconds for connecting, and for each part of an answer.
            at_once: questions under way at most.
        """
        self._url = urlsplit(url)
        self._timeout = timeout
        self._turns = BoundedSemaphore(at_once)

    def ask(self, method: str, path: str, query: str, form: bytes | None = None) -> Answer:
        """Pass a question on.

        Args:
            method: GET or POST.
            path: which `READS` allows.
            query: what follows the question mark; "" for nothing.
            form: of a POST.

        Raises:
            Refused: no such path, no answer, one that is too large, or too many questions.
        """
        if READS.fullmatch(path) is None:
            raise Refused(404, f"{path} is not passed on: only queries, series, labels, alerts and rules are")
        if not self._turns.acquire(timeout=self._timeout):
            raise Refused(503, "too many questions to Prometheus are under way; try again")
        try:
            return self._asked(method, path + (f"?{query}" if query else ""), form)
        finally:
            self._turns.release()

    def _asked(self, method: str, target: str, form: bytes | None) -> Answer:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.netloc, timeout=self._timeout)
        headers: Mapping[str, str] = {"Content-Type": FORM} if form is not None else {}
        try:
            connection.request(method, self._url.path.rstrip("/") + target, form, headers)
            response = connection.getresponse()
            body = response.read(ANSWER_BYTES + 1)
        except TimeoutError:
            raise Refused(504, f"Prometheus did not answer within {self._timeout:g} s") from None
        except (OSError, HTTPException) as error:
            raise Refused(502, f"Prometheus does not answer at {self._url.geturl()}: {error}") from None
        finally:
            connection.close()
        if len(body) > ANSWER_BYTES:
            raise Refused(
                502, f"the answer is larger than {ANSWER_BYTES} bytes: ask for less time, or fewer series"
            )
        if "json" not in response.headers.get("Content-Type", ""):
            raise Refused(502, f"Prometheus answered {response.status} and no JSON")
        return Answer(response.status, body)
