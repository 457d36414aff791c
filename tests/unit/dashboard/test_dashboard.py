"""The dashboard shows every metric, agrees with the alerts, and is what Grafana reads."""

import json
import re
from pathlib import Path

import grafana_panels
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import alert_rules
from dashboards import DASHBOARD, MARKS, PANELS, QUERIES
from fraudscale import metrics
from fraudscale.dashboard import limits, render

ROOT = Path(__file__).parents[3]
EXPORTED = {metric.name: metric for metric in metrics.METRICS}
OF_PROMETHEUS = {"up", "ALERTS"}
OF_THE_CLIENT = {"process_cpu_seconds_total"}
OF_THE_NODE = {
    "node_cpu_seconds_total",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_load1",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
}
OF_FLUENTD = {
    "fluentd_lines_total",
    "fluentd_lines_refused_total",
    "fluentd_output_status_buffer_total_bytes",
    "fluentd_output_status_num_errors",
}
"""The first two are counted by logging/fluentd/fluent.conf, the others by Fluentd's plugin; it runs in a namespace of its own."""
OF_A_PROMETHEUS_ANNOTATION = {"titleFormat", "step"}
"""Grafana leaves these to the data source; its schema has no type for them."""


def base(name):
    stem = re.sub(r"_(bucket|count|sum)$", "", name)
    return stem if stem in EXPORTED and EXPORTED[stem].kind == "histogram" else name


def selected(expression):
    return alert_rules.selectors(expression.replace("$__rate_interval", "1m").replace("offset 15s", ""))


def differences(ours, theirs, path=""):
    """Where a value of ours is not in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from differences(value, theirs.get(name), f"{path}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ours != theirs:
        yield path


def read_by_grafana(dashboard):
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_grafanas_own_types_read_all_of_it():
    lost = list(differences(DASHBOARD, read_by_grafana(DASHBOARD)))
    assert {path.rpartition(".")[2] for path in lost} == OF_A_PROMETHEUS_ANNOTATION
    assert len(lost) == len(OF_A_PROMETHEUS_ANNOTATION) * len(MARKS)


@pytest.mark.parametrize("name", ["fieldConfig", "gridPos", "options"])
def test_grafanas_own_types_lose_what_is_misspelt(name):
    changed = json.loads(json.dumps(DASHBOARD))
    panel = next(panel for panel in changed["panels"] if panel["type"] == "timeseries")
    panel[name]["misspelt"] = 1
    assert any(path.endswith(".misspelt") for path in differences(changed, read_by_grafana(changed)))


def test_every_metric_is_on_it():
    shown = {base(name) for _, expression in QUERIES for name in selected(expression)}
    assert EXPORTED.keys() - shown == set()


@pytest.mark.parametrize(("name", "expression"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_asks_for_metrics_and_labels_that_exist(name, expression):
    for metric, selectors in selected(expression).items():
        known = base(metric) in EXPORTED or metric in OF_PROMETHEUS | OF_THE_CLIENT | OF_THE_NODE | OF_FLUENTD
        assert known, metric
        for selector in selectors:
            labels = set(re.findall(r"[{,](\w+)[=!]", selector))
            assert metric in OF_THE_NODE | OF_FLUENTD or "namespace" in labels, selector
            if base(metric) in EXPORTED:
                allowed = {*EXPORTED[base(metric)].labels, "job", "namespace", "pod", "container", "le"}
                assert labels <= allowed, selector


def test_what_is_said_to_be_fluentds_is_counted_by_its_configuration():
    counted = re.findall(r"name (fluentd_\w+)", (ROOT / "logging/fluentd/fluent.conf").read_text())
    assert {name for name in OF_FLUENTD if "_status_" not in name} == set(counted)


def test_what_every_exporter_tells_alike_is_never_summed():
    alike = {metrics.QUEUE_LENGTH, metrics.OLDEST_MESSAGE_AGE, metrics.TOPIC_MESSAGES, metrics.HPA_DESIRED}
    for name, expression in QUERIES:
        if any(metric.name in expression for metric in alike):
            assert "sum" not in expression, name
            assert "max" in expression, name


def limit(panel):
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return steps[1]["value"] if len(steps) > 1 else None


@pytest.mark.parametrize(
    ("title", "alert", "value"),
    [
        ("Failed requests", "HighErrorRate", 0.05),
        ("Failed requests by replica", "ReplicaErrorRate", 0.05),
        ("HTTP answers", "HighResponseTime", 2),
        ("95th percentile", "HighResponseTime", 2),
        ("Slower than 2 s", "HighResponseTime", 0.05),
        ("Messages that wait", "HighKafkaQueueLength", 1000),
        ("Age of the oldest", "KafkaOldestMessageAge", 60),
        ("Dead letters in 10 minutes", "DeadLettersArriving", 10.5),
        ("Failed batches in 5 minutes", "StreamFailures", 20),
        ("Failed loads of a process", "ModelLoadFailing", 1.5),
        ("CPU of the requests", "HighCPUUsage", 0.8),
    ],
)
def test_a_line_is_the_limit_of_its_alert(title, alert, value):
    found = [panel for panel in PANELS if panel["title"] == title]
    assert {limit(panel) for panel in found} == {value}
    assert all(alert in {link["title"] for link in panel["links"]} for panel in found)


def test_a_changed_rule_moves_its_line():
    changed = alert_rules.FILE.read_text().replace("kafka_queue_length) > 1000", "kafka_queue_length) > 1234")
    drawn = json.loads(render.rendered(json.dumps(DASHBOARD), limits.read(changed), "https://runbooks"))
    (panel,) = [panel for panel in drawn["panels"] if panel["title"] == "Messages that wait"]
    assert limit(panel) == 1234


def test_a_panel_whose_alert_was_taken_out_of_the_rules_has_no_line():
    drawn = json.loads(render.rendered(json.dumps(DASHBOARD), {}, "https://runbooks"))
    assert {limit(panel) for panel in drawn["panels"] if panel["type"] != "row"} == {None}


def test_links_lead_to_the_runbooks_of_the_place():
    drawn = json.loads(render.rendered(json.dumps(DASHBOARD), {}, "file:///here"))
    links = {link["url"] for panel in [drawn, *drawn["panels"]] for link in panel.get("links", [])}
    assert links == {f"file:///here/{page}.md" for page in ["README", *alert_rules.NAMES]}


def test_slow_is_what_the_rules_call_slow():
    (rule,) = [rule for rule in alert_rules.RULES if rule.get("record") == limits.SLOW]
    edge = re.search(r'le=~"[^"]+"', grafana_panels.OVER)[0]
    assert edge in rule["expr"]


def test_every_alert_is_explained_by_a_panel_that_links_to_its_runbook():
    links = {link["title"]: link["url"] for panel in PANELS for link in panel["links"]}
    assert sorted(links) == alert_rules.NAMES
    for alert, url in links.items():
        assert url.endswith(f"/docs/runbooks/{alert}.md")
        assert (ROOT / f"docs/runbooks/{alert}.md").is_file()


def test_panels_say_what_they_show_and_have_unit_and_place_of_their_own():
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_its_rows_are_the_subjects():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        *("At a glance", "Traffic", "Model", "Errors", "Latency", "Kafka", "Scaling", "System"),
        "Logs and traces",
    ]


def test_it_asks_whichever_prometheus_and_namespace_is_chosen():
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace"]
    sources = [p["datasource"] for p in PANELS] + [m["datasource"] for m in MARKS]
    assert {source["uid"] for source in sources} == {"${datasource}"}
