"""MLflow, the only room that knows it: aliases, register, download.

Asking which version serves goes over MLflow's REST API, so serving processes never import MLflow: its client costs 3 s and
80 MB. The functions that do import it run in processes of their own.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from fraudscale.config import ModelSettings
from fraudscale.errors import FraudscaleError
from fraudscale.net import Answer, NoAnswer, Server, basic_auth, keep_from_proxies
from fraudscale.scoring.features import Rows
from fraudscale.scoring.model import ENGINE_FILE, MANIFEST, Version, digest_of

EXPERIMENT: Final = "fraud-detector"
ARTIFACT: Final = "artifact"
"""Folder of our files beside MLflow's own in the folder of a model."""
DIGEST_TAG: Final = "digest"
EXAMPLE_FILE: Final = "input_example.json"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
TIMEOUT_SECONDS: Final = 3.0
"""Of a whole call."""


class RegistryUnavailable(FraudscaleError):
    """The registry gives no usable answer now; asking again later may help."""


class ModelUnknown(FraudscaleError):
    """The registry answers, and has no such model or version."""

    version: str | None = None
    """The version that was asked for, where one was named."""


class NoChampion(ModelUnknown):
    """The registry has the model, and no version bears the alias."""


@dataclass(frozen=True)
class Candidate:
    """A trained model that wants a version in the registry.

    `artifact` is the folder that `scoring/model.py` describes, `report` a folder of plots and tables, `example` some rows of
    shape (n, len(feature_names)).
    """

    artifact: Path
    report: Path | None
    metrics: dict[str, float]
    params: dict[str, str]
    feature_names: tuple[str, ...]
    example: Rows


class Locator:
    """Asks which version should serve: one call a poll, and one more when the answer is new."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._digests: dict[str, str] = {}

    def locate(self, version: str | None = None) -> Version:
        """Find the version that the alias points to, or the given one.

        Raises:
            RegistryUnavailable: it is down, slow, or refuses us.
            NoChampion: no version bears the alias.
            ModelUnknown: no such model or version, or one that `register` didn't make.
        """
        alias = self._settings.model_alias
        if version is None:
            version = self._aliased(alias)
        try:
            return Version(version, alias, self._digest(version))
        except ModelUnknown as error:
            error.version = version
            raise

    def _aliased(self, alias: str) -> str:
        settings = self._settings
        found = aliases(settings).get(alias)
        if found is None:
            raise NoChampion(
                f'no version of "{settings.model_name}" in {settings.mlflow_tracking_uri} has the alias "{alias}"; '
                "`fraudscale train --promote` registers one and sets the alias; MLflow's page sets it for an existing version"
            )
        return found

    def _digest(self, version: str) -> str:
        # The tag of a version never changes: `register` writes it once, and a new artifact is a new version.
        if (known := self._digests.get(version)) is not None:
            return known
        name = self._settings.model_name
        found = _get(self._settings, "model-versions/get", "model_version", name=name, version=version)
        digest = next(
            (str(tag.get("value")) for tag in found.get("tags", []) if tag["key"] == DIGEST_TAG), None
        )
        if digest is None:
            raise ModelUnknown(
                f'version {version} of "{name}" has no tag "{DIGEST_TAG}": it was not registered by `fraudscale train`'
            )
        # It becomes the name of a folder: nothing but a digest may.
        if not _SHA256.fullmatch(digest):
            raise ModelUnknown(
                f'version {version} of "{name}" has the tag "{DIGEST_TAG}" {digest[:80]!r}, which is no sha256; '
                "register the model again with `fraudscale train`"
            )
        self._digests = {version: digest}
        return digest


def aliases(settings: ModelSettings) -> dict[str, str]:
    """Ask which version each alias of the model points to.

    Raises:
        RegistryUnavailable: it is down, slow, or refuses us.
        ModelUnknown: it has no such model.
    """
    # The list of aliases, not the route of one alias: for a missing one that answers 400, as for a bad request.
    model = _get(settings, "registered-models/get", "registered_model", name=settings.model_name)
    return {alias["alias"]: str(alias["version"]) for alias in model.get("aliases", [])}


def set_alias(settings: ModelSettings, version: str, alias: str) -> None:
    """Let the alias point to this version from now on.

    Raises:
        RegistryUnavailable: it is down, slow, or refuses us.
        ModelUnknown: it has no such model or version.
    """
    body = {"name": settings.model_name, "alias": alias, "version": version}
    _call(settings, "POST", "registered-models/alias", body)


def fetch(settings: ModelSettings, version: str, into: Path) -> Path:
    """Download the artifact of a version into a folder; return where its files lie. Imports MLflow.

    Raises:
        RegistryUnavailable: the download failed; `into` may hold parts of it.
    """
    try:
        client = _mlflow_client(settings)
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415 - see the module's docstring

        source = client.get_model_version_download_uri(settings.model_name, version)
        folder = download_artifacts(
            artifact_uri=f"{source}/{ARTIFACT}",
            dst_path=str(into),
            tracking_uri=settings.mlflow_tracking_uri,
        )
    except Exception as error:  # MLflow passes on what its storage clients raise
        raise RegistryUnavailable(
            f'version {version} of "{settings.model_name}" can\'t be downloaded from {settings.mlflow_tracking_uri}: '
            f"{error}; check the server and its artifact store"
        ) from error
    return Path(folder)


def register(settings: ModelSettings, candidate: Candidate) -> str:
    """Log a run with the candidate's report and model; make it a version with the tag `digest`. Imports MLflow.

    Returns:
        The number of the new version. No alias points to it yet.

    Raises:
        RegistryUnavailable: the server fails in the middle; a version exists only if all of it was stored.
    """
    client = _mlflow_client(settings)
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - see the module's docstring

    try:
        run_id = _log_run(client, candidate)
        model_id = _log_model(client, candidate, run_id)
        version = _log_version(client, settings.model_name, candidate, run_id, model_id)
        client.set_terminated(run_id)
    except (MlflowException, OSError) as error:
        raise RegistryUnavailable(
            f"the model can't be registered in {settings.mlflow_tracking_uri}: {error}; check the server, and register again"
        ) from error
    return version


def _log_run(client: Any, candidate: Candidate) -> str:
    run_id = str(client.create_run(_experiment_id(client)).info.run_id)
    for key, text in candidate.params.items():
        client.log_param(run_id, key, text)
    for key, number in candidate.metrics.items():
        client.log_metric(run_id, key, number)
    if candidate.report is not None:
        client.log_artifacts(run_id, str(candidate.report), "report")
    return run_id


def _experiment_id(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT))


def _log_model(client: Any, candidate: Candidate, run_id: str) -> str:
    from mlflow.entities import LoggedModelOutput  # noqa: PLC0415 - see the module's docstring

    model = client.create_logged_model(
        _experiment_id(client), EXPERIMENT, source_run_id=run_id, params=candidate.params, model_type="onnx"
    )
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(candidate.artifact, Path(folder, ARTIFACT))
        Path(folder, EXAMPLE_FILE).write_text(_example(candidate))
        _describe(candidate, run_id, model.model_id).save(str(Path(folder, "MLmodel")))
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def _describe(candidate: Candidate, run_id: str, model_id: str) -> Any:
    """The file MLmodel: `mlflow.onnx` can load our file with it, and no flavor runs code or opens a pickle."""
    import onnxruntime  # noqa: PLC0415 - only for its version
    from mlflow.models import Model, ModelSignature  # noqa: PLC0415 - see the module's docstring
    from mlflow.types import ColSpec, Schema  # noqa: PLC0415

    signature = ModelSignature(
        Schema([ColSpec("float", name) for name in candidate.feature_names]),
        Schema([ColSpec("float", "fraud_probability")]),
    )
    model = Model(run_id=run_id, model_id=model_id, signature=signature)
    engine = f"{ARTIFACT}/{ENGINE_FILE}"
    model.add_flavor(
        "onnx", data=engine, onnx_version=onnxruntime.__version__, providers=["CPUExecutionProvider"]
    )
    model.saved_input_example_info = {
        "artifact_path": EXAMPLE_FILE,
        "type": "dataframe",
        "pandas_orient": "split",
    }
    return model


def _example(candidate: Candidate) -> str:
    return json.dumps({"columns": candidate.feature_names, "data": candidate.example.tolist()})


def _log_version(client: Any, name: str, candidate: Candidate, run_id: str, model_id: str) -> str:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    digest = digest_of((candidate.artifact / MANIFEST).read_bytes())
    version = client.create_model_version(
        name, f"models:/{model_id}", run_id, tags={DIGEST_TAG: digest}, model_id=model_id
    )
    return str(version.version)


def _mlflow_client(settings: ModelSettings) -> Any:
    """Import MLflow, quiet and impatient, as a client of the registry in the settings."""
    keep_from_proxies(settings.mlflow_tracking_uri)
    os.environ.update(
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
        MLFLOW_LOGGING_LEVEL="WARNING",
        # Its own are 7 retries with growing pauses and 120 s each: minutes of silence where we want an error.
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",
        MLFLOW_HTTP_REQUEST_TIMEOUT="20",
        **_mlflow_credentials(settings),
    )
    from mlflow import MlflowClient  # noqa: PLC0415 - see the module's docstring

    uri = settings.mlflow_tracking_uri
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _mlflow_credentials(settings: ModelSettings) -> dict[str, str]:
    values = {
        "MLFLOW_TRACKING_USERNAME": settings.mlflow_tracking_username,
        "MLFLOW_TRACKING_PASSWORD": _secret(settings.mlflow_tracking_password),
        "MLFLOW_TRACKING_TOKEN": _secret(settings.mlflow_tracking_token),
    }
    return {name: value for name, value in values.items() if value}


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value else ""


def _get(settings: ModelSettings, route: str, key: str, **query: str) -> dict[str, Any]:
    answer = _call(settings, "GET", route, query=query).get(key)
    if not isinstance(answer, dict):
        raise RegistryUnavailable(
            f"{settings.mlflow_tracking_uri} answers {route} without {key}; is it MLflow?"
        )
    return answer


def _call(
    settings: ModelSettings,
    method: str,
    route: str,
    body: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    uri = settings.mlflow_tracking_uri
    content = json.dumps(body).encode() if body else None
    try:
        with Server(uri, seconds=TIMEOUT_SECONDS, headers=_headers(settings)) as server:
            answer = server.ask(method, f"/api/2.0/mlflow/{route}", query=query, body=content)
    except NoAnswer as error:
        raise RegistryUnavailable(f"{error}; is MLflow up, and MLFLOW_TRACKING_URI right?") from error
    said = _decode(answer)
    if answer.status == HTTPStatus.OK and said is not None:
        return said
    message = (said or {}).get("message", answer.text())
    if (said or {}).get("error_code") == "RESOURCE_DOES_NOT_EXIST":
        raise ModelUnknown(f"{uri} answers: {message}; `fraudscale train` registers a first model")
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    else:
        remedy = "is MLFLOW_TRACKING_URI an MLflow server, and healthy?"
    raise RegistryUnavailable(f"{uri} answers {answer.status} to {route}: {message}; {remedy}")


def _decode(answer: Answer) -> dict[str, Any] | None:
    try:
        said = answer.json()
    except NoAnswer:
        return None
    return said if isinstance(said, dict) else None


def _headers(settings: ModelSettings) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if settings.mlflow_tracking_username:
        password = _secret(settings.mlflow_tracking_password)
        headers["Authorization"] = basic_auth(settings.mlflow_tracking_username, password)
    elif settings.mlflow_tracking_token:
        headers["Authorization"] = f"Bearer {_secret(settings.mlflow_tracking_token)}"
    return headers
