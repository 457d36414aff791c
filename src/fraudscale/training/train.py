"""Labelled transactions to a calibrated LightGBM model with a threshold.

Calibration (Platt) is folded into the trees, and every split is moved onto a float32 value, so that one text file is
the whole model: whatever evaluates it on float32 rows gives the calibrated probability.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression

from fraudscale.arrays import Bools, Floats
from fraudscale.scoring.features import FEATURES, Featurizer, Rows, usual_amounts
from fraudscale.scoring.tables import DataError
from fraudscale.training.data import Dataset, Progress, categories_of, split

TREES: Final = 200
LEAVES: Final = 31
THREADS: Final = 1
"""OpenMP's threads spin while they wait: beside a platform that is just starting, two take ten times as long as one."""
REVIEW_COST: Final = 5.0
"""What the review of one transaction costs, in units of the account's currency; a missed fraud costs its amount."""
MAX_REVIEW_SHARE: Final = 0.01

# LightGBM reads values this near to 0 as 0 (`kZeroThreshold` in its meta.h) and splits there, between the negative and 0:
# a row at −1e-35 is "above" such a split for LightGBM, and must be so for every engine.
_ZERO: Final = np.float32(1e-35)
_ROUNDING: Final = 4e-6
"""A threshold keeps this distance from scores: engines differ by up to a quarter of it."""


@dataclass(frozen=True)
class LabelledRows:
    """The rows of one part of the data, ready for a model."""

    rows: Rows
    is_fraud: Bools
    amounts: Floats


@dataclass(frozen=True)
class Prepared:
    """A dataset as rows, with what the featurizer learned from its training part."""

    featurizer: Featurizer
    features: tuple[str, ...]
    train: LabelledRows
    calibration: LabelledRows
    validation: LabelledRows
    test: LabelledRows

    def columns(self, names: Sequence[str]) -> "Prepared":
        """Give the same data with some of the features only."""
        indices = [self.features.index(name) for name in names]
        parts = {
            name: LabelledRows(part.rows[:, indices], part.is_fraud, part.amounts)
            for name, part in vars(self).items()
            if isinstance(part, LabelledRows)
        }
        return Prepared(self.featurizer, tuple(names), **parts)


def prepare(data: Dataset, progress: Progress) -> Prepared:
    """Split by time and compute features; the categories and their usual amounts come from the training part alone.

    Raises:
        DataError: a part is too small.
    """
    parts = split(data)
    categories = categories_of(data.transactions[parts.train])
    featurizer = Featurizer(categories, usual_amounts(data.transactions[parts.train], categories))
    made = {}
    for done, (name, part) in enumerate(parts.all.items()):
        progress("features", done / len(parts.all))
        transactions = data.transactions[part]
        amounts = np.array([t.amount for t in transactions])
        made[name] = LabelledRows(featurizer.rows(transactions), data.is_fraud[part], amounts)
    progress("features", 1.0)
    return Prepared(featurizer, tuple(FEATURES), **made)


def fit(data: Prepared, *, seed: int, progress: Progress, threads: int = THREADS) -> lightgbm.Booster:
    """Train, calibrate, and move splits onto float32: the booster's `predict` is the calibrated probability.

    The model is the same for any number of threads.

    Raises:
        DataError: the calibration part contradicts what was learned.
    """
    booster = _grow(data.train, data.features, seed, threads, progress)
    raw = np.asarray(booster.predict(data.calibration.rows, raw_score=True), dtype=np.float64)
    slope, offset = platt(raw, data.calibration.is_fraud)
    return fold(booster, slope, offset)


def _grow(
    part: LabelledRows, features: Sequence[str], seed: int, threads: int, progress: Progress
) -> lightgbm.Booster:
    parameters = {
        "objective": "binary",
        "num_leaves": LEAVES,
        # Few frauds: slow steps, large leaves and half of the features at each tree keep the trees from learning them by heart.
        "learning_rate": 0.03,
        "min_data_in_leaf": 60,
        "lambda_l2": 5.0,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    rows = lightgbm.Dataset(part.rows, part.is_fraud, feature_name=list(features), params=parameters)

    def told(env: Any) -> None:
        progress("train", (env.iteration + 1) / TREES)

    return lightgbm.train(parameters, rows, TREES, callbacks=[told])


def predict(booster: lightgbm.Booster, rows: Rows) -> Floats:
    """Probabilities of rows, shape (n, k) → (n,)."""
    return np.asarray(booster.predict(rows), dtype=np.float64)


def platt(raw: Floats, is_fraud: Bools) -> tuple[float, float]:
    """Fit probability = σ(slope·raw + offset) (Platt 1999).

    Raises:
        DataError: higher scores don't mean more fraud in this part.
    """
    logistic = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(raw[:, None], is_fraud)
    slope, offset = float(logistic.coef_[0, 0]), float(logistic.intercept_[0])
    if not slope > 0:
        raise DataError(
            f"the patterns of the training part don't hold in the calibration part (slope {slope:.3g}): "
            "check that the labels are right and that the rows are in order of time"
        )
    return slope, offset


def fold(booster: lightgbm.Booster, slope: float, offset: float) -> lightgbm.Booster:
    """Return the booster with scores slope·raw + offset, and splits that float32 rows pass as before.

    A split `x ≤ t` with the largest float32 not above t sends every float32 x the same way, and can be written to a
    float32 engine without loss.
    """
    text = booster.model_to_string()
    # Offsets of trees in the text, which editing moves; LightGBM then reads the trees one after another.
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)
    header, *trees = re.split(r"^(?=Tree=)", text, flags=re.MULTILINE)
    edited = [header]
    for index, tree in enumerate(trees):
        shift = 0.0 if index else offset

        def moved(value: float, shift: float = shift) -> float:
            return slope * value + shift

        edited.append(_edit(_edit(tree, "leaf_value", moved), "internal_value", moved))
    folded = [_edit(tree, "threshold", floor32) for tree in edited]
    return lightgbm.Booster(model_str="".join(folded))


def _edit(tree: str, key: str, change: Callable[[float], float]) -> str:
    def line(match: re.Match[str]) -> str:
        return f"{key}=" + " ".join(repr(change(float(value))) for value in match[1].split())

    return re.sub(rf"^{key}=(.*)$", line, tree, flags=re.MULTILINE)


def floor32(value: float) -> float:
    """Give the largest float32 that is not above the value, and never one that LightGBM would take for 0."""
    if -_ZERO <= value < 0:
        value = float(np.nextafter(-_ZERO, np.float32(-np.inf)))
    nearest = np.float32(value)
    return float(nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf)))


def choose_threshold(scores: Floats, part: LabelledRows, others: Floats) -> float:
    """Choose the threshold of least cost among those that send at most 1 % of transactions to review.

    A missed fraud costs its amount, a review `REVIEW_COST`. The share is kept with a margin of one standard error, so that
    chance in the following weeks doesn't exceed it at once. The threshold lies in the widest gap between neighbouring
    scores, away from all of `others` too, so that no rounding flips a decision.

    Scores have the shape (n,); `others`, shape (m,), are further scores to keep away from.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    missed = np.cumsum(np.where(part.is_fraud[order], part.amounts[order], 0.0))
    reviews = np.arange(1, len(scores))
    cost = missed[-1] - missed[:-1] + REVIEW_COST * reviews
    allowed = (reviews + np.sqrt(reviews) <= MAX_REVIEW_SHARE * len(scores)) & (
        ordered[:-1] - ordered[1:] > _ROUNDING
    )
    if not allowed.any():
        raise DataError(
            "more than 1 % of the validation part have the same highest score: no threshold separates them"
        )
    best = int(np.argmin(np.where(allowed, cost, np.inf)))
    high, low = ordered[best], ordered[best + 1]
    marks = np.unique(np.concatenate([[low, high], others[(others > low) & (others < high)]]))
    widest = int(np.argmax(np.diff(marks)))
    return math.fsum(marks[widest : widest + 2]) / 2
