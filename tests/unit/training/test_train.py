import re

import numpy as np
import pytest

from fraudscale.scoring.tables import DataError
from fraudscale.training.train import (
    MAX_REVIEW_SHARE,
    LabelledRows,
    choose_threshold,
    fit,
    floor32,
    fold,
    platt,
    predict,
)


def part(is_fraud, amounts=None):
    is_fraud = np.asarray(is_fraud, dtype=bool)
    amounts = np.full(len(is_fraud), 100.0) if amounts is None else np.asarray(amounts)
    return LabelledRows(np.zeros((len(is_fraud), 1), np.float32), is_fraud, amounts)


def test_the_probability_is_calibrated_on_rows_never_seen(prepared, booster):
    scores = predict(booster, prepared.test.rows)
    assert scores.mean() == pytest.approx(prepared.test.is_fraud.mean(), rel=0.35)


def test_the_model_does_not_depend_on_the_number_of_threads(prepared, booster):
    again = fit(prepared, seed=1, threads=2, progress=lambda *_: None)

    def trees(model):
        return re.sub(r"^\[num_threads.*\n", "", model.model_to_string(), flags=re.MULTILINE)

    assert trees(again) == trees(booster)


def test_every_split_is_a_float32(booster):
    splits = [
        float(s)
        for line in re.findall(r"^threshold=(.*)$", booster.model_to_string(), re.MULTILINE)
        for s in line.split()
    ]
    assert len(splits) > 1000
    assert all(float(np.float32(s)) == s for s in splits)


def test_folding_changes_scores_as_said_and_no_decision_of_a_split(prepared, booster):
    folded = fold(booster, 0.7, -1.5)
    rows = prepared.validation.rows
    before, after = (model.predict(rows, raw_score=True) for model in (booster, folded))
    assert after == pytest.approx(0.7 * before - 1.5, abs=1e-12)


def test_floor32_is_the_largest_float32_that_is_not_above():
    for value in np.random.default_rng(1).normal(0, 1000, 500):
        floor = np.float32(floor32(value))
        assert float(floor) <= value < float(np.nextafter(floor, np.float32(np.inf)))


def test_a_split_between_negatives_and_zero_stays_below_what_lightgbm_takes_for_zero():
    assert np.float32(floor32(-1.0000000180025095e-35)) < np.float32(-1e-35)
    assert floor32(0.0) == 0.0


def test_platt_finds_the_logistic_that_made_the_labels():
    random = np.random.default_rng(1)
    raw = random.normal(-2, 2, 50_000)
    labels = random.random(50_000) < 1 / (1 + np.exp(-(0.8 * raw + 0.5)))
    assert platt(raw, labels) == pytest.approx((0.8, 0.5), abs=0.06)


def test_platt_refuses_scores_that_point_the_wrong_way():
    raw = np.linspace(-3, 3, 1000)
    with pytest.raises(DataError, match="labels are right"):
        platt(raw, raw + np.sin(raw * 50) < 0)


def test_the_threshold_reviews_what_pays():
    # Four frauds worth 100 each above, then one worth 3: less than its review of 5.
    scores = np.linspace(0.9, 0.001, 2000)
    chosen = choose_threshold(scores, part([1] * 5 + [0] * 1995, [100.0] * 4 + [3.0] * 1996), np.array([]))
    assert (scores >= chosen).sum() == 4


def test_the_threshold_reviews_at_most_one_percent_with_a_margin():
    scores = np.linspace(0.9, 0.001, 10_000)
    chosen = choose_threshold(scores, part(np.arange(10_000) % 2), np.array([]))
    assert 0.008 < (scores >= chosen).mean() < MAX_REVIEW_SHARE


def test_the_threshold_never_parts_equal_scores_nor_touches_another_one():
    scores = np.concatenate([[0.9, 0.9, 0.9, 0.8], np.linspace(0.1, 0.01, 2000)])
    others = np.array([0.2, 0.3, 0.79])
    chosen = choose_threshold(scores, part([1, 1, 1, 1] + [0] * 2000), others)
    assert chosen == pytest.approx((0.3 + 0.79) / 2)


def test_scores_that_no_threshold_parts_are_refused():
    with pytest.raises(DataError, match="same highest score"):
        choose_threshold(np.full(2000, 0.5), part([1] * 30 + [0] * 1970), np.array([]))


@pytest.mark.parametrize(("gap", "parted"), [(4e-6, False), (5e-6, True)])
def test_the_threshold_does_not_part_scores_that_differ_by_no_more_than_engines_do(gap, parted):
    scores, labels = np.array([2 * gap, gap] + [0.0] * 1998), part([1, 1] + [0] * 1998)
    if parted:
        assert choose_threshold(scores, labels, np.array([])) == pytest.approx(gap / 2)
    else:
        with pytest.raises(DataError, match="same highest score"):
            choose_threshold(scores, labels, np.array([]))


def test_columns_keeps_the_named_features_in_the_given_order(prepared):
    some = prepared.columns(["hour", "amount"])
    assert some.features == ("hour", "amount")
    assert (some.test.rows == prepared.test.rows[:, [2, 0]]).all()
