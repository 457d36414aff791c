"""Fixtures that tests of every kind share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import artifacts
from fraudscale.config import LocalSettings
from fraudscale.local.install.download import load_libgomp

# A busy machine is slow, and no test fails for that.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

KINDS = ("unit", "integration", "e2e")


def pytest_configure():
    # Before test modules are imported: some of them import LightGBM.
    load_libgomp(LocalSettings.read(), print)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Keep the kinds in their order, whatever pytest-randomly has shuffled.

    What needs a quiet machine comes first of its kind, before brokers and platforms that a session shares are started.
    What ends one of these comes last.
    """
    folder = Path(__file__).parent

    def place(item):
        kind = item.path.relative_to(folder).parts[0]
        return (
            KINDS.index(kind),
            item.get_closest_marker("last") is not None,
            item.get_closest_marker("quiet") is None,
        )

    items.sort(key=place)


@pytest.fixture(scope="session")
def make_artifact() -> Callable[..., str]:
    """`make_artifact(folder, bias=…, threshold=…) -> digest`: writes a tiny valid artifact."""
    return artifacts.make_artifact
