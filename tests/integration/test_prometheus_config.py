"""Prometheus's configurations, by its own promtool: valid, and what is found in a cluster gets the labels that rules read."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fraudscale.config import AlertSettings, HttpSettings, KafkaSettings, LocalSettings, ModelSettings
from fraudscale.local.components import assembly, prometheus
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install.ports import Ports

CLUSTER = yaml.safe_load(
    (Path(__file__).parents[2] / "monitoring/prometheus/prometheus.yml").read_text(encoding="utf-8")
)
JOBS = {job["job_name"]: job for job in CLUSTER["scrape_configs"]}
IN_CLUSTER = [name for name, job in JOBS.items() if "kubernetes_sd_configs" in job]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The cluster's configuration with files in the place of Kubernetes, which Debian's build can't ask."""
    folder = tmp_path_factory.mktemp("cluster")
    found = folder / "found.json"
    found.write_text("[]")
    text = json.dumps(CLUSTER).replace("kubernetes_sd_configs", "file_sd_configs")
    text = re.sub(r'"file_sd_configs": \[.*?\}\]', f'"file_sd_configs": [{{"files": ["{found}"]}}]', text)
    (folder / "prometheus.yml").write_text(text)
    return SimpleNamespace(config=folder / "prometheus.yml", found=found)


def test_the_clusters_configuration_is_valid(promtool, cluster):
    code, output = promtool("check", "config", str(cluster.config))
    assert code == 0, output


def test_kubernetes_is_asked_as_prometheus_knows_it():
    for name in IN_CLUSTER:
        (asked,) = JOBS[name]["kubernetes_sd_configs"]
        assert asked["role"] in {"pod", "endpoints"}
        assert asked.keys() <= {"role", "namespaces"}
        assert asked.get("namespaces", {}).keys() <= {"names"}


def test_the_intervals_are_those_of_the_text():
    intervals = {"scrape_interval": "15s", "evaluation_interval": "15s"}
    assert CLUSTER["global"] == intervals
    assert JOBS["ml-model"]["scrape_interval"] == "5s"
    assert [name for name, job in JOBS.items() if "scrape_interval" in job] == ["ml-model"]


def pod(name, port, port_name, container, app, namespace="default", **more):
    """What Kubernetes tells of a container's port, as Prometheus labels it."""
    return {
        "__meta_kubernetes_namespace": namespace,
        "__meta_kubernetes_pod_name": name,
        "__meta_kubernetes_pod_ip": "10.0.0.7",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_node_name": "node-1",
        "__meta_kubernetes_pod_container_init": "false",
        "__meta_kubernetes_pod_container_name": container,
        "__meta_kubernetes_pod_container_port_name": port_name,
        "__meta_kubernetes_pod_container_port_number": str(port),
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": app,
        **{f"__meta_kubernetes_{key}": value for key, value in more.items()},
        "at": f"10.0.0.7:{port}",
    }


SERVE = pod("ml-model-a", 8101, "http", "serve", "ml-model", "ml-model")
STREAM = pod("ml-model-a", 8201, "metrics", "stream", "ml-model", "ml-model")
ASKS = {"pod_annotation_prometheus_io_scrape": "true"}
WATCHER = pod("watch-a", 8201, "metrics", "watch", "watch-scaling", "ml-model", **ASKS)
OURS = {"namespace": "ml-model", "pod": "ml-model-a", "service": "ml-model"}
FOUND = {
    "the HTTP door": (SERVE, "ml-model", {**OURS, "container": "serve"}),
    "the Kafka door": (STREAM, "ml-model", {**OURS, "container": "stream"}),
    "a replica that asks to be scraped": (
        {**SERVE, "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true"},
        "ml-model",
        {**OURS, "container": "serve"},
    ),
    "a replica that ended": ({**SERVE, "__meta_kubernetes_pod_phase": "Failed"}, None, {}),
    "another port of a replica": (
        pod("ml-model-a", 9999, "debug", "serve", "ml-model", "ml-model"),
        None,
        {},
    ),
    "another pod of the namespace": (
        WATCHER,
        "kubernetes-pods",
        {"namespace": "ml-model", "pod": "watch-a", "service": "watch-scaling"},
    ),
    "a pod that names port and path": (
        pod(
            "shop-a",
            80,
            "http",
            "shop",
            "shop",
            pod_annotation_prometheus_io_port="9000",
            pod_annotation_prometheus_io_path="/m",
            **ASKS,
        ),
        "kubernetes-pods",
        {"__address__": "10.0.0.7:9000", "__metrics_path__": "/m", "namespace": "default"},
    ),
    "the sidecar of that pod": (
        pod(
            "shop-a",
            15090,
            "metrics",
            "proxy",
            "shop",
            pod_annotation_prometheus_io_port="9000",
            pod_annotation_prometheus_io_path="/m",
            **ASKS,
        ),
        "kubernetes-pods",
        {"__address__": "10.0.0.7:9000"},
    ),
    "a pod that does not ask": (pod("quiet-a", 80, "http", "quiet", "quiet"), None, {}),
    "a pod that ended": (
        {**WATCHER, "__meta_kubernetes_pod_phase": "Succeeded"},
        None,
        {},
    ),
    "an init container": ({**WATCHER, "__meta_kubernetes_pod_container_init": "true"}, None, {}),
    "a node exporter": (
        pod("node-exporter-x", 9100, "metrics", "node-exporter", "node-exporter", "monitoring", **ASKS),
        "node",
        {"node": "node-1", "pod": "node-exporter-x"},
    ),
    "kube-state-metrics, by its Service": (
        {
            "__meta_kubernetes_service_label_app_kubernetes_io_name": "kube-state-metrics",
            "__meta_kubernetes_endpoint_port_name": "http",
            "at": "10.0.0.9:8080",
        },
        "kube-state-metrics",
        {},
    ),
    "kube-state-metrics, its pod": (
        pod("ksm-a", 8080, "http", "ksm", "kube-state-metrics", "monitoring", **ASKS),
        None,
        {},
    ),
}


@pytest.fixture(scope="module")
def scraped(promtool, cluster):
    """Address and labels of all that is found, by job, after relabelling."""
    found = [
        {
            "targets": [f"{about['at']}"],
            "labels": {"case": case} | {k: v for k, v in about.items() if k != "at"},
        }
        for case, (about, _, _) in FOUND.items()
    ]
    cluster.found.write_text(json.dumps(found))
    kept = {}
    for job in IN_CLUSTER:
        code, output = promtool("check", "service-discovery", "--timeout=1s", str(cluster.config), job)
        assert code == 0, output
        targets, _ = json.JSONDecoder().raw_decode(output)
        kept[job] = [target["labels"] for target in targets if target["labels"]]
    return kept


@pytest.mark.parametrize("case", FOUND)
def test_what_is_found_in_a_cluster_is_scraped_by_one_job_with_the_labels_that_rules_read(scraped, case):
    _, job, labels = FOUND[case]
    taken = {name: [t for t in targets if t["case"] == case] for name, targets in scraped.items()}
    assert [name for name, targets in taken.items() if targets] == ([job] if job else [])
    if job:
        (target,) = taken[job]
        assert target["job"] == job
        assert labels.items() <= target.items()


def test_a_pod_that_names_a_port_is_scraped_once_whatever_containers_it_has(scraped):
    pods = ("a pod that names port and path", "the sidecar of that pod")
    one, other = [
        {name: value for name, value in target.items() if name != "case"}
        for target in scraped["kubernetes-pods"]
        if target["case"] in pods
    ]
    assert one == other


@pytest.mark.parametrize("time_scale", [1, 7, 20])
def test_the_machines_configuration_and_rules_are_valid(promtool, tmp_path, time_scale):
    local = LocalSettings.read(fraudscale_home=tmp_path, time_scale=time_scale)
    tools = SimpleNamespace(
        haproxy_exports=True, opensearch=None, grafana=None, alertmanager=Path("/t/alertmanager")
    )
    b = Blueprint(local, ModelSettings(), KafkaSettings(), HttpSettings(), AlertSettings(), tools, Ports())  # type: ignore[arg-type]
    assembly.prepare(b)
    code, output = promtool("check", "config", str(b.run / "prometheus.yml"))
    assert code == 0, output
    rules = re.findall(r"^ +- (?:alert|record):", AlertSettings().alert_rules.read_text(), re.MULTILINE)
    assert f"{len(rules)} rules found" in output


def test_both_give_our_series_the_same_labels(scraped):
    here = json.loads(prometheus.targets_json(Ports(), [1]))[0]["labels"]
    there = next(target for target in scraped["ml-model"] if target["case"] == "the HTTP door")
    ours = {name for name in there if not name.startswith("__")} - {"case", "instance", "job"}
    assert ours == here.keys()
