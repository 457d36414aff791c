"""Registry and loader against a real MLflow server: from a candidate to a model that serves."""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import structlog
from structlog.testing import LogCapture

from fraudscale.config import ModelSettings
from fraudscale.metrics import ModelMetrics
from fraudscale.model_loader import default_loader
from fraudscale.registry import mlflow as registry
from fraudscale.registry.copies import FetchFailed, read_pointer
from fraudscale.registry.fetch import fetch_model
from fraudscale.registry.mlflow import Candidate, Locator, ModelUnknown, NoChampion, RegistryUnavailable
from fraudscale.scoring.features import FEATURES
from fraudscale.scoring.model import MANIFEST, SERVED_FILES

_names = (f"fraud-detector-{number}" for number in itertools.count(1))


@pytest.fixture
def settings(mlflow_server, tmp_path, monkeypatch):
    """A model name and a folder of copies of this test's own, which the child process sees too."""
    values = {
        "mlflow_tracking_uri": mlflow_server.uri,
        "mlflow_model_uri": f"models:/{next(_names)}@champion",
        "model_cache_dir": str(tmp_path / "models"),
        "model_poll_seconds": 0.2,
    }
    for name, value in values.items():
        monkeypatch.setenv(name.upper(), str(value))
    return ModelSettings(**values)


@pytest.fixture
def candidate(make_artifact, tmp_path):
    def make(name="artifact", **kwargs):
        make_artifact(tmp_path / name, **kwargs)
        (tmp_path / "report").mkdir(exist_ok=True)
        (tmp_path / "report" / "calibration.csv").write_text("p,share\n")
        return Candidate(
            artifact=tmp_path / name,
            report=tmp_path / "report",
            metrics={"pr_auc": 0.5},
            params={"seed": "1"},
            feature_names=tuple(FEATURES),
            example=np.zeros((2, len(FEATURES)), dtype=np.float32),
        )

    return make


@pytest.fixture
def serving(settings):
    """Start a loader; `wait_for(version)` returns the installed model of that version."""
    arrived, models, loaders = threading.Condition(), {}, []

    def install(model):
        with arrived:
            models[model.version] = model
            arrived.notify_all()

    def start():
        log = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[], wrapper_class=structlog.BoundLogger
        )
        loaders.append(default_loader(settings, ModelMetrics(), install, log))
        models.clear()
        loaders[-1].start()

    def wait_for(version):
        with arrived:
            assert arrived.wait_for(lambda: version in models, 60), f"only {sorted(models)} were installed"
            return models[version]

    start.wait_for = wait_for
    yield start
    for loader in loaders:
        loader.stop(30)


def promote(settings, candidate):
    version = registry.register(settings, candidate)
    registry.set_alias(settings, version, "champion")
    return version


def test_a_registered_candidate_is_located_by_its_alias(settings, candidate, make_artifact, tmp_path):
    version = registry.register(settings, candidate())
    with pytest.raises(NoChampion):
        Locator(settings).locate()
    registry.set_alias(settings, version, "champion")
    located = Locator(settings).locate()
    assert (located.version, located.alias) == ("1", "champion")
    assert located.digest == make_artifact(tmp_path / "again")
    assert registry.aliases(settings) == {"champion": "1"}


def test_an_empty_registry_says_that_the_model_is_unknown(settings):
    with pytest.raises(ModelUnknown, match="fraudscale train"):
        Locator(settings).locate()


def test_an_alias_for_a_version_that_is_not_there_is_refused(settings, candidate):
    registry.register(settings, candidate())
    with pytest.raises(ModelUnknown):
        registry.set_alias(settings, "99", "champion")


@pytest.fixture
def client(settings):
    import mlflow

    return mlflow.MlflowClient(settings.mlflow_tracking_uri, settings.mlflow_tracking_uri)


@pytest.fixture
def downloaded(settings, candidate, client, tmp_path):
    """The whole folder that MLflow keeps for a registered model."""
    from mlflow.artifacts import download_artifacts

    version = registry.register(settings, candidate())
    source = client.get_model_version_download_uri(settings.model_name, version)
    (tmp_path / "downloaded").mkdir()
    return Path(
        download_artifacts(
            source, dst_path=str(tmp_path / "downloaded"), tracking_uri=settings.mlflow_tracking_uri
        )
    )


def test_mlflow_shows_the_run_with_its_report(settings, candidate, client):
    version = registry.register(settings, candidate())
    run = client.get_run(client.get_model_version(settings.model_name, version).run_id)
    assert (run.info.status, run.data.metrics, run.data.params) == (
        "FINISHED",
        {"pr_auc": 0.5},
        {"seed": "1"},
    )
    assert [f.path for f in client.list_artifacts(run.info.run_id, "report")] == ["report/calibration.csv"]
    (output,) = run.outputs.model_outputs
    assert client.get_logged_model(output.model_id).status == "READY"


def test_mlflow_knows_the_signature_and_an_example(downloaded):
    from mlflow.models import Model

    model = Model.load(str(downloaded))
    assert model.get_input_schema().input_names() == list(FEATURES)
    assert {str(column.type) for column in model.get_input_schema()} == {"DataType.float"}
    assert model.get_output_schema().input_names() == ["fraud_probability"]
    assert model.load_input_example(str(downloaded)).shape == (2, len(FEATURES))


def test_no_flavor_runs_code_or_opens_a_pickle(downloaded):
    import mlflow.onnx
    from mlflow.models import Model

    assert list(Model.load(str(downloaded)).flavors) == ["onnx"]
    assert mlflow.onnx.load_model(str(downloaded)).graph.name == "logistic"
    kept = {path.name for path in downloaded.rglob("*") if path.is_file()}
    assert kept == {"MLmodel", "input_example.json", MANIFEST, *SERVED_FILES}


def test_fetching_the_champion_brings_a_verified_copy_and_notes_it_for_later(settings, candidate):
    promote(settings, candidate())
    place = fetch_model(settings)
    assert {path.name for path in place.iterdir()} == {MANIFEST, *SERVED_FILES, "origin.json"}
    assert read_pointer(settings.model_cache_dir).digest == place.name
    assert [path.name for path in settings.model_cache_dir.iterdir() if path.name.startswith(".")] == []


def test_fetching_a_given_version_leaves_the_note_alone(settings, candidate):
    promote(settings, candidate())
    assert fetch_model(settings, "1").is_dir()
    assert read_pointer(settings.model_cache_dir) is None


def test_an_artifact_that_must_not_serve_is_not_kept(settings, candidate):
    promote(settings, candidate(golden_shift=0.01))
    with pytest.raises(FetchFailed, match="version 1 must not serve: the engine differs"):
        fetch_model(settings)
    assert list(settings.model_cache_dir.iterdir()) == []


def test_a_folder_that_cannot_take_the_copy_is_named(settings, candidate):
    promote(settings, candidate())
    settings.model_cache_dir.write_text("a file where the folder should be")
    with pytest.raises(FetchFailed, match="models can't take the copy"):
        fetch_model(settings)


def test_an_alias_to_a_version_of_somebody_else_is_told_and_so_is_its_end(settings, candidate, client):
    promote(settings, candidate())
    fetch_model(settings)  # the loader finds its copy, and needs no child that a busy machine may make late
    name, capture, models = settings.model_name, LogCapture(), []
    log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.BoundLogger)
    loader = default_loader(settings, ModelMetrics(), models.append, log)
    loader.check()
    source = client.get_model_version(name, "1").source
    theirs = client.create_model_version(name, source, model_id=source.removeprefix("models:/"))
    registry.set_alias(settings, theirs.version, "champion")
    loader.check()
    assert loader.wanted == ("2", "champion")
    client.delete_registered_model_alias(name, "champion")
    loader.check()
    assert loader.wanted == (None, "champion")
    told = [line for line in capture.entries if line["event"] == "model_load_failed"]
    assert [(line["version"], line["serving"]) for line in told] == [("2", "1"), (None, "1")]
    assert 'has no tag "digest"' in told[0]["error"]
    assert 'has the alias "champion"' in told[1]["error"]
    assert [model.version for model in models] == ["1"]


def test_a_new_champion_is_swapped_in_while_the_old_one_serves(settings, candidate, serving):
    promote(settings, candidate("first", bias=-3.0))
    serving()
    first = serving.wait_for("1")
    promote(settings, candidate("second", bias=-1.0))
    second = serving.wait_for("2")
    assert first.digest != second.digest
    assert all((settings.model_cache_dir / model.digest).is_dir() for model in (first, second))


def test_a_replica_starts_while_mlflow_is_stopped_and_follows_it_once_it_is_back(
    settings, candidate, serving, mlflow_server
):
    promote(settings, candidate("first", bias=-3.0))
    fetch_model(settings)
    with mlflow_server.stopped():
        serving()
        assert serving.wait_for("1").alias == "champion"
        with pytest.raises(RegistryUnavailable, match=r"can't be registered in http.*check the server"):
            registry.register(settings, candidate("first"))
    promote(settings, candidate("second", bias=-1.0))
    assert serving.wait_for("2").alias == "champion"
