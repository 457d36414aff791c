"""The alert rules, by Prometheus's own promtool: they pass their tests, and no change to them does."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ALERTS = Path(__file__).parents[2] / "monitoring/alerts"
RULES = (ALERTS / "ml-alerts.yaml").read_text()
TESTS = sorted((ALERTS / "tests").glob("*.yaml"))


def test_the_rules_are_valid(promtool):
    code, output = promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS / "ml-alerts.yaml"))
    assert code == 0, output


def test_the_queries_of_the_runbooks_are_valid(promtool, tmp_path):
    runbooks = [page.read_text() for page in (ALERTS.parents[1] / "docs/runbooks").glob("*.md")]
    queries = [q for text in runbooks for q in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)]
    assert len(queries) > 20
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    (tmp_path / "queries.yaml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    code, output = promtool("check", "rules", str(tmp_path / "queries.yaml"))
    assert code == 0, output


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_pass_their_tests(promtool, file):
    code, output = promtool("test", "rules", str(file))
    assert code == 0, output


def changes(file, *pairs):
    return [pytest.param(file, old, new, id=f"{file}: {old[:60]} -> {new[:40]}") for old, new in pairs]


CHANGES = [
    *changes(
        "errors",
        ("ratio5m > 0.05 and namespace:http_requests", "ratio5m > 0.048 and namespace:http_requests"),
        ("ratio5m > 0.05 and namespace:http_requests", "ratio5m > 0.052 and namespace:http_requests"),
        (
            "http_server_errors:ratio5m > 0.05 and namespace:http_requests:increase5m > 50",
            "http_server_errors:ratio5m > 0.05",
        ),
        (
            "        for: 1m\n        keep_firing_for: 5m\n        labels:\n          severity: critical\n          service: ml-model\n        annotations:\n          summary: More",
            "        keep_firing_for: 5m\n        labels:\n          severity: critical\n          service: ml-model\n        annotations:\n          summary: More",
        ),
        ("        for: 1m\n        keep_firing_for: 5m\n", "        for: 1m\n"),
        (',status!="429"', ""),
        ('status=~"5.."', 'status="500"'),
        ('status=~"5.."', 'status=~"[45].."'),
        ('endpoint=~"/predict.*",', ""),
        ('endpoint=~"/predict.*",status=~', 'endpoint="/predict",status=~'),
        (
            "sum by (namespace, pod) (increase(http_requests_total",
            "max by (namespace, pod) (increase(http_requests_total",
        ),
        (
            "sum by (namespace) (namespace_pod:http_server_errors:increase5m) / (",
            "max by (namespace) (namespace_pod:http_server_errors:increase5m) / (",
        ),
        (
            "sum by (namespace) (namespace_pod:http_requests:increase5m)",
            "sum (namespace_pod:http_requests:increase5m)",
        ),
        ('status=~"5.."}[5m]', 'status=~"5.."}[1m]'),
        ("severity: critical", "severity: warning"),
    ),
    *changes(
        "latency",
        (
            "http_slow_requests:ratio5m > 0.05 and namespace:http_requests:increase5m > 50",
            "http_slow_requests:ratio5m > 0.05",
        ),
        ("http_slow_requests:ratio5m > 0.05", "http_slow_requests:ratio5m > 0.06"),
        ("http_slow_requests:ratio5m > 0.05", "http_slow_requests:ratio5m > 0.045"),
        ("        for: 2m\n        keep_firing_for: 5m\n", "        for: 3m\n        keep_firing_for: 5m\n"),
        ("        for: 2m\n        keep_firing_for: 5m\n", "        for: 2m\n        keep_firing_for: 10m\n"),
        ('le=~"2|2[.]0"', 'le="2.0"'),
        ('le=~"2|2[.]0"', 'le=~"2"'),
        ('le=~"2|2[.]0"', 'le=~"1[.]0"'),
    ),
    *changes(
        "replica",
        ("> 5 * (sum by", "> 4 * (sum by"),
        ("> 5 * (sum by", "> 6 * (sum by"),
        (
            "group_right () namespace_pod:http_requests:increase5m) > 20)",
            "group_right () namespace_pod:http_requests:increase5m))",
        ),
        ("(namespace_pod:http_requests:increase5m > 20)", "(namespace_pod:http_requests:increase5m > 10)"),
        ("          namespace_pod:http_server_errors:ratio5m > 0.05\n            and ", "          "),
        ("for: 2m\n        keep_firing_for: 5m", "for: 2m\n        keep_firing_for: 1m"),
    ),
    *changes(
        "kafka",
        (
            "max by (namespace, topic, group) (kafka_queue_length)",
            "sum by (namespace, topic, group) (kafka_queue_length)",
        ),
        (
            "max by (namespace, topic, group) (kafka_queue_length)",
            "min by (namespace, topic, group) (kafka_queue_length)",
        ),
        ("max by (namespace, topic, group) (kafka_queue_length)", "kafka_queue_length"),
        ("(kafka_queue_length) > 1000", "(kafka_queue_length) >= 1000"),
        ("(kafka_queue_length) > 1000", "(kafka_queue_length) > 1001"),
        ("(kafka_queue_length) > 1000\n        for: 2m", "(kafka_queue_length) > 1000"),
        ("(kafka_oldest_message_age_seconds) > 60", "(kafka_oldest_message_age_seconds) >= 60"),
        ("offset 15m", "offset 14m"),
        (' or 0 * kafka_offset_resets_total{job="ml-model"}', ""),
        ('offset 15m <= kafka_offset_resets_total{job="ml-model"}', "offset 15m"),
        ("sum by (namespace, kind) (", "max by (namespace, kind) ("),
        ("max by (namespace, topic, group) (kafka_oldest", "min by (namespace, topic, group) (kafka_oldest"),
        (
            'absent(kafka_queue_length{namespace="ml-model"})\n        for: 2m',
            'absent(kafka_queue_length{namespace="ml-model"})\n        for: 1m',
        ),
        ('absent(kafka_queue_length{namespace="ml-model"})', "kafka_queue_length == 0"),
        ('result="aborted"', 'result=~".*"'),
        ('container="stream",error_type="prediction"', 'error_type="prediction"'),
        ('container="stream",error_type="prediction"', 'container="stream"'),
        (
            '                or 0 * sum by (namespace) (increase(ml_model_errors_total{job="ml-model",container="stream",error_type="prediction"}[5m]))\n',
            "",
        ),
        ('failed_predictions_total{job="ml-model",container="stream"}', "failed_predictions_total"),
        ("            - (\n", "            + 0 * (\n"),
        ("            > 20\n", "            > 19\n"),
        ("            > 20\n", "            > 32\n"),
        ("> 10.5", "> 10"),
        ("> 10.5", "> 11.5"),
        ('topic=~".+[.]dead-letter"}[10m]', 'topic=~".+[.]dead-letter"}[5m]'),
        ('topic=~".+[.]dead-letter"', 'topic=~".+"'),
        ("sum by (namespace, topic) (increase(kafka", "max by (namespace, topic) (increase(kafka"),
        ("increase(kafka_messages_produced_total", "delta(kafka_messages_produced_total"),
    ),
    *changes(
        "model",
        ("> 1.5)", "> 1)"),
        ("> 1.5)", "> 2.5)"),
        ("count by (namespace) (increase(ml_model_loads", "sum by (namespace) (increase(ml_model_loads"),
        ('result="failure"', 'result=~".+"'),
        ('result="failure"}[15m]', 'result="failure"}[10m]'),
        ("unless on (namespace, pod, container, version)", "unless on (namespace, pod, version)"),
        ("unless on (namespace, pod, container, version)", "unless on (namespace, container, version)"),
        ("unless on (namespace, pod, container, version)", "unless on (namespace, pod, container)"),
        ("count by (namespace, version) (", "count by (namespace) ("),
        (
            "unless on (namespace, pod, container) ml_model_wanted",
            "unless on (namespace, pod) ml_model_wanted",
        ),
        ('ml_model_registry_up{job="ml-model"} == 1', 'ml_model_registry_up{job="ml-model"}'),
        (
            "          )\n        for: 5m\n        labels:\n          severity: warning\n          service: ml-model\n        annotations:\n          summary: '{{ if $labels.version",
            "          )\n        for: 4m\n        labels:\n          severity: warning\n          service: ml-model\n        annotations:\n          summary: '{{ if $labels.version",
        ),
    ),
    *changes(
        "scaling",
        ("ratio2m > 0.8\n        for: 5m", "ratio2m > 0.78\n        for: 5m"),
        ("ratio2m > 0.8\n        for: 5m", "ratio2m > 0.82\n        for: 5m"),
        ("ratio2m > 0.8\n        for: 5m", "ratio2m > 0.8\n        for: 1m"),
        (' and ml_model_cpu_request_cores{job="ml-model"})', ")"),
        ("sum by (namespace) (rate(process_cpu", "max by (namespace) (rate(process_cpu"),
        ("sum by (namespace) (ml_model_cpu_request", "avg by (namespace) (ml_model_cpu_request"),
        ("rate(process_cpu", "deriv(process_cpu"),
        (">= max by", "> max by"),
        (
            '>= max by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_spec_max_replicas{horizontalpodautoscaler="ml-model"})',
            ">= 6",
        ),
        (
            'max by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_status_current_replicas{horizontalpodautoscaler="ml-model"})',
            'sum by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_status_current_replicas{horizontalpodautoscaler="ml-model"})',
        ),
        ('replicas{horizontalpodautoscaler="ml-model"})', "replicas)"),
        (
            "expr: namespace_horizontalpodautoscaler:replicas_at_max:max\n        for: 1m",
            "expr: namespace_horizontalpodautoscaler:replicas_at_max:max",
        ),
        ('condition="ScalingLimited",status="true"', 'condition="ScalingLimited"'),
        ("              or namespace:cpu_utilisation:ratio2m > 0.8\n", ""),
        ("            and on (namespace) (\n", "            or on (namespace) (\n"),
        ('status=~"false|unknown"', 'status="false"'),
        ('condition=~"AbleToScale|ScalingActive"', 'condition=~".+"'),
        ("          max by (namespace, horizontalpodautoscaler, condition) (\n", "          (\n"),
        ("          ) == 1\n        for: 5m", "          ) == 1\n        for: 4m"),
    ),
    *changes(
        "meta",
        ('absent(http_requests_total{job="ml-model",namespace="ml-model"})', "absent(http_requests_total)"),
        ("absent(kafka_messages_consumed_total{", "absent(kafka_messages_produced_total{"),
        ('up{job="ml-model"} == 0', "up == 0"),
        ('up{job="ml-model"} == 0', 'up{job="ml-model"} == 1'),
        ("vector(1)", "vector(1) == 0"),
        ('ml_model_info{job="ml-model",namespace="ml-model",container="serve"}', "ml_model_info"),
        ('"ml_model_info", "", "")\n        for: 2m', '"ml_model_info", "", "")\n        for: 3m'),
    ),
]


@pytest.fixture(scope="module")
def outcomes(promtool, request, tmp_path_factory):
    """`promtool test rules` with each change that the chosen tests ask for, by change: as many at once as there are cores."""
    asked = [
        item.callspec.params for item in request.session.items if "old" in getattr(item, "fixturenames", ())
    ]
    changes = [(params["file"], params["old"], params["new"]) for params in asked]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            change: pool.submit(outcome_of, promtool, tmp_path_factory.mktemp("change"), *change)
            for change in changes
        }


def outcome_of(promtool, folder, file, old, new):
    assert old in RULES
    (folder / "ml-alerts.yaml").write_text(RULES.replace(old, new))
    (folder / "tests").mkdir()
    tests = folder / "tests" / f"{file}.yaml"
    tests.write_text((ALERTS / "tests" / tests.name).read_text())
    code, output = promtool("check", "rules", str(folder / "ml-alerts.yaml"))
    assert code == 0, output
    return promtool("test", "rules", str(tests))


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new"), CHANGES)
def test_a_change_to_the_rules_fails_their_tests(outcomes, file, old, new):
    code, output = outcomes[file, old, new].result()
    assert code != 0, "nothing noticed it"
    assert "exp:" in output or "expected" in output.lower(), output
