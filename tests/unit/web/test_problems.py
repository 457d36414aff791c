import json

import pytest

from fraudscale.errors import FraudscaleError
from fraudscale.scoring.codec import InvalidTransaction
from fraudscale.scoring.lineup import NoModel
from fraudscale.scoring.scorer import PredictionFailed
from fraudscale.telemetry.asgi import BodyTooLarge
from fraudscale.web.problems import (
    BodyTimeout,
    Overloaded,
    Problem,
    UnsupportedMediaType,
    problem_of,
)


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (InvalidTransaction("hour", "The field is required"), 422, {}),
        (BodyTooLarge("too large"), 413, {"connection": "close"}),
        (BodyTimeout("too slow"), 408, {"connection": "close"}),
        (
            UnsupportedMediaType("not JSON"),
            415,
            {"accept": "application/json", "accept-encoding": "identity"},
        ),
        (NoModel("no model"), 503, {"retry-after": "3"}),
        (Overloaded(2, "busy"), 503, {"retry-after": "2"}),
        (PredictionFailed("secret detail"), 500, {}),
        (RuntimeError("secret detail"), 500, {}),
        (Problem(404, "nothing here"), 404, {}),
    ],
)
def test_each_error_has_one_status_and_the_same_shape(error, status, headers):
    problem = problem_of(error)
    body = json.loads(problem.body)
    assert (problem.status, problem.headers) == (status, headers)
    assert body.keys() - {"errors"} == {"type", "title", "status", "detail"}
    assert body["status"] == status
    assert "secret" not in body["detail"]


def test_bad_input_names_the_field_and_the_reason():
    body = json.loads(problem_of(InvalidTransaction("hour", "Expected `int` <= 23")).body)
    assert body["errors"] == [{"field": "hour", "reason": "Expected `int` <= 23"}]
    assert body["detail"] == "hour: Expected `int` <= 23"


def test_an_error_is_answered_by_the_most_specific_of_its_classes():
    class Busier(Overloaded):
        """A kind that the table does not know."""

    class Strange(FraudscaleError):
        """Text for the log, not for a stranger."""

    busier = problem_of(Busier(7, "busier"))
    assert (busier.status, busier.headers, str(busier)) == (503, {"retry-after": "7"}, "busier")
    strange = problem_of(Strange())
    assert (strange.status, "log of the replica" in str(strange)) == (500, True)
