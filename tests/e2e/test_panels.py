"""Each query of the dashboard, asked of the platform's Prometheus, has an answer."""

import math

import pytest

from dashboards import MARKS, QUERIES, filled


@pytest.mark.parametrize(("name", "expression"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_panel_has_data(platform, name, expression):
    def numbers():
        found = [float(series["value"][1]) for series in platform.query(filled(expression))]
        return found and all(map(math.isfinite, found))

    platform.wait(numbers, f"{name} has data: {expression}", 120)


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark["name"])
def test_a_mark_is_a_query_that_prometheus_understands(platform, mark):
    platform.query(filled(mark["expr"]))  # fails for a mistake
