"""How good a model is on rows that it has not seen: the figures that travel with it."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from fraudscale.arrays import Floats
from fraudscale.training.train import REVIEW_COST, LabelledRows

ALERT_RATE = 0.01
"""Share of transactions that is looked at in `recall_at_1pct`."""


@dataclass(frozen=True)
class Bin:
    """Transactions of similar score, for the calibration curve."""

    predicted: float
    observed: float
    count: int


def evaluate(scores: Floats, part: LabelledRows, threshold: float) -> dict[str, float]:
    """Compute the metrics of `manifest.json`; docs/model.md says what each means.

    Scores are probabilities, shape (n,); both kinds of label occur; from the threshold on a transaction is reviewed.
    """
    reviewed = scores >= threshold
    caught = reviewed & part.is_fraud
    highest = np.argsort(-scores, kind="stable")[: max(1, round(ALERT_RATE * len(scores)))]
    stolen = float(part.amounts[part.is_fraud].sum())
    missed = stolen - float(part.amounts[caught].sum())
    frauds = int(part.is_fraud.sum())
    return {
        "pr_auc": float(average_precision_score(part.is_fraud, scores)),
        "roc_auc": float(roc_auc_score(part.is_fraud, scores)),
        "recall_at_1pct": float(part.is_fraud[highest].sum() / frauds),
        "precision_at_threshold": float(caught.sum() / max(reviewed.sum(), 1)),
        "recall_at_threshold": float(caught.sum() / frauds),
        "review_rate": float(reviewed.mean()),
        "cost": (missed + REVIEW_COST * float(reviewed.sum())) * 1000 / len(scores),
        "cost_without_model": stolen * 1000 / len(scores),
        "brier": float(brier_score_loss(part.is_fraud, scores)),
        "ece": sum(b.count * abs(b.predicted - b.observed) for b in calibration_bins(scores, part))
        / len(scores),
        "fraud_rate": frauds / len(scores),
    }


def calibration_bins(scores: Floats, part: LabelledRows) -> list[Bin]:
    """Group transactions by score, each group half as large as the one below it.

    With 1 % of fraud, groups of equal size would put nearly all fraud into the last one; halving gives the high scores,
    where decisions are made, groups of their own. The highest group holds at least 50 transactions.
    """
    order = np.argsort(scores, kind="stable")
    bins, begin = [], 0
    while begin < len(order):
        left = len(order) - begin
        group = order[begin : begin + (left if left < 100 else left // 2)]
        bins.append(Bin(float(scores[group].mean()), float(part.is_fraud[group].mean()), len(group)))
        begin += len(group)
    return bins
