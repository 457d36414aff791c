import json
import re
from dataclasses import replace

import yaml
from blueprints import named

from fraudscale.local.components import assembly, prometheus
from fraudscale.local.install.ports import Ports


def test_prometheus_finds_both_processes_of_live_slots_only():
    groups = json.loads(prometheus.targets_json(Ports(), [1, 5]))
    assert [group["targets"] for group in groups] == [
        ["127.0.0.1:8101"],
        ["127.0.0.1:8201"],
        ["127.0.0.1:8105"],
        ["127.0.0.1:8205"],
    ]
    assert groups[3]["labels"] == {
        "namespace": "ml-model",
        "service": "ml-model",
        "pod": "replica-5",
        "container": "stream",
    }


def test_prometheus_watches_once_all_is_there_so_that_a_start_is_no_alarm(blueprint):
    components = named(blueprint())
    assert {"autoscaler", *(name for name in components if "/" in name)} == set(
        components["prometheus"].needs
    )


def test_prometheus_asks_the_model_every_5_s_and_the_rest_every_15_s(blueprint):
    yml = prometheus.yml(blueprint())
    assert yml.count("scrape_interval: 5s") == 1
    assert "- job_name: ml-model\n    scrape_interval: 5s" in yml
    assert "  scrape_interval: 15s\n  evaluation_interval: 15s" in yml


def test_scrapes_are_as_much_more_frequent_as_the_autoscalers_time_is_faster(blueprint):
    b = blueprint()
    yml = prometheus.yml(replace(b, local=b.local.model_copy(update={"time_scale": 10})))
    assert "- job_name: ml-model\n    scrape_interval: 500ms" in yml
    assert "  scrape_interval: 1500ms\n  evaluation_interval: 1500ms" in yml


def test_the_queue_gets_the_namespace_from_the_autoscalers_target_and_its_hpa_series_keep_theirs(blueprint):
    jobs = {job["job_name"]: job for job in yaml.safe_load(prometheus.yml(blueprint()))["scrape_configs"]}
    (target,) = jobs["autoscaler"]["static_configs"]
    assert target["labels"]["namespace"] == "ml-model"
    assert jobs["autoscaler"]["honor_labels"]
    assert "honor_labels" not in jobs["node"]


def test_the_rules_of_the_cluster_are_loaded_with_links_of_this_machine(blueprint):
    b = blueprint()
    (loaded,) = yaml.safe_load(prometheus.yml(b))["rule_files"]
    (path,) = [path for path in assembly.files(b) if path.match(loaded)]
    text = assembly.files(b)[path]
    assert not {"fraudscale.example", "grafana.example"} & set(re.findall(r"\w+\.example", text))
    assert f"dashboard_url: http://127.0.0.1:{b.ports.console}\n" in text


def test_data_of_prometheus_is_bounded(blueprint):
    flags = named(blueprint())["prometheus"].command
    assert {"--storage.tsdb.retention.time=7d", "--storage.tsdb.retention.size=512MB"} <= set(flags)
