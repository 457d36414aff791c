import json

import numpy as np
import pytest

from fraudscale.scoring.features import FEATURES
from fraudscale.training import report
from fraudscale.training.evaluate import calibration_bins, evaluate
from fraudscale.training.train import LabelledRows


def part(labels, amounts):
    return LabelledRows(
        np.zeros((len(labels), 1), np.float32), np.array(labels, dtype=bool), np.array(amounts, dtype=float)
    )


def test_metrics_of_four_transactions_by_hand():
    found = evaluate(np.array([0.9, 0.6, 0.4, 0.1]), part([1, 0, 1, 0], [50, 10, 30, 10]), 0.5)
    assert found["review_rate"] == 0.5
    assert found["precision_at_threshold"] == 0.5
    assert found["recall_at_threshold"] == 0.5
    assert found["cost"] == (30 + 2 * 5) * 1000 / 4
    assert found["cost_without_model"] == 80 * 1000 / 4
    assert found["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["roc_auc"] == 0.75


def test_calibrated_scores_have_a_small_calibration_error():
    random = np.random.default_rng(1)
    scores = random.beta(0.3, 5, 50_000)
    labels = random.random(50_000) < scores
    honest = evaluate(scores, part(labels, scores), 0.5)["ece"]
    boastful = evaluate(np.sqrt(scores), part(labels, scores), 0.5)["ece"]
    assert honest < 0.005
    assert boastful > 0.05


def test_calibration_groups_hold_every_transaction_once_and_rise():
    scores = np.random.default_rng(1).random(5000)
    bins = calibration_bins(scores, part(scores > 0.5, scores))
    assert sum(b.count for b in bins) == 5000
    assert min(b.count for b in bins) >= 50
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)


def test_a_training_leaves_pictures_and_a_table(made):
    assert {p.name for p in made.report.iterdir()} == {
        "precision_recall.png",
        "calibration.png",
        "metrics.md",
    }
    assert (made.report / "calibration.png").read_bytes().startswith(b"\x89PNG")
    table = (made.report / "metrics.md").read_text()
    assert all(f"`{name}`" in table for name in made.manifest.metrics)


def test_the_ablation_leaves_out_every_engineered_feature_and_says_what_it_cost(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "ABLATION_SEEDS", (1, 2))
    monkeypatch.setattr(report, "GROUPS", {"`is_night`": ("is_night",), "much": tuple(FEATURES)[2:]})
    rows = report.ablate(prepared, lambda *_: None)
    nothing, night, much = rows
    assert (nothing.without, nothing.change) == ("nothing", 0)
    assert abs(night.change) < 0.1 < -much.change
    _write(tmp_path, rows)
    assert "| much |" in (tmp_path / "ablation.md").read_text()
    assert json.loads((tmp_path / "ablation.json").read_text())[2]["without"] == "much"


def _write(folder, ablations):
    scores = np.linspace(0, 1, 200)
    test = part(scores > 0.7, scores)
    metrics = evaluate(scores, test, 0.6)
    report.write(folder, scores, test, threshold=0.6, metrics=metrics, ablations=ablations)


def test_the_groups_of_the_ablation_cover_all_features_but_the_six_raw_ones():
    *single, everything = report.GROUPS.values()
    assert set().union(*single) == set(everything) == set(FEATURES) - set(report.RAW)
