"""Writes the artifact folder that `scoring/model.py` describes, and puts it through the gate that serving has."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import lightgbm
import msgspec
import numpy as np

from fraudscale.clock import rfc3339
from fraudscale.scoring.drift import reference_bins
from fraudscale.scoring.features import Rows
from fraudscale.scoring.model import (
    ENGINE_FILE,
    FORMAT,
    GOLDEN_FILE,
    MANIFEST,
    SERVED_FILES,
    Bins,
    Manifest,
    Model,
    build,
    digest_of,
)
from fraudscale.training.data import Dataset
from fraudscale.training.export import golden_file, to_onnx
from fraudscale.training.train import LEAVES, TREES, Prepared, predict

TEXT_FILE: Final = "model.lgb"


def write(
    folder: Path,
    booster: lightgbm.Booster,
    *,
    data: Prepared,
    golden: Rows,
    threshold: float,
    metrics: Mapping[str, float],
    source: Dataset,
    seed: int,
    now: datetime,
) -> Manifest:
    """Write a model's files, the manifest last; create the folder if need be.

    Splits of the booster are float32, `golden` are rows to replay, shape (n, k). Validation and test become the reference of
    drift: recent, and unseen in training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        ENGINE_FILE: to_onnx(booster),
        GOLDEN_FILE: golden_file(golden, predict(booster, golden)),
        TEXT_FILE: booster.model_to_string().encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    manifest = Manifest(
        format=FORMAT,
        features=data.features,
        categories=data.featurizer.categories,
        usual_amounts=data.featurizer.usual_amounts,
        threshold=threshold,
        metrics=dict(metrics),
        reference=_reference(booster, data),
        trained_at=rfc3339(now, "seconds"),
        training={
            "origin": source.origin,
            "period": source.period,
            "rows": len(source.transactions),
            "rows_trained_on": len(data.train.rows),
            "seed": seed,
            "trees": TREES,
            "leaves": LEAVES,
            "lightgbm": lightgbm.__version__,
        },
        files={name: digest_of(content) for name, content in contents.items()},
    )
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


def verify(folder: Path) -> Model:
    """Build the model from its files as a serving process does.

    Raises:
        ModelRejected: serving would refuse it.
    """
    files = {name: (folder / name).read_bytes() for name in (*SERVED_FILES, TEXT_FILE)}
    return build((folder / MANIFEST).read_bytes(), files, version="candidate", alias="")


def _reference(booster: lightgbm.Booster, data: Prepared) -> dict[str, Bins]:
    rows = np.concatenate([data.validation.rows, data.test.rows])
    bins = {name: reference_bins(rows[:, index]) for index, name in enumerate(data.features)}
    return bins | {"fraud_probability": reference_bins(predict(booster, rows))}
