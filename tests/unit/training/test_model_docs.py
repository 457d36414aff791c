"""What the docs say about the model, held against the code."""

import re
from pathlib import Path

import pytest

from fraudscale.scoring.features import FEATURES
from fraudscale.synthetic import PATTERNS, Drift
from fraudscale.training import report
from fraudscale.training.data import MAX_CATEGORIES, MIN_FRAUDS, ROWS_AT_LEAST, WEEKS

DOCS = Path(__file__).parents[3] / "docs"
MODEL = (DOCS / "model.md").read_text()
FEATURE_PAGE = (DOCS / "reference/features.md").read_text()


def test_every_feature_is_documented_in_order_and_in_the_words_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", FEATURE_PAGE.split("## What each")[0], re.MULTILINE)
    assert rows == list(FEATURES.items())


def test_the_ablation_table_has_a_row_for_each_group():
    assert all(f"| {label} | 0." in FEATURE_PAGE for label in ("nothing", *report.GROUPS))


def test_every_metric_of_a_model_is_documented(made):
    assert all(f"| `{name}` |" in MODEL for name in made.manifest.metrics)


@pytest.mark.parametrize("name", [*PATTERNS, *Drift])
def test_every_kind_of_fraud_and_of_drift_is_documented(name):
    assert f"`{name}`" in MODEL


def test_limits_on_the_page_are_those_of_the_code():
    for text in (
        f"{WEEKS} weeks",
        f"{MAX_CATEGORIES} in all",
        f"{ROWS_AT_LEAST:,} rows",
        f"{MIN_FRAUDS} frauds",
    ):
        assert text in MODEL
