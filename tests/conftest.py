"""Fixtures that tests of every kind share."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

import artifacts
from fraudscale.config import LocalSettings
from fraudscale.local.install.download import load_libgomp

# A busy machine is slow, and no test fails for that.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure():
    # Before test modules are imported: some of them import LightGBM.
    load_libgomp(LocalSettings.read(), print)


@pytest.fixture(scope="session")
def make_artifact() -> Callable[..., str]:
    """`make_artifact(folder, bias=…, threshold=…) -> digest`: writes a tiny valid artifact."""
    return artifacts.make_artifact
