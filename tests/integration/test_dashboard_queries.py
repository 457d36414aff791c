"""Queries of the dashboard over series as a cluster and one machine have them, answered by promtool."""

import json

import pytest

from dashboards import PANELS, filled

FLUENTD = 'namespace="logging",pod="fluentd-1"'
HPA = 'namespace="ml-model",horizontalpodautoscaler="ml-model"'
CLUSTER = {
    f"fluentd_lines_total{{{FLUENTD}}}": "0+150x40",
    f"fluentd_lines_refused_total{{{FLUENTD}}}": "0+15x40",
    f'fluentd_output_status_buffer_total_bytes{{{FLUENTD},plugin_id="lines"}}': "4096x40",
    f'fluentd_output_status_num_errors{{{FLUENTD},plugin_id="lines"}}': "0+30x40",
    f'kube_horizontalpodautoscaler_spec_target_metric{{{HPA},metric_name="cpu",metric_target_type="utilization"}}': "70x40",
    f'kube_horizontalpodautoscaler_spec_target_metric{{{HPA},metric_name="memory",metric_target_type="utilization"}}': "80x40",
    f'kube_horizontalpodautoscaler_status_target_metric{{{HPA},metric_name="cpu",metric_target_type="utilization"}}': "64x40",
    f'kube_horizontalpodautoscaler_status_target_metric{{{HPA},metric_name="cpu",metric_target_type="average"}}': "0.032x40",
    f'kube_horizontalpodautoscaler_status_target_metric{{{HPA},metric_name="memory",metric_target_type="utilization"}}': "41x40",
    f'kube_horizontalpodautoscaler_status_target_metric{{{HPA},metric_name="memory",metric_target_type="average"}}': "165000000x40",
}
MACHINE = {
    f'logs_{name}{{namespace="ml-model"}}': "0+75x40"
    for name in (
        "shipped_total",
        "rejected_total",
        "repeated_total",
        "dropped_total",
        "store_failures_total",
        "cut_unread_total",
    )
} | {'logs_behind_bytes{namespace="ml-model"}': "99x40"}
EXPECTED = {
    "Utilisation against target": [
        ([("cpu", 64), ("memory", 41)], [], []),
        ([("cpu", 70), ("memory", 80)], [], []),
    ],
    # in a cluster, on one machine with a shipper, and without
    "Log lines": [(10, 5, 0), (1, 5, 0), (None, 5, 0), (None, 5, 0)],
    "Log lines not shipped yet": [(4096, 99, 0)],
    "Failures of the log store": [(2, 5, 0), (None, 5, 0)],
}


def sample(expected):
    if isinstance(expected, list):
        return [{"labels": f'{{metric_name="{name}"}}', "value": value} for name, value in expected]
    return [] if expected is None else [{"labels": "{}", "value": expected}]


@pytest.mark.parametrize("title", EXPECTED)
def test_a_panel_shows_what_is_counted_there_and_nothing_where_nothing_is(promtool, tmp_path, title):
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    queries = [filled(target["expr"], "2m") for target in panel["targets"]]
    places = {"a cluster": CLUSTER, "one machine": MACHINE, "one machine without a shipper": {}}
    tests = [
        {
            "name": name,
            "interval": "15s",
            "input_series": [{"series": one, "values": values} for one, values in series.items()],
            "promql_expr_test": [
                {"expr": query, "eval_time": "5m", "exp_samples": sample(expected[place])}
                for query, expected in zip(queries, EXPECTED[title], strict=True)
            ],
        }
        for place, (name, series) in enumerate(places.items())
    ]
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": [], "tests": tests}))
    code, output = promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert code == 0, output
