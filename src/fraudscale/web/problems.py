"""Which error is answered with which HTTP status: the only place that knows. The body is RFC 9457 problem JSON."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from fraudscale.errors import FraudscaleError
from fraudscale.scoring.codec import InvalidTransaction
from fraudscale.scoring.lineup import NoModel
from fraudscale.scoring.scorer import PredictionFailed
from fraudscale.telemetry.asgi import BodyTooLarge, FieldError, problem_json


class Problem(FraudscaleError):
    """An error answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.body = problem_json(status, detail, errors)


class Refused(FraudscaleError):
    """A request that the endpoint does not take on."""


class RetryLater(Refused):
    """Not now; `retry_after` seconds are a good time to come back."""

    def __init__(self, retry_after: int, detail: str, *, close: bool = False) -> None:
        """Refuse; `close` the connection where a body is still arriving on it."""
        super().__init__(detail)
        self.retry_after = retry_after
        self.close = close


class Overloaded(RetryLater):
    """More work waits than the replica takes on."""


class RateExceeded(RetryLater):
    """This client asks for more than its share."""


class BodyTimeout(Refused):
    """The request body did not arrive in time."""


class UnsupportedMediaType(Refused):
    """The request body is not declared as plain JSON."""


class _Answer(NamedTuple):
    """How errors of one class are answered."""

    status: int
    detail: str = ""
    """Instead of the error's text, which may say too much to a stranger; "" for the error's text."""
    headers: Mapping[str, str] = {}


_CLOSE: Final = {"connection": "close"}
"""What is left of a body is not read, so the connection can't be used again."""
_ANSWERS: Final[Mapping[type[BaseException], _Answer]] = {
    BodyTimeout: _Answer(408, headers=_CLOSE),
    BodyTooLarge: _Answer(413, headers=_CLOSE),
    UnsupportedMediaType: _Answer(415, headers={"accept": "application/json", "accept-encoding": "identity"}),
    InvalidTransaction: _Answer(422),
    RateExceeded: _Answer(429),
    PredictionFailed: _Answer(500, "the model failed on this transaction; the log of the replica says why"),
    NoModel: _Answer(503, "no model was loaded yet; see /readyz", {"retry-after": "3"}),
    Overloaded: _Answer(503),
    Exception: _Answer(500, "an unexpected error; the log of the replica says which"),
}


def problem_of(error: Exception) -> Problem:
    """Translate an error of the layers below, by the most specific of its classes that has an answer."""
    if isinstance(error, Problem):
        return error
    answer = next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)
    headers = dict(answer.headers)
    if isinstance(error, RetryLater):
        headers = {"retry-after": str(error.retry_after), **(_CLOSE if error.close else {})}
    errors = (FieldError(error.field, error.reason),) if isinstance(error, InvalidTransaction) else ()
    return Problem(answer.status, answer.detail or str(error), errors=errors, headers=headers)
