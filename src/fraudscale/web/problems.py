"""The only place with HTTP error codes and bodies: RFC 9457 problem JSON, one stable shape.

    {"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "hour: Expected `int` <= 23",
     "errors": [{"field": "hour", "reason": "Expected `int` <= 23"}]}

`errors` is there for 422 only. The balancer's own errors have the same shape.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fraudscale.errors import FraudscaleError
from fraudscale.scoring.codec import InvalidTransaction
from fraudscale.scoring.scorer import NoModel, PredictionFailed

CONTENT_TYPE: Final = b"application/problem+json"
# RFC 9110's names; http.HTTPStatus has them from Python 3.13 on.
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}


class FieldError(msgspec.Struct, frozen=True):
    """Where the input is wrong, and why."""

    field: Annotated[
        str, Meta(description='path such as `hour` or `transactions[3].hour`; "" for the whole body')
    ]
    reason: str


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every error answer."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


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
        title = _TITLES.get(status) or HTTPStatus(status).phrase
        self.body = msgspec.json.encode(ProblemBody("about:blank", title, status, detail, list(errors)))


class Refused(FraudscaleError):
    """A request that the door does not take on."""


class Later(Refused):
    """Not now; `retry_after` seconds are a good time to come back."""

    def __init__(self, retry_after: int, detail: str, *, close: bool = False) -> None:
        """Refuse; `close` the connection where a body is still arriving on it."""
        super().__init__(detail)
        self.retry_after = retry_after
        self.close = close


class Overloaded(Later):
    """More work waits than the replica takes on."""


class RateExceeded(Later):
    """This client asks for more than its share."""


class BodyTooLarge(Refused):
    """The request body is longer than allowed."""


class BodyTimeout(Refused):
    """The request body did not arrive in time."""


class UnsupportedMediaType(Refused):
    """The request body is not declared as JSON."""


_STATUS: Final[Mapping[type[Exception], int]] = {
    BodyTimeout: 408,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    InvalidTransaction: 422,
    RateExceeded: 429,
    PredictionFailed: 500,
    NoModel: 503,
    Overloaded: 503,
}
_DETAIL: Final[Mapping[type[Exception], str]] = {
    PredictionFailed: "the model failed on this transaction; the log of the replica says why",
    NoModel: "no model was loaded yet; see /readyz",
}
_CLOSE: Final = {"connection": "close"}
"""What is left of a body is not read, so the connection can't be used again."""


def problem_of(error: Exception) -> Problem:
    """Translate an error of the layers below; one that is not known is a 500 without details."""
    if isinstance(error, Problem):
        return error
    kind = type(error)
    if kind not in _STATUS:
        return Problem(500, "an unexpected error; the log of the replica says which")
    headers: Mapping[str, str] = {}
    errors: tuple[FieldError, ...] = ()
    match error:
        case BodyTimeout() | BodyTooLarge():
            headers = _CLOSE
        case NoModel():
            headers = {"retry-after": "3"}
        case Later(retry_after=seconds, close=close):
            headers = {"retry-after": str(seconds), **(_CLOSE if close else {})}
        case InvalidTransaction(field=field, reason=reason):
            errors = (FieldError(field, reason),)
    return Problem(_STATUS[kind], _DETAIL.get(kind, str(error)), errors=errors, headers=headers)
