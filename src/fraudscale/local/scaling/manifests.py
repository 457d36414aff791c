"""What the cluster's manifests say about scale, read for one machine: the HPA, and what each container requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fraudscale.config import LocalSettings
from fraudscale.hpa import Hpa, ManifestError, milli, read_manifest
from fraudscale.hpa.objects import find
from fraudscale.local.install.ports import MAX_REPLICAS, MIN_REPLICAS

CONTAINERS: Final = ("serve", "stream")
"""Of a pod, and the processes of a replica here."""

Requests = Mapping[str, Mapping[str, int]]
"""Container → resource → milli-units."""


@dataclass(frozen=True)
class Scaling:
    """When to scale, and the requests that utilisation is a percentage of."""

    hpa: Hpa
    requests: Requests


class _Resources(msgspec.Struct):
    requests: dict[str, str | int | float] = {}


class _Container(msgspec.Struct):
    name: str
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _Pod(msgspec.Struct):
    containers: list[_Container]


class _Template(msgspec.Struct):
    spec: _Pod


class _Spec(msgspec.Struct):
    template: _Template


class _Metadata(msgspec.Struct):
    name: str


class _Deployment(msgspec.Struct, tag_field="kind", tag="Deployment"):
    metadata: _Metadata
    spec: _Spec


def read(local: LocalSettings) -> Scaling:
    """Read both manifests.

    Raises:
        ManifestError: one can't be read, is not valid, doesn't fit this machine, or doesn't fit the other.
    """
    hpa = _read_hpa(local.hpa_manifest)
    name, requests = _read_requests(local.deployment_manifest)
    if hpa.target.name != name:
        raise ManifestError(
            f"HPA_MANIFEST={str(local.hpa_manifest)!r}",
            "spec.scaleTargetRef.name",
            f"{hpa.target.name!r} is not the Deployment {name!r} of {local.deployment_manifest}",
        )
    return Scaling(hpa, requests)


def _read_hpa(path: Path) -> Hpa:
    file = f"HPA_MANIFEST={str(path)!r}"
    hpa = read_manifest(_content(path, file), file)
    for field, value in (("minReplicas", hpa.min_replicas), ("maxReplicas", hpa.max_replicas)):
        if not MIN_REPLICAS <= value <= MAX_REPLICAS:
            raise ManifestError(
                file,
                f"spec.{field}",
                f"{value} is not possible here: one machine runs {MIN_REPLICAS} to {MAX_REPLICAS} replicas",
            )
    return hpa


def _read_requests(path: Path) -> tuple[str, Requests]:
    file = f"DEPLOYMENT_MANIFEST={str(path)!r}"
    try:
        deployment, *_ = find(_content(path, file), file, "Deployment")
        found = msgspec.convert(deployment.value, _Deployment)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        raise ManifestError(file, place.rstrip("`").lstrip("."), reason) from error
    containers = found.spec.template.spec.containers
    names = [container.name for container in containers]
    if sorted(names) != sorted(CONTAINERS):
        raise ManifestError(
            file,
            "spec.template.spec.containers",
            f"are {', '.join(names) or 'none'}; a replica here runs {' and '.join(CONTAINERS)}",
        )
    return found.metadata.name, {
        container.name: _requests(file, container.name, container.resources.requests)
        for container in containers
    }


def _requests(file: str, container: str, texts: Mapping[str, str | float]) -> dict[str, int]:
    place = f"spec.template.spec.containers[{container}].resources.requests"
    requests = {}
    for resource in ("cpu", "memory"):
        if resource not in texts:
            raise ManifestError(file, place, f"{resource} is missing, and utilisation is a percentage of it")
        try:
            requests[resource] = milli(texts[resource])
        except ValueError as error:
            raise ManifestError(file, f"{place}.{resource}", str(error)) from error
        if requests[resource] <= 0:
            raise ManifestError(file, f"{place}.{resource}", f"{texts[resource]} is not above 0")
    return requests


def _content(path: Path, file: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(
            file, "", f"can't be read: {error.strerror or error}; name another file"
        ) from error
