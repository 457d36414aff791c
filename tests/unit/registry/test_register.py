"""What is asked of MLflow's client, which takes seconds to import: a twin that keeps its calls stands in for it.

`integration/test_registry_mlflow.py` has the real one.
"""

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from fraudscale.config import ModelSettings
from fraudscale.registry import mlflow as registry
from fraudscale.registry.mlflow import Candidate, RegistryUnavailable
from fraudscale.scoring.model import MANIFEST


class MlflowException(Exception):
    pass


class Client:
    """Keeps what was called; `broken` names a method that fails."""

    def __init__(self, tracking_uri, registry_uri):
        self.address = tracking_uri, registry_uri
        self.calls, self.broken, self.uploaded = [], None, {}
        self.known = {"get_experiment_by_name": None, "search_registered_models": []}

    def __getattr__(self, name):
        def call(*args, **kwargs):
            if name == self.broken:
                raise MlflowException(f"{name} is out of order")
            self.calls.append((name, args, kwargs))
            if name == "log_model_artifacts":
                folder = Path(args[1])
                self.uploaded = {str(p.relative_to(folder)): p for p in folder.rglob("*")}
                self.example = json.loads((folder / "input_example.json").read_text())
            return self.known.get(
                name,
                SimpleNamespace(info=SimpleNamespace(run_id="run"), model_id="model", version=5),
            )

        return call

    def called(self, name):
        return [args for called, args, _ in self.calls if called == name]


class Model(SimpleNamespace):
    def add_flavor(self, name, **kwargs):
        self.flavor = name, kwargs

    def save(self, path):
        Path(path).write_text("the file MLmodel")


@pytest.fixture
def mlflow(monkeypatch):
    """The modules of MLflow that are imported; `mlflow.client()` is the one client."""
    clients = []

    def connect(**kwargs):
        clients.append(Client(**kwargs))
        return clients[-1]

    def module(name, **members):
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    found = module("mlflow", MlflowClient=connect)
    module("mlflow.exceptions", MlflowException=MlflowException)
    module("mlflow.entities", LoggedModelOutput=lambda *args: args)
    module("mlflow.models", Model=Model, ModelSignature=lambda *args: args)
    module("mlflow.types", ColSpec=lambda *args: args, Schema=list)
    found.artifacts = module("mlflow.artifacts", download_artifacts=None)
    found.clients = clients
    monkeypatch.setattr(registry.os, "environ", dict(os.environ))
    return found


@pytest.fixture
def client(mlflow, monkeypatch):
    made = Client("uri", "uri")
    monkeypatch.setattr(registry, "_mlflow_client", lambda _: made)
    return made


@pytest.fixture
def candidate(make_artifact, tmp_path):
    make_artifact(tmp_path / "artifact")
    return Candidate(
        artifact=tmp_path / "artifact",
        report=tmp_path / "report",
        metrics={"pr_auc": 0.5},
        params={"seed": "1"},
        feature_names=("amount", "hour"),
        example=np.zeros((2, 2), dtype=np.float32),
    )


def test_a_candidate_becomes_a_version_with_its_digest(client, candidate):
    assert registry.register(ModelSettings(), candidate) == "5"
    ((_, _, made),) = [call for call in client.calls if call[0] == "create_model_version"]
    digest = registry.digest_of((candidate.artifact / MANIFEST).read_bytes())
    assert made == {"tags": {"digest": digest}, "model_id": "model"}
    assert client.calls[-1][:2] == ("set_terminated", ("run",))


def test_the_run_has_what_was_measured_and_the_report(client, candidate):
    registry.register(ModelSettings(), candidate)
    assert client.called("log_param") == [("run", "seed", "1")]
    assert client.called("log_metric") == [("run", "pr_auc", 0.5)]
    assert client.called("log_artifacts") == [("run", str(candidate.report), "report")]


def test_the_model_is_our_folder_beside_mlflow_s_files(client, candidate):
    registry.register(ModelSettings(), candidate)
    ours = {f"artifact/{path.name}" for path in candidate.artifact.iterdir()}
    assert set(client.uploaded) == ours | {"artifact", "MLmodel", "input_example.json"}
    assert client.example == {"columns": ["amount", "hour"], "data": [[0.0, 0.0]] * 2}


@pytest.mark.parametrize("known", [True, False])
def test_experiment_and_model_are_made_once(client, candidate, known):
    if known:
        client.known |= {
            "get_experiment_by_name": SimpleNamespace(experiment_id=3),
            "search_registered_models": ["fraud-detector"],
        }
    registry.register(ModelSettings(), candidate)
    assert bool(client.called("create_experiment")) is not known
    assert bool(client.called("create_registered_model")) is not known


@pytest.mark.parametrize("broken", ["create_run", "log_model_artifacts", "create_model_version"])
def test_a_registry_that_fails_in_the_middle_says_so(client, candidate, broken):
    client.broken = broken
    with pytest.raises(RegistryUnavailable, match=f"{broken} is out of order; check the server"):
        registry.register(ModelSettings(), candidate)
    assert not client.called("set_terminated")


def test_an_artifact_is_downloaded_from_where_the_version_s_files_lie(client, mlflow, tmp_path):
    client.known["get_model_version_download_uri"] = "mlflow-artifacts:/1"
    mlflow.artifacts.download_artifacts = lambda artifact_uri, dst_path, tracking_uri: (
        f"{dst_path}/{artifact_uri.rpartition('/')[2]}"
    )
    assert registry.fetch(ModelSettings(), "3", tmp_path) == tmp_path / "artifact"
    assert client.called("get_model_version_download_uri") == [("fraud-detector", "3")]


def test_a_download_that_fails_names_the_version_and_the_remedy(client, mlflow, tmp_path):
    def download(**_):
        raise KeyError("what a storage client raises")

    mlflow.artifacts.download_artifacts = download
    with pytest.raises(
        RegistryUnavailable, match=r'version 3 of "fraud-detector" can.t be downloaded.*check'
    ):
        registry.fetch(ModelSettings(), "3", tmp_path)


def test_the_client_is_impatient_and_gets_the_credentials(mlflow):
    registry._mlflow_client(
        ModelSettings(
            mlflow_tracking_uri="http://mlflow:5000",
            mlflow_tracking_username="ann",
            mlflow_tracking_password="secret",
        )
    )
    assert mlflow.clients[0].address == ("http://mlflow:5000", "http://mlflow:5000")
    environ = registry.os.environ
    assert (environ["MLFLOW_TRACKING_USERNAME"], environ["MLFLOW_TRACKING_PASSWORD"]) == ("ann", "secret")
    assert environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20"
    assert "MLFLOW_TRACKING_TOKEN" not in environ
