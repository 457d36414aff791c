"""A tiny valid artifact, made by hand: one logistic unit whose golden answers numpy computes on its own."""

import io
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraudscale.scoring.features import FEATURES
from fraudscale.scoring.model import ENGINE_FILE, FORMAT, GOLDEN_FILE, MANIFEST, Bins, Manifest, digest_of
from fraudscale.scoring.records import CATEGORIES

WEIGHTS = {"is_night": 2.0, "amount_vs_usual": 0.5, "hour_sin": 0.25}
"""What the unit looks at; all other features weigh nothing."""


def make_artifact(
    folder: Path, *, bias: float = -3.0, threshold: float = 0.5, golden_shift: float = 0.0
) -> str:
    """Write the folder's files and return the artifact's digest.

    Args:
        bias: another bias makes another model: −3 calls little fraud, 50 everything.
        golden_shift: added to the golden answers; anything but 0 makes an artifact that fails parity.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.array([[WEIGHTS.get(name, 0.0)] for name in FEATURES], dtype=np.float32)
    rows = np.random.default_rng(1).uniform(0, 1, (64, len(FEATURES))).astype(np.float32)
    logits = rows.astype(np.float64) @ weights.astype(np.float64) + bias
    golden = io.BytesIO()
    np.savez_compressed(golden, rows=rows, probabilities=1 / (1 + np.exp(-logits[:, 0])) + golden_shift)
    files = {ENGINE_FILE: _logistic(weights, bias), GOLDEN_FILE: golden.getvalue()}
    manifest = Manifest(
        format=FORMAT,
        features=tuple(FEATURES),
        categories=CATEGORIES,
        usual_amounts=(50.0,) * len(CATEGORIES),
        threshold=threshold,
        metrics={"pr_auc": 0.9},
        reference={"amount": Bins((10.0,), (0.5, 0.5))},
        trained_at="2026-11-01T00:00:00Z",
        training={"seed": "1"},
        files={name: digest_of(content) for name, content in files.items()},
    )
    for name, content in (files | {MANIFEST: msgspec.json.encode(manifest)}).items():
        (folder / name).write_bytes(content)
    return digest_of((folder / MANIFEST).read_bytes())


def _logistic(weights: np.ndarray, bias: float) -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["rows", "weights"], ["products"]),
            helper.make_node("Add", ["products", "bias"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
        ],
        "logistic",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([bias], dtype=np.float32), "bias"),
        ],
    )
    # The newest opset and IR that onnx can write may be too new for the engine; these are old enough for any.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
