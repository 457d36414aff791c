"""One small training, shared by the tests that look at different sides of it."""

from datetime import UTC, datetime

import pytest

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def quiet(step, share):
    assert 0 <= share <= 1, step


@pytest.fixture(scope="session")
def generated():
    from fraudscale.training.data import generate

    return generate(1, 40_000, NOW, quiet)


@pytest.fixture(scope="session")
def prepared(generated):
    from fraudscale.training.train import prepare

    return prepare(generated, quiet)


@pytest.fixture(scope="session")
def booster(prepared):
    from fraudscale.training.train import fit

    return fit(prepared, seed=1, progress=quiet)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    from fraudscale.training.run import TrainingRequest, make

    request = TrainingRequest(seed=1, rows=40_000)
    return make(tmp_path_factory.mktemp("made"), request, now=NOW, progress=quiet)
