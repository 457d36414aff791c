"""Pictures and tables of a training, for the registry and the docs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from fraudscale.arrays import Floats
from fraudscale.scoring.features import FEATURES
from fraudscale.training.data import Progress
from fraudscale.training.evaluate import calibration_bins
from fraudscale.training.train import LabelledRows, Prepared, fit, predict

RAW: Final = ("amount", "merchant_category", "hour", "day_of_week", "user_age", "account_balance")
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "`log_amount`": ("log_amount",),
    "`amount_over_balance`": ("amount_over_balance",),
    "`amount_vs_usual`": ("amount_vs_usual",),
    "`is_night`": ("is_night",),
    "`is_weekend`": ("is_weekend",),
    "`hour_sin`, `hour_cos`": ("hour_sin", "hour_cos"),
    "`day_sin`, `day_cos`": ("day_sin", "day_cos"),
    "`age_band`": ("age_band",),
    "all of these: the six raw fields alone": tuple(name for name in FEATURES if name not in RAW),
}
"""What the ablation leaves out, one group at a time."""
ABLATION_SEEDS: Final = (1, 2, 3, 4, 5)

_BLUE, _RED, _GREY = "#1f5fa8", "#c23b22", "#6b6b6b"
_MEANING: Final = {
    "pr_auc": "area under the precision–recall curve (average precision); guessing gives the fraud rate",
    "roc_auc": "area under the ROC curve",
    "recall_at_1pct": "share of the frauds among the 1 % of transactions with the highest scores",
    "precision_at_threshold": "share of frauds among reviewed transactions",
    "recall_at_threshold": "share of frauds that is reviewed",
    "review_rate": "share of transactions that is reviewed",
    "cost": "missed amounts plus 5 for each review, per 1,000 transactions",
    "cost_without_model": "stolen amounts, per 1,000 transactions",
    "brier": "mean squared error of the probability",
    "ece": "mean distance of predicted from observed share of fraud, over groups of similar score",
    "fraud_rate": "share of frauds in the test part",
}


@dataclass(frozen=True)
class Ablation:
    """PR-AUC of models that lack a group of features, one a seed, beside that of models which have all."""

    without: str
    pr_auc: float
    change: float
    """Mean over seeds of PR-AUC without − with."""
    spread: float
    """Standard deviation of that change over seeds."""


def write(
    folder: Path,
    scores: Floats,
    part: LabelledRows,
    *,
    threshold: float,
    metrics: Mapping[str, float],
    ablations: Sequence[Ablation] | None,
) -> None:
    """Write `precision_recall.png`, `calibration.png`, `metrics.md`, and the ablation if there is one.

    Scores are the probabilities of the test part, shape (n,).
    """
    folder.mkdir(parents=True, exist_ok=True)
    _precision_recall(folder / "precision_recall.png", scores, part, threshold)
    _calibration(folder / "calibration.png", scores, part, threshold)
    (folder / "metrics.md").write_text(metrics_table(metrics))
    if ablations is not None:
        (folder / "ablation.md").write_text(ablation_table(ablations))
        content = msgspec.json.encode([asdict(row) for row in ablations])
        (folder / "ablation.json").write_bytes(msgspec.json.format(content))


def ablate(data: Prepared, progress: Progress) -> list[Ablation]:
    """Train without each group of features, with several seeds each, and compare on the test part."""
    runs = {"nothing": FEATURES.keys()} | {
        label: [name for name in FEATURES if name not in group] for label, group in GROUPS.items()
    }
    results: dict[str, Floats] = {}
    for done, (label, names) in enumerate(runs.items()):
        progress("ablation", done / len(runs))
        results[label] = _pr_aucs(data.columns(list(names)))
    progress("ablation", 1.0)
    changes = {label: found - results["nothing"] for label, found in results.items()}
    return [
        Ablation(label, float(found.mean()), float(changes[label].mean()), float(changes[label].std(ddof=1)))
        for label, found in results.items()
    ]


def _pr_aucs(data: Prepared) -> Floats:
    boosters = (fit(data, seed=seed, progress=lambda *_: None) for seed in ABLATION_SEEDS)
    return np.array(
        [average_precision_score(data.test.is_fraud, predict(b, data.test.rows)) for b in boosters]
    )


def metrics_table(metrics: Mapping[str, float]) -> str:
    rows = [f"| `{name}` | {value:.4g} | {_MEANING[name]} |" for name, value in metrics.items()]
    return "\n".join(["| metric | value | meaning |", "|---|---:|---|", *rows, ""])


def ablation_table(ablations: Sequence[Ablation]) -> str:
    rows = [f"| {a.without} | {a.pr_auc:.3f} | {a.change:+.3f} | {a.spread:.3f} |" for a in ablations]
    head = ["| left out | PR-AUC | change | spread of the change over seeds |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *rows, ""])


def _precision_recall(path: Path, scores: Floats, part: LabelledRows, threshold: float) -> None:
    precision, recall, _ = precision_recall_curve(part.is_fraud, scores)
    reviewed = scores >= threshold
    caught = (reviewed & part.is_fraud).sum()
    at = caught / part.is_fraud.sum(), caught / max(reviewed.sum(), 1)
    figure, axes = _picture("Precision and recall on the test part")
    area = average_precision_score(part.is_fraud, scores)
    axes.step(recall, precision, where="post", color=_BLUE, label=f"model, PR-AUC {area:.3f}")
    base = float(part.is_fraud.mean())
    axes.axhline(base, color=_GREY, linestyle="--", linewidth=1, label=f"base rate {base:.2%}")
    axes.plot(*at, "o", color=_RED, label=f"threshold {threshold:.3f}: {reviewed.mean():.2%} reviewed")
    axes.set(xlabel="recall (share of frauds found)", ylabel="precision (share of frauds among those found)")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path)


def _calibration(path: Path, scores: Floats, part: LabelledRows, threshold: float) -> None:
    bins = calibration_bins(scores, part)
    predicted = np.array([b.predicted for b in bins])
    observed = np.array([b.observed for b in bins])
    count = np.array([b.count for b in bins])
    # Standard error of a share; the interval is cut where the logarithmic axis ends.
    error = np.sqrt(np.maximum(observed * (1 - observed), 1e-12) / count)
    figure, axes = _picture("Calibration on the test part")
    low = max(float(min(predicted.min(), observed[observed > 0].min())) / 2, 1e-5)
    axes.plot([low, 1], [low, 1], color=_GREY, linewidth=1, label="perfect calibration")
    below = np.minimum(error, np.maximum(observed - low, 0))
    axes.errorbar(
        predicted,
        observed,
        (below, error),
        fmt="o",
        color=_BLUE,
        capsize=2,
        label="groups of similar score ± s.e.",
    )
    base = float(part.is_fraud.mean())
    axes.axhline(base, color=_GREY, linestyle="--", linewidth=1, label=f"base rate {base:.2%}")
    axes.axvline(threshold, color=_RED, linewidth=1, label=f"threshold {threshold:.3f}")
    axes.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1))
    axes.set(xlabel="predicted probability of fraud", ylabel="observed share of fraud")
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path)


def _picture(title: str) -> tuple[Figure, Axes]:
    # A figure of its own instead of pyplot: no global state, no display, safe in any thread.
    figure = Figure(figsize=(6.4, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
