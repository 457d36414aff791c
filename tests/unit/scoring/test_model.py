import subprocess
import sys
import tracemalloc

import msgspec
import numpy as np
import pytest

import damage
from fraudscale.scoring import model
from fraudscale.scoring.features import FEATURES
from fraudscale.scoring.model import ModelRejected
from fraudscale.scoring.records import Transaction

NIGHT = Transaction("a", 5000.0, "crypto", 3, 6, 20, 10.0)
DAY = Transaction("b", 5.0, "grocery", 15, 2, 50, 9000.0)


@pytest.fixture
def artifact(make_artifact, tmp_path):
    make_artifact(tmp_path)
    return tmp_path


def load(folder):
    files = {name: (folder / name).read_bytes() for name in model.SERVED_FILES}
    return model.build((folder / model.MANIFEST).read_bytes(), files, version="7", alias="champion")


def rewrite(folder, **changes):
    """Change the manifest, keeping the hashes of the files true."""
    manifest = msgspec.json.decode((folder / model.MANIFEST).read_bytes())
    manifest["files"] = {n: model.digest_of((folder / n).read_bytes()) for n in model.SERVED_FILES}
    (folder / model.MANIFEST).write_bytes(msgspec.json.encode(manifest | changes))


def test_a_verified_model_scores_in_order(artifact):
    loaded = load(artifact)
    night, day = loaded.probabilities([NIGHT, DAY])
    assert 0 <= day < night <= 1
    assert loaded.probabilities([DAY, NIGHT]) == [day, night]
    assert loaded.parity.rows == 64


def test_the_digest_is_that_of_the_manifest(artifact):
    assert load(artifact).digest == model.digest_of((artifact / model.MANIFEST).read_bytes())


@pytest.mark.parametrize("name", model.SERVED_FILES)
def test_one_flipped_byte_is_found(artifact, name):
    content = bytearray((artifact / name).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact / name).write_bytes(content)
    with pytest.raises(ModelRejected, match=f"{name} is damaged"):
        load(artifact)


def test_an_engine_that_differs_from_the_trained_model_is_refused(make_artifact, tmp_path):
    make_artifact(tmp_path, golden_shift=2e-6)
    with pytest.raises(ModelRejected, match="differs from the trained model"):
        load(tmp_path)


def test_a_decision_that_flips_is_refused_even_within_the_tolerance(artifact):
    with np.load(artifact / model.GOLDEN_FILE) as golden:
        rows, probabilities = golden["rows"], golden["probabilities"]
    # A threshold between the engine's answer to the first row and a golden answer moved by less than the tolerance
    engine = load(artifact)._engine(rows).astype(np.float64)
    probabilities[:] = engine
    probabilities[0] = engine[0] + 5e-7
    np.savez_compressed(artifact / model.GOLDEN_FILE, rows=rows, probabilities=probabilities)
    rewrite(artifact, threshold=float(engine[0] + 2e-7))
    with pytest.raises(ModelRejected, match="decides 1 of 64"):
        load(artifact)


def test_an_answer_that_is_no_number_is_refused(artifact):
    with np.load(artifact / model.GOLDEN_FILE) as golden:
        rows, probabilities = golden["rows"], golden["probabilities"]
    probabilities[3] = np.nan
    np.savez_compressed(artifact / model.GOLDEN_FILE, rows=rows, probabilities=probabilities)
    rewrite(artifact)
    with pytest.raises(ModelRejected, match="nan"):
        load(artifact)


def test_another_signature_is_refused(artifact):
    rewrite(artifact, features=list(FEATURES)[:-1])
    with pytest.raises(ModelRejected, match="signature"):
        load(artifact)


def test_features_that_this_release_does_not_compute_are_named(artifact):
    rewrite(artifact, features=[*list(FEATURES)[:-1], "shoe_size"])
    with pytest.raises(ModelRejected, match="shoe_size"):
        load(artifact)


def test_another_format_is_refused(artifact):
    rewrite(artifact, format=99)
    with pytest.raises(ModelRejected, match="format 99"):
        load(artifact)


def test_the_model_names_the_order_of_its_features(artifact):
    """Rows follow the manifest's order, not that of the code: another order is another answer."""
    straight = load(artifact).probabilities([NIGHT])
    rewrite(artifact, features=list(reversed(FEATURES)))
    assert load(artifact).probabilities([NIGHT]) != straight


def test_a_pickled_golden_file_is_not_opened(artifact):
    np.savez(artifact / model.GOLDEN_FILE, rows=np.array([{"a": 1}], dtype=object), probabilities=np.zeros(1))
    rewrite(artifact)
    with pytest.raises(ModelRejected, match="can't be read"):
        load(artifact)


def test_the_engine_uses_no_thread_beside_the_callers(artifact):
    code = (
        "import os, pathlib; from fraudscale.scoring import model; p = pathlib.Path(os.sys.argv[1]);"
        "before = len(os.listdir('/proc/self/task'));"
        "m = model.build((p / model.MANIFEST).read_bytes(), {n: (p / n).read_bytes() for n in model.SERVED_FILES},"
        " version='1', alias='a'); print(len(os.listdir('/proc/self/task')) - before)"
    )
    if sys.platform != "linux":
        pytest.skip("counts threads in /proc")
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "0"


def rewrite_golden(folder, **changes):
    with np.load(folder / model.GOLDEN_FILE) as golden:
        content = {"rows": golden["rows"], "probabilities": golden["probabilities"]}
    np.savez_compressed(folder / model.GOLDEN_FILE, **(content | changes))
    rewrite(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": np.zeros((64, len(FEATURES)), dtype=np.float64)},
        {"rows": np.zeros((63, len(FEATURES)), dtype=np.float32)},
        {"rows": np.zeros((0, len(FEATURES)), dtype=np.float32), "probabilities": np.zeros(0)},
    ],
    ids=["doubles", "a row less", "none"],
)
def test_golden_rows_of_another_shape_prove_nothing(artifact, changes):
    rewrite_golden(artifact, **changes)
    with pytest.raises(ModelRejected, match=r"holds rows of shape"):
        load(artifact)


@pytest.mark.parametrize("ours", [0.0, 2e-7])
def test_a_probability_at_the_threshold_is_fraud_for_both(artifact, ours):
    """Equal to the threshold on one side, just below it on the other: the decisions differ."""
    with np.load(artifact / model.GOLDEN_FILE) as golden:
        rows = golden["rows"]
    probabilities = load(artifact)._engine(rows).astype(np.float64)
    threshold = float(probabilities[0] + ours)
    probabilities[0] += 2e-7 if ours else -2e-7
    rewrite_golden(artifact, probabilities=probabilities)
    rewrite(artifact, threshold=threshold)
    with pytest.raises(ModelRejected, match="decides 1 of 64"):
        load(artifact)


def test_golden_answers_that_meet_the_threshold_exactly_decide_alike(artifact):
    with np.load(artifact / model.GOLDEN_FILE) as golden:
        rows = golden["rows"]
    probabilities = load(artifact)._engine(rows).astype(np.float64)
    rewrite_golden(artifact, probabilities=probabilities)
    rewrite(artifact, threshold=float(probabilities[0]))
    load(artifact)


def test_whatever_is_wrong_with_the_bytes_is_a_rejection(artifact):
    """Some changes are harmless, such as one in a text; all others are this one error."""
    files = {name: (artifact / name).read_bytes() for name in (model.MANIFEST, *model.SERVED_FILES)}
    rejected, other = 0, []
    for name, damaged in damage.artifacts(files):
        served = {one: damaged[one] for one in model.SERVED_FILES}
        try:
            model.build(damaged[model.MANIFEST], served, version="7", alias="champion")
        except ModelRejected:
            rejected += 1
        except Exception as error:
            other.append(f"{name}: {type(error).__name__}: {error}")
    assert other == []
    assert rejected > 500


def test_golden_rows_are_not_unpacked_without_end(artifact):
    golden = damage.members((artifact / model.GOLDEN_FILE).read_bytes())
    bomb = damage.packed(golden | {"rows.npy": golden["rows.npy"] + bytes(200_000_000)})
    assert len(bomb) < 1_000_000
    (artifact / model.GOLDEN_FILE).write_bytes(bomb)
    rewrite(artifact)
    tracemalloc.start()
    try:
        with pytest.raises(ModelRejected, match=r"rows\.npy unpacks to more than 67108864 bytes"):
            load(artifact)
        assert tracemalloc.get_traced_memory()[1] < 3 * model.GOLDEN_BYTES
    finally:
        tracemalloc.stop()


def test_golden_rows_that_claim_to_be_huge_get_no_room(artifact):
    golden = damage.members((artifact / model.GOLDEN_FILE).read_bytes())
    claim = damage.header("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000, 16), }")
    (artifact / model.GOLDEN_FILE).write_bytes(damage.packed(golden | {"rows.npy": claim}))
    rewrite(artifact)
    tracemalloc.start()
    try:
        with pytest.raises(ModelRejected, match="can't be read"):
            load(artifact)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_golden_rows_by_columns_are_the_same_rows(artifact):
    with np.load(artifact / model.GOLDEN_FILE) as golden:
        rewrite_golden(artifact, rows=np.asfortranarray(golden["rows"]))
    assert load(artifact).parity.rows == 64


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_that_is_no_probability_is_refused(artifact, threshold):
    rewrite(artifact, threshold=threshold)
    with pytest.raises(ModelRejected, match=f"threshold {threshold}"):
        load(artifact)


def test_a_manifest_that_is_no_json_is_refused():
    with pytest.raises(ModelRejected, match=r"manifest\.json can't be read"):
        model.read_manifest(b"{")


def test_an_artifact_without_its_engine_is_refused(artifact):
    content = (artifact / model.MANIFEST).read_bytes()
    with pytest.raises(ModelRejected, match=r"lacks model\.onnx"):
        model.build(content, {model.GOLDEN_FILE: b""}, version="1", alias="a")


def test_an_engine_that_is_no_onnx_is_refused(artifact):
    (artifact / model.ENGINE_FILE).write_bytes(b"no onnx")
    rewrite(artifact)
    with pytest.raises(ModelRejected, match="can't be loaded"):
        load(artifact)
