"""The manifests that a machine scales by: the shipped ones fit it and each other, and what doesn't is named."""

from pathlib import Path

import pytest
import yaml

from fraudscale.config import KafkaSettings, LocalSettings
from fraudscale.hpa import MEBIBYTE_MILLI, ManifestError
from fraudscale.local.install.ports import MAX_REPLICAS, MIN_REPLICAS
from fraudscale.local.scaling import manifests

ROOT = Path(__file__).parents[4]
HPA = ROOT / "argocd/manifests/hpa.yaml"
DEPLOYMENT = ROOT / "argocd/manifests/deployment.yaml"


def pod():
    return yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]


def test_the_shipped_manifests_fit_this_machine_and_each_other():
    scaling = manifests.read(LocalSettings(hpa_manifest=HPA, deployment_manifest=DEPLOYMENT))
    assert (scaling.hpa.min_replicas, scaling.hpa.max_replicas) == (MIN_REPLICAS, MAX_REPLICAS)
    assert scaling.requests["serve"] == {"cpu": 50, "memory": 384 * MEBIBYTE_MILLI}
    assert scaling.requests.keys() == {"serve", "stream"}


def test_every_replica_finds_partitions_to_read():
    assert KafkaSettings.model_fields["kafka_partitions"].default >= 2 * MAX_REPLICAS


def test_the_deployment_leaves_the_number_of_replicas_to_the_hpa():
    assert "replicas" not in yaml.safe_load(DEPLOYMENT.read_text())["spec"]


def test_a_pod_has_the_time_to_stop_that_its_settings_promise():
    for container in pod()["containers"]:
        env = {e["name"]: e.get("value") for e in container["env"]}
        promised = float(env.get("DRAIN_SECONDS", 0)) + float(env["STOP_TIMEOUT_SECONDS"])
        assert promised < pod()["terminationGracePeriodSeconds"], container["name"]


@pytest.mark.parametrize("container", pod()["containers"], ids=lambda c: c["name"])
def test_probes_ask_the_port_on_which_the_door_answers(container):
    (port,) = container["ports"]
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert str(port["containerPort"]) == env.get("HTTP_PORT", env.get("METRICS_PORT"))
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert {p["port"] for p in probes.values()} == {port["name"]}
    # a pod without a ready `stream` would get no HTTP requests: scoring from Kafka must not take them with it
    ready = {"readinessProbe": "/readyz"} if container["name"] == "serve" else {}
    assert {name: p["path"] for name, p in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        **ready,
    }
    (own,) = [e["valueFrom"]["resourceFieldRef"] for e in container["env"] if e["name"].startswith("CPU_")]
    assert own == {"containerName": container["name"], "resource": "requests.cpu", "divisor": "1m"}


def without(path, manifest):
    *parents, last = path
    for key in parents:
        manifest = manifest[key]
    del manifest[last]


CONTAINERS = ("spec", "template", "spec", "containers")


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("hpa", lambda m: m["spec"].update(maxReplicas=9), "spec.maxReplicas: 9 is not possible here"),
        ("hpa", lambda m: m["spec"].update(minReplicas=2), "spec.minReplicas: 2 is not possible here"),
        (
            "hpa",
            lambda m: m["spec"]["scaleTargetRef"].update(name="x"),
            "'x' is not the Deployment 'ml-model'",
        ),
        ("deployment", lambda m: m.update(kind="Pod"), "a Deployment is wanted, and there is Pod"),
        ("deployment", lambda m: without(("spec", "template"), m), "spec: Object missing required field"),
        (
            "deployment",
            lambda m: without((*CONTAINERS, 1), m),
            "are serve; a replica here runs serve and stream",
        ),
        (
            "deployment",
            lambda m: without((*CONTAINERS, 0, "resources", "requests", "cpu"), m),
            "containers[serve].resources.requests: cpu is missing",
        ),
        (
            "deployment",
            lambda m: m["spec"]["template"]["spec"]["containers"][1]["resources"]["requests"].update(
                cpu="much"
            ),
            "containers[stream].resources.requests.cpu: 'much' is not a quantity",
        ),
        (
            "deployment",
            lambda m: m["spec"]["template"]["spec"]["containers"][1]["resources"]["requests"].update(
                memory=0
            ),
            "0 is not above 0",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_file_and_path(tmp_path, which, change, message):
    paths = {"hpa": HPA, "deployment": DEPLOYMENT}
    manifest = yaml.safe_load(paths[which].read_text())
    change(manifest)
    paths[which] = tmp_path / f"{which}.yaml"
    paths[which].write_text(yaml.safe_dump(manifest))
    with pytest.raises(ManifestError) as refused:
        manifests.read(LocalSettings(hpa_manifest=paths["hpa"], deployment_manifest=paths["deployment"]))
    assert message in str(refused.value)
    assert str(paths[which]) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.yaml': can't be read"):
        manifests.read(LocalSettings(hpa_manifest=tmp_path / "none.yaml", deployment_manifest=DEPLOYMENT))


def test_both_may_stand_in_one_file_of_several_documents(tmp_path):
    both = tmp_path / "both.yaml"
    both.write_text(f"{DEPLOYMENT.read_text()}\n---\n{HPA.read_text()}\n---\n")
    found = manifests.read(LocalSettings(hpa_manifest=both, deployment_manifest=both))
    assert found == manifests.read(LocalSettings(hpa_manifest=HPA, deployment_manifest=DEPLOYMENT))
