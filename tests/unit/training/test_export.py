import lightgbm
import numpy as np
import onnx
import pytest

from fraudscale.scoring.model import MAX_DIFFERENCE, onnx_engine
from fraudscale.training.export import RANDOM_ROWS, golden_rows, to_onnx
from fraudscale.training.train import fold, predict


@pytest.fixture(scope="module")
def golden(booster, prepared):
    return golden_rows(booster, prepared.validation.rows, seed=1)


def test_the_engine_equals_the_booster_on_each_split_and_just_above(booster, golden):
    engine = onnx_engine(to_onnx(booster), features=16)
    assert len(golden) > RANDOM_ROWS + 500
    assert np.abs(engine(golden) - predict(booster, golden)).max() <= MAX_DIFFERENCE


def test_golden_rows_hold_each_split_and_the_next_float32_above_it(booster, golden):
    columns = [set(column.tolist()) for column in golden[RANDOM_ROWS:].T]
    for root in _roots(booster):
        split = np.float32(root["threshold"])
        assert {float(split), float(np.nextafter(split, np.float32(np.inf)))} <= columns[
            root["split_feature"]
        ]


def test_golden_rows_find_an_engine_whose_splits_are_a_hair_too_low(booster, golden):
    model = onnx.load_from_string(to_onnx(booster))
    (values,) = [a for a in model.graph.node[0].attribute if a.name == "nodes_values"]
    lower = [float(np.nextafter(np.float32(v), np.float32(-np.inf))) for v in values.floats]
    del values.floats[:]
    values.floats.extend(lower)
    engine = onnx_engine(model.SerializeToString(), features=16)
    assert np.abs(engine(golden) - predict(booster, golden)).max() > 100 * MAX_DIFFERENCE


def test_splits_as_lightgbm_leaves_them_would_differ_on_rows_at_a_split():
    """Why `fold` moves every split onto a float32: the rounding of a double to the nearest float32 may move it up."""
    rows = np.repeat(np.array([[0.1], [0.3]], np.float32), 500, axis=0)
    raw = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "min_data_in_leaf": 1},
        lightgbm.Dataset(rows, np.repeat([0, 1], 500)),
        2,
    )
    (threshold,) = {node["threshold"] for node in _roots(raw)}
    assert float(np.float32(threshold)) != threshold
    assert all(float(np.float32(n["threshold"])) == n["threshold"] for n in _roots(fold(raw, 1.0, 0.0)))


def _roots(booster):
    return [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]


def test_a_split_of_another_kind_is_refused():
    rows = np.array([[0.0], [1.0], [np.nan]] * 300)
    booster = lightgbm.train(
        {"objective": "binary", "verbosity": -1}, lightgbm.Dataset(rows, [0, 1, 1] * 300), 2
    )
    with pytest.raises(ValueError, match="missing NaN"):
        to_onnx(booster)
