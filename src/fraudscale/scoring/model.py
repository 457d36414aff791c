"""A model: engine, threshold, feature order and reference bins, all from one artifact; transactions → probabilities.

An artifact is a folder of plain files. `manifest.json` names the others with their sha256, so the digest of the
manifest alone identifies, and verifies, the whole:

    manifest.json   this module's `Manifest`
    model.onnx      the tree ensemble: float32 rows (n, features) → calibrated probabilities (n, 1)
    golden.npz      rows and the training library's own answers: random rows, and rows exactly at each split
    model.lgb       the LightGBM text it was exported from; serving never reads it
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from fraudscale.errors import FraudscaleError
from fraudscale.scoring.features import FEATURES, Featurizer, Rows
from fraudscale.scoring.records import Transaction

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
ENGINE_FILE: Final = "model.onnx"
GOLDEN_FILE: Final = "golden.npz"
SERVED_FILES: Final = (ENGINE_FILE, GOLDEN_FILE)

MAX_DIFFERENCE: Final = 1e-6
"""Largest |Δp| between the serving engine and the training library that still counts as the same model."""

GOLDEN_BYTES: Final = 64 * 1024 * 1024
"""Most that an array of the golden rows may unpack to. A real one has about 1 MB."""

VERSION_NUMBER: Final = re.compile(r"[0-9]{1,18}")
"""How the registry numbers versions."""

Engine = Callable[[Rows], npt.NDArray[np.float32]]
"""Rows of shape (n, features) → probabilities of shape (n,)."""


class ModelRejected(FraudscaleError):
    """An artifact must not be served: damaged, of another format, or not equal to the model that was trained."""


class Bins(msgspec.Struct, frozen=True):
    """How a quantity was distributed in the reference period.

    `edges` are the inner upper edges (a value belongs to the first bin whose edge is ≥ it; beyond all of them is one
    more bin), `ratios` the share in each bin: one more than edges, sum 1.
    """

    edges: tuple[float, ...]
    ratios: tuple[float, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json`."""

    format: int
    features: tuple[str, ...]
    categories: tuple[str, ...]
    usual_amounts: tuple[float, ...]
    threshold: float
    metrics: dict[str, float]
    reference: dict[str, Bins]
    trained_at: str
    training: dict[str, str | float]
    files: dict[str, str]


@dataclass(frozen=True)
class Version:
    """Which model: its number in the registry, the alias that led to it, and the digest of its artifact."""

    version: str
    alias: str
    digest: str


@dataclass(frozen=True)
class Parity:
    """What replaying the golden rows showed."""

    rows: int
    max_difference: float


@dataclass(frozen=True)
class Model:
    """A verified model, ready to score."""

    version: str
    alias: str
    digest: str
    manifest: Manifest
    parity: Parity
    featurizer: Featurizer
    _columns: npt.NDArray[np.intp] | None
    _engine: Engine

    @property
    def threshold(self) -> float:
        return self.manifest.threshold

    def probabilities(self, transactions: Sequence[Transaction]) -> list[float]:
        """Score transactions in one pass of the engine: one probability of fraud each, in order."""
        rows = self.featurizer.rows(transactions)
        if self._columns is not None:
            rows = rows[:, self._columns]
        return self._engine(rows).tolist()  # type: ignore[no-any-return]


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_manifest(content: bytes) -> Manifest:
    """Parse `manifest.json`.

    Raises:
        ModelRejected: not of the format that this release reads.
    """
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRejected(f"{MANIFEST} can't be read: {error}") from error
    if manifest.format != FORMAT:
        raise ModelRejected(f"the artifact has format {manifest.format}, this release reads {FORMAT}")
    if not 0 <= manifest.threshold <= 1:
        raise ModelRejected(f"{MANIFEST} has the threshold {manifest.threshold}, which is no probability")
    return manifest


def verify_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Compare each given file with its sha256 in the manifest.

    Raises:
        ModelRejected: a file that serving needs is missing, or differs.
    """
    for name in SERVED_FILES:
        if name not in files or name not in manifest.files:
            raise ModelRejected(f"the artifact lacks {name}")
    for name, content in files.items():
        if (actual := digest_of(content)) != manifest.files.get(name):
            raise ModelRejected(
                f"{name} is damaged: sha256 {actual}, the manifest says {manifest.files.get(name)}"
            )


def build(manifest_content: bytes, files: Mapping[str, bytes], *, version: str, alias: str) -> Model:
    """Verify an artifact's bytes, build its engine, replay the golden rows, and warm it up.

    Raises:
        ModelRejected: any check fails; nothing of the artifact is used then.
    """
    try:
        return _build(manifest_content, files, version, alias)
    except ModelRejected:
        raise
    except Exception as error:  # what numpy and the engine make of damaged bytes is theirs to choose
        raise ModelRejected(f"the artifact can't be used: {type(error).__name__}: {error}") from error


def _build(manifest_content: bytes, files: Mapping[str, bytes], version: str, alias: str) -> Model:
    manifest = read_manifest(manifest_content)
    verify_files(manifest, files)
    if unknown := [name for name in manifest.features if name not in FEATURES]:
        raise ModelRejected(
            f"the model wants features that this release doesn't compute: {', '.join(unknown)}"
        )
    featurizer = Featurizer(manifest.categories, manifest.usual_amounts)
    engine = onnx_engine(files[ENGINE_FILE], features=len(manifest.features))
    parity = check_parity(engine, files[GOLDEN_FILE], manifest)
    names = list(FEATURES)
    columns = (
        None if manifest.features == tuple(names) else np.array([names.index(f) for f in manifest.features])
    )
    model = Model(version, alias, digest_of(manifest_content), manifest, parity, featurizer, columns, engine)
    _warm_up(model)
    return model


def onnx_engine(content: bytes, *, features: int) -> Engine:
    """Make an engine of a tree ensemble: float32 (n, features) → float32 (n, 1), single-threaded.

    Raises:
        ModelRejected: not an ONNX model, or one of another signature.
    """
    options = onnxruntime.SessionOptions()
    # ONNX Runtime sizes its pools by the host's cores, whatever the container may use (microsoft/onnxruntime#29510).
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises classes of a private module
        raise ModelRejected(f"{ENGINE_FILE} can't be loaded: {error}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    signature = [(i.type, i.shape[1:]) for i in inputs], [(o.type, o.shape[1:]) for o in outputs]
    if signature != ([("tensor(float)", [features])], [("tensor(float)", [1])]):
        raise ModelRejected(
            f"{ENGINE_FILE} has the signature {signature}, wanted float (n, {features}) → float (n, 1)"
        )
    input_name, output_names, run = inputs[0].name, [outputs[0].name], session.run

    def engine(rows: Rows) -> npt.NDArray[np.float32]:
        return run(output_names, {input_name: rows})[0][:, 0]  # type: ignore[no-any-return]

    return engine


def check_parity(engine: Engine, golden: bytes, manifest: Manifest) -> Parity:
    """Replay the golden rows and compare with the training library's own answers.

    Raises:
        ModelRejected: a probability differs by more than `MAX_DIFFERENCE`, or a decision flips.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(golden)) as archive:
            rows, expected = (_array(archive, f"{name}.npy") for name in ("rows", "probabilities"))
    except Exception as error:  # zip, zlib, numpy and its parser of headers raise a dozen classes
        raise ModelRejected(f"{GOLDEN_FILE} can't be read: {type(error).__name__}: {error}") from error
    shape = expected.size, len(manifest.features)
    if rows.dtype != np.float32 or rows.shape != shape or expected.shape != shape[:1] or not len(rows):
        raise ModelRejected(
            f"{GOLDEN_FILE} holds rows of shape {rows.shape} and answers of shape {expected.shape}"
        )
    actual = engine(rows).astype(np.float64)
    difference = float(np.abs(actual - expected).max())
    # `not ≤` also refuses NaN
    if not difference <= MAX_DIFFERENCE:
        raise ModelRejected(
            f"the engine differs from the trained model by {difference:.3g}, more than {MAX_DIFFERENCE}"
        )
    if flips := int(((actual >= manifest.threshold) != (expected >= manifest.threshold)).sum()):
        raise ModelRejected(
            f"the engine decides {flips} of {len(rows)} golden rows otherwise than the trained model"
        )
    return Parity(len(rows), difference)


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Read an array as `np.load` does, which would make room for whatever shape and size a file claims to have."""
    with archive.open(name) as file:
        packed = file.read(GOLDEN_BYTES + 1)
    if len(packed) > GOLDEN_BYTES:
        raise ValueError(f"{name} unpacks to more than {GOLDEN_BYTES} bytes")
    content = io.BytesIO(packed)
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"{name} is in another version of the format")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.kind != "f":
        raise ValueError(f"{name} holds no numbers, but {dtype}")
    return np.ndarray(shape, dtype, packed, content.tell(), order="F" if by_columns else "C").copy("C")


def _warm_up(model: Model) -> None:
    transaction = Transaction("warm-up", 1.0, model.featurizer.categories[0], 12, 0, 40, 100.0)
    for size in (1, 2, 8, 64, 512):
        model.probabilities([transaction] * size)
