"""A LightGBM booster to ONNX, and the golden rows that prove the two equal."""

import io
import itertools
from collections.abc import Iterator
from typing import Any, Final

import lightgbm
import numpy as np
import onnx
from onnx import TensorProto, helper

from fraudscale.arrays import Floats
from fraudscale.scoring.features import Rows

RANDOM_ROWS: Final = 2000
_BASES: Final = 64  # rows that split rows are copies of: few, so that the file compresses well
# Versions of the operator sets and of the format: the oldest that have all we use, so that any runtime reads them.
_OPSETS: Final = (("", 13), ("ai.onnx.ml", 3))
_IR_VERSION: Final = 8


def to_onnx(booster: lightgbm.Booster) -> bytes:
    """Write the trees as one `TreeEnsembleRegressor`: "features" float32 (n, k) → "probability" float32 (n, 1).

    Raises:
        ValueError: a split that is not `≤` on a number, which our training never makes.
    """
    dump = booster.dump_model()
    nodes = _Nodes()
    for tree in dump["tree_info"]:
        nodes.add_tree(tree["tree_index"], tree["tree_structure"])
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["score"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        **nodes.attributes,  # type: ignore[arg-type]  # attributes are typed as if all were the name
    )
    # The ensemble's own LOGISTIC is applied value by value; the operator is as exact and vectorised.
    logistic = helper.make_node("Sigmoid", ["score"], ["probability"])
    columns = len(dump["feature_names"])
    graph = helper.make_graph(
        [ensemble, logistic],
        "fraud",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="fraudscale")
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


class _Nodes:
    """The ensemble's attributes: parallel lists with an entry a node, or a leaf."""

    def __init__(self) -> None:
        self.attributes: dict[str, list[Any]] = {
            f"nodes_{name}": []
            for name in (
                "treeids",
                "nodeids",
                "featureids",
                "values",
                "modes",
                "truenodeids",
                "falsenodeids",
            )
        } | {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add_tree(self, tree: int, root: dict[str, Any]) -> None:
        self._add(tree, root, itertools.count())

    def _add(self, tree: int, node: dict[str, Any], numbers: Iterator[int]) -> int:
        """Add a node and what is below it, parents before children; return its number in the tree."""
        number = next(numbers)
        if "leaf_value" in node:
            self._append("nodes", tree, number, 0, 0.0, "LEAF", 0, 0)
            self._append("target", tree, number, 0, node["leaf_value"])
            return number
        if (node["decision_type"], node["missing_type"]) != ("<=", "None"):
            raise ValueError(f"a split of kind {node['decision_type']} with missing {node['missing_type']}")
        position = len(self.attributes["nodes_nodeids"])
        self._append("nodes", tree, number, node["split_feature"], node["threshold"], "BRANCH_LEQ", 0, 0)
        self.attributes["nodes_truenodeids"][position] = self._add(tree, node["left_child"], numbers)
        self.attributes["nodes_falsenodeids"][position] = self._add(tree, node["right_child"], numbers)
        return number

    def _append(self, group: str, *values: Any) -> None:
        names = [name for name in self.attributes if name.startswith(f"{group}_")]
        for name, value in zip(names, values, strict=True):
            self.attributes[name].append(value)


def golden_rows(booster: lightgbm.Booster, rows: Rows, seed: int) -> Rows:
    """Choose rows that would show a wrong engine: random ones, one exactly at each split, and one just above it."""
    random = np.random.default_rng(seed)
    bases = rows[random.integers(0, len(rows), _BASES)]
    made = [rows[random.permutation(len(rows))[:RANDOM_ROWS]]]
    for feature, threshold in _splits(booster.dump_model()):
        at = np.float32(threshold)
        pair = np.repeat(bases[random.integers(0, _BASES)][None], 2, axis=0)
        pair[:, feature] = at, np.nextafter(at, np.float32(np.inf))
        made.append(pair)
    return np.concatenate(made)


def golden_file(rows: Rows, probabilities: Floats) -> bytes:
    """Pack rows and the booster's own answers as `scoring/model.py` reads them."""
    file = io.BytesIO()
    np.savez_compressed(file, rows=rows, probabilities=probabilities)
    return file.getvalue()


def _splits(dump: dict[str, Any]) -> list[tuple[int, float]]:
    """Collect the distinct (feature, threshold) of all trees, in order."""
    found: set[tuple[int, float]] = set()
    stack = [tree["tree_structure"] for tree in dump["tree_info"]]
    while stack:
        node = stack.pop()
        if "split_feature" in node:
            found.add((node["split_feature"], node["threshold"]))
            stack += [node["left_child"], node["right_child"]]
    return sorted(found)
