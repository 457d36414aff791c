"""The whole way from data to a registered model: what `fraudscale train` and the first `make up` call.

LightGBM, scikit-learn and matplotlib take seconds to import; they are imported by `make`, so that asking whether there is
a champion, as every `make up` does, stays quick.
"""

import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from fraudscale import files
from fraudscale.config import ModelSettings
from fraudscale.errors import InputError
from fraudscale.registry import mlflow as registry
from fraudscale.scoring.model import Manifest, Parity
from fraudscale.training.data import Progress, generate, read_file

ROWS = 200_000
"""Generated transactions of a first training: about 650 frauds to learn from, a few seconds of work."""
EXAMPLE_ROWS = 5


@dataclass(frozen=True)
class TrainingRequest:
    """What to train on, and how."""

    data: Path | None = None
    """CSV or Parquet of one's own; None: generate."""
    seed: int = 1
    rows: int = ROWS
    """Of generated data."""
    ablation: bool = False
    """Also train without each group of features: a minute more."""


@dataclass(frozen=True)
class Made:
    """A trained model on disk that has passed the gate of serving; `artifact` and `report` are folders."""

    artifact: Path
    report: Path
    manifest: Manifest
    digest: str
    parity: Parity
    candidate: registry.Candidate
    warnings: list[str] = field(default_factory=list)
    """What a person should know of the data."""


@dataclass(frozen=True)
class TrainResult:
    """A registered model."""

    version: str
    alias: str | None
    """The alias that points to it now, None if it was only registered."""
    digest: str
    metrics: dict[str, float]
    threshold: float
    warnings: list[str] = field(default_factory=list)


def make(folder: Path, request: TrainingRequest, *, now: datetime, progress: Progress) -> Made:
    """Train a model and write it to `folder`/artifact and `folder`/report; no registry is asked.

    Generated data ends before `now` (UTC).

    Raises:
        InputError: `folder` can't be written to, which is found out first.
        DataError: the data can't be trained on.
        ModelRejected: the exported model is not equal to the trained one.
    """
    _try_writing(folder)
    from fraudscale.training import artifact, report  # noqa: PLC0415 - see the module's docstring
    from fraudscale.training.evaluate import evaluate  # noqa: PLC0415
    from fraudscale.training.export import golden_rows  # noqa: PLC0415
    from fraudscale.training.train import choose_threshold, fit, predict, prepare  # noqa: PLC0415

    source = read_file(request.data) if request.data else generate(request.seed, request.rows, now, progress)
    data = prepare(source, progress)
    booster = fit(data, seed=request.seed, progress=progress)
    golden = golden_rows(booster, data.validation.rows, request.seed)
    validation = predict(booster, data.validation.rows)
    threshold = choose_threshold(validation, data.validation, predict(booster, golden))
    scores = predict(booster, data.test.rows)
    metrics = evaluate(scores, data.test, threshold)
    ablations = report.ablate(data, progress) if request.ablation else None
    progress("write", 0.0)
    manifest = artifact.write(
        folder / "artifact",
        booster,
        data=data,
        golden=golden,
        threshold=threshold,
        metrics=metrics,
        source=source,
        seed=request.seed,
        now=now,
    )
    report.write(
        folder / "report", scores, data.test, threshold=threshold, metrics=metrics, ablations=ablations
    )
    model = artifact.verify(folder / "artifact")
    progress("write", 1.0)
    candidate = registry.Candidate(
        artifact=folder / "artifact",
        report=folder / "report",
        metrics=metrics | {"threshold": threshold},
        params={name: str(value) for name, value in manifest.training.items()},
        feature_names=manifest.features,
        example=data.test.rows[:EXAMPLE_ROWS],
    )
    return Made(
        folder / "artifact",
        folder / "report",
        manifest,
        model.digest,
        model.parity,
        candidate,
        source.warnings,
    )


def _try_writing(folder: Path) -> None:
    for part in (folder / "artifact", folder / "report"):
        there = next(found for found in (part, *part.parents) if found.exists())  # the rest is made
        if reason := files.unwritable(there / "draft"):
            raise InputError(
                f"--output {folder}: can't be written to: {there}: {reason}; give another folder"
            )


def train(
    settings: ModelSettings,
    request: TrainingRequest,
    *,
    now: datetime,
    progress: Progress,
    promote: bool = False,
) -> TrainResult:
    """Train a model and register it; it becomes the champion if there is none, or on request.

    Raises:
        DataError: the data can't be trained on.
        ModelRejected: the exported model is not equal to the trained one.
        RegistryUnavailable: nothing was registered, or not all of it.
    """
    champion(settings)  # a registry that can't take the model says so before it is trained
    with tempfile.TemporaryDirectory(prefix="fraudscale-train-") as folder:
        made = make(Path(folder), request, now=now, progress=progress)
        progress("register", 0.0)
        version = registry.register(settings, made.candidate)
        alias = settings.model_alias if promote or champion(settings) is None else None
        if alias is not None:
            registry.set_alias(settings, version, alias)
        progress("register", 1.0)
    manifest = made.manifest
    return TrainResult(version, alias, made.digest, manifest.metrics, manifest.threshold, made.warnings)


def train_if_missing(
    settings: ModelSettings, request: TrainingRequest, *, now: datetime, progress: Progress
) -> TrainResult | None:
    """Train, register and promote a first model, or do nothing and return None where there is a champion.

    Raises:
        DataError: the data can't be trained on.
        ModelRejected: the exported model is not equal to the trained one.
        RegistryUnavailable: whether there is a champion is unknown, or nothing was registered.
    """
    if champion(settings) is not None:
        return None
    return train(settings, request, now=now, progress=progress)


def champion(settings: ModelSettings) -> str | None:
    """Ask for the version that the alias points to; None if there is none yet.

    Raises:
        RegistryUnavailable: it is down, slow, or refuses us.
    """
    try:
        return registry.aliases(settings).get(settings.model_alias)
    except registry.ModelUnknown:
        return None
