"""Prometheus, asked for the page: only what reads, bounded in time, in size and in number."""

import re
from threading import BoundedSemaphore
from typing import Final

from fraudscale.net import AnswerTooLarge, NoAnswer, Server, TooLate
from fraudscale.telemetry.small_server import JSON, Rejected, Reply

ANSWER_BYTES: Final = 8 * 1024 * 1024
TIMEOUT_SECONDS: Final = 10.0
AT_ONCE: Final = 8
"""Questions under way; one more waits for its turn as long as Prometheus may take."""
READS: Final = re.compile(
    r"/api/v1/(query|query_range|series|labels|label/[a-zA-Z_][a-zA-Z0-9_]*/values|alerts|rules)"
)
"""What may be asked; Prometheus takes no change at these."""
FORM: Final = "application/x-www-form-urlencoded"


class Prometheus:
    """One server; any thread may ask."""

    def __init__(self, address: str, timeout: float = TIMEOUT_SECONDS, at_once: int = AT_ONCE) -> None:
        """Remember where it is; a path of the address comes before all paths."""
        self._server = Server(address, seconds=timeout, most=ANSWER_BYTES)
        self._timeout = timeout
        self._turns = BoundedSemaphore(at_once)

    def ask(self, method: str, path: str, query: str, form: bytes | None = None) -> Reply:
        """Pass a question on, and nothing of its headers.

        Raises:
            Rejected: no such path, no answer, one that is too large, or too many questions.
        """
        if READS.fullmatch(path) is None:
            raise Rejected(
                404, f"{path} is not passed on: only queries, series, labels, alerts and rules are"
            )
        if not self._turns.acquire(timeout=self._timeout):
            raise Rejected(503, "too many questions to Prometheus are under way; try again")
        try:
            return self._asked(method, path + (f"?{query}" if query else ""), form)
        finally:
            self._turns.release()

    def _asked(self, method: str, target: str, form: bytes | None) -> Reply:
        headers = {} if form is None else {"content-type": FORM}
        try:
            answer = self._server.ask(method, target, body=form, headers=headers)
        except TooLate:
            raise Rejected(504, f"Prometheus did not answer within {self._timeout:g} s") from None
        except AnswerTooLarge:
            raise Rejected(
                502, f"the answer is larger than {ANSWER_BYTES} bytes: ask for less time, or fewer series"
            ) from None
        except NoAnswer as error:
            raise Rejected(502, f"Prometheus: {error}") from None
        if "json" not in answer.headers.get("content-type", ""):
            raise Rejected(502, f"Prometheus answered {answer.status} and no JSON")
        return Reply(answer.status, JSON, answer.body)
