"""Figures, tables and the picture of a rehearsal."""

import json
import re
import sys

import pytest
from rehearsals import CPU, MEMORY, NERVOUS, hpa, manifest, rehearsed
from typer.testing import CliRunner

from fraudscale.cli import app
from fraudscale.errors import InputError
from fraudscale.rehearsal import report
from fraudscale.rehearsal.queueing import Service, estimate_latency

SPIKE = [(90, 1000), (420, 2200), (1500, 600)]
WAVES = [(t, 1200 if t % 120 else 4000) for t in range(60, 1801, 60)]


def summary(load, **fields):
    found = rehearsed(load, **fields)
    return report.summarise(found, estimate_latency(found, Service()))


@pytest.fixture
def files(tmp_path):
    """Two manifests and a trace on disk."""
    calm, nervous, load = tmp_path / "calm.yaml", tmp_path / "nervous.yaml", tmp_path / "trace.json"
    calm.write_text(manifest())
    nervous.write_text(manifest(behavior=NERVOUS))
    segments = [{"until_s": t, "total_cpu_m": cpu, "memory_mi": 200} for t, cpu in SPIKE]
    load.write_text(json.dumps({"cpu_request_m": 500, "memory_request_mi": 512, "load": segments}))
    return calm, nervous, load


def run(*arguments):
    done = CliRunner().invoke(app, ["rehearse", *map(str, arguments)])
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_pod_seconds_are_replicas_over_time():
    # 4 to 135, 5 to 195, 6 to 705, 5 to 1005, 4 to the end.
    found = summary(SPIKE)
    assert found.pod_seconds == 4 * 135 + 5 * 60 + 6 * 510 + 5 * 300 + 4 * 495
    assert (found.scale_ups, found.scale_downs) == (2, 2)
    assert (found.least_replicas, found.most_replicas, found.seconds_at_max) == (4, 6, 510)


def test_time_over_target_is_that_of_the_pods_not_of_the_controller():
    # 2200m on 4, 5 and 6 pods of 500m are 110, 88 and 73 percent: over 70 from the first second to the last.
    assert summary(SPIKE).seconds_over_target == 330
    assert summary([(600, 1400)], of=hpa(least=4, most=4)).seconds_over_target == 0
    assert summary([(600, 1404)], of=hpa(least=4, most=4)).seconds_over_target == 600


def test_memory_over_its_target_counts_too():
    assert summary([(600, 1000, 420)], of=hpa(most=4)).seconds_over_target == 600
    assert summary([(600, 1000, 420)], of=hpa(most=4, metrics=[CPU])).seconds_over_target == 0


def test_a_target_in_milli_cores_is_compared_with_milli_cores():
    average = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "300m"}},
    }
    of = hpa(least=4, most=4, metrics=[average])
    assert summary([(60, 1200), (120, 1204)], of=of).seconds_over_target == 60


def test_a_load_without_a_ready_pod_is_over_target():
    assert summary([(60, 1000)], initial_replicas=0).seconds_over_target == 60


def test_a_start_above_the_maximum_is_shown_from_its_first_second():
    found = rehearsed([(60, 1000)], initial_replicas=9)
    answer = report.answer(found, report.summarise(found, estimate_latency(found, Service())))
    assert answer["replicas"] == [[0, 9], [0, 6]]
    assert answer["summary"].pod_seconds == 6 * 60


def test_up_and_down_and_up_within_ten_minutes_is_oscillation():
    nervous = summary(WAVES, of=hpa(least=2, most=8, behavior=NERVOUS))
    assert nervous.oscillates
    assert nervous.direction_changes_per_10_min >= 2
    assert not summary(WAVES).oscillates


def test_one_spike_is_no_oscillation():
    assert summary(SPIKE).direction_changes_per_10_min <= 1


def test_the_answer_has_the_agreed_shape(files):
    calm, _, load = files
    answer = json.loads(run("--hpa", calm, "--trace", load, "--json", "--pod-ready-after-s", 0))
    assert answer["kubernetes"] == "1.36"
    assert answer["replicas"] == [[0, 4], [135, 5], [195, 6], [705, 5], [1005, 4]]
    assert len(answer["decisions"]) == 100
    step = answer["decisions"][9]
    assert (step["t"], step["from"], step["to"], step["reason"]) == (135, 4, 5, "ScaleUpLimit")
    assert step["metrics"]["cpu"] == {"value": 110, "target": 70, "replicas": 7}
    assert answer["summary"]["pod_seconds"] == 7380
    assert answer["summary"]["seconds_over_target"] == 330


def test_several_hpas_answer_in_the_order_given(files):
    calm, nervous, load = files
    answer = json.loads(run("--hpa", nervous, "--hpa", calm, "--trace", load, "--json"))
    assert [r["hpa"] for r in answer["rehearsals"]] == [str(nervous), str(calm)]
    assert answer["rehearsals"][0]["replicas"] != answer["rehearsals"][1]["replicas"]


def test_a_failed_metric_is_told_where_it_failed():
    found = rehearsed([(60, 1000, 200, 0)])
    answer = report.answer(found, report.summarise(found, estimate_latency(found, Service())))
    assert answer["summary"].ticks_without_decision == 4
    assert answer["decisions"][0]["metrics"]["cpu"]["error"]
    assert answer["decisions"][0]["reason"] == "FailedGetResourceMetric"


def test_the_table_has_a_column_an_hpa_and_the_reasons_below(files):
    calm, nervous, load = files
    text = run("--hpa", calm, "--hpa", nervous, "--trace", load)
    assert re.search(r"^\s+\S*calm\.yaml\s+\S*nervous\.yaml$", text, re.MULTILINE)
    assert re.search(r"^pod-hours\s+[\d.]+\s+[\d.]+$", text, re.MULTILINE)
    assert "00:02:15  4 → 5  ScaleUpLimit: cpu resource utilization" in text


def test_many_changes_are_told_in_part(files):
    text = run("--hpa", files[0], "--shape", "week:900-3300", *REQUESTS, "--sync-period-s", 60)
    assert re.search(r"… and \d+ more; --json has all of them$", text, re.MULTILINE)


def test_the_worst_moment_is_told_with_its_time():
    found = summary([(90, 1000), (150, 3900), (600, 1000)], of=hpa(least=4, most=4))
    assert (found.worst_at_s, found.worst_p95_ms) == (90, pytest.approx(119.8, abs=0.1))


def test_a_fleet_that_never_changes_says_so(files):
    assert "4 replicas all the time" in run("--hpa", files[0], "--shape", "constant:1000", *REQUESTS)


REQUESTS = ("--cpu-request-m", 500, "--memory-request-mi", 512)


@pytest.mark.parametrize(("seconds", "shown"), [(0, "00:00:00"), (3725, "01:02:05"), (93_784, "1d 02:03:04")])
def test_a_clock_shows_days_where_there_are_some(seconds, shown):
    assert report.clock(seconds) == shown


@pytest.mark.parametrize("format_", ["svg", "png", "pdf"])
def test_the_picture_is_one_file_that_loads_nothing(files, tmp_path, format_):
    calm, nervous, load = files
    picture = tmp_path / f"picture.{format_}"
    run("--hpa", calm, "--hpa", nervous, "--trace", load, "--picture", picture)
    content = picture.read_bytes()
    assert len(content) > 10_000
    assert not re.search(rb'(?:href|src)="(?!#|data:)', content)


def test_the_picture_of_the_same_trace_is_the_same(files, tmp_path):
    for name in ("one.svg", "two.svg"):
        run("--hpa", files[0], "--trace", files[2], "--picture", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_an_hpa_that_looks_at_memory_alone_is_drawn_without_a_cpu_target(files, tmp_path):
    files[0].write_text(manifest(metrics=[MEMORY]))
    run("--hpa", files[0], "--trace", files[2], "--picture", tmp_path / "p.png")
    assert (tmp_path / "p.png").exists()
    assert report.cpu_target(hpa(metrics=[MEMORY]), 500) is None
    assert report.cpu_target(hpa(metrics=[MEMORY, CPU]), 500) == 70


def test_a_fleet_that_changes_often_still_fits_its_picture(files, tmp_path):
    run(
        "--hpa",
        files[1],
        "--shape",
        "week:600-2600",
        *REQUESTS,
        "--sync-period-s",
        60,
        "--picture",
        tmp_path / "p.svg",
    )
    load = [{"until_s": t, "total_cpu_m": cpu, "memory_mi": 200} for t, cpu in WAVES]
    files[2].write_text(json.dumps({"cpu_request_m": 500, "memory_request_mi": 512, "load": load}))
    run("--hpa", files[1], "--trace", files[2], "--picture", tmp_path / "p.svg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give exactly one of --trace FILE"),
        (["--shape", "ramp:1-2", "--from-prometheus", "http://127.0.0.1:1"], "give exactly one of"),
        (["--shape", "ramp:1-2", "--picture", "p.gif"], "a picture's name ends in .svg, .png, .pdf"),
        (["--shape", "ramp:1-2", *REQUESTS, "--picture", "/nowhere/p.svg"], "can't be written: No such file"),
        (["--shape", "ramp:1-2"], "give --cpu-request-m"),
        (["--from-prometheus", "localhost:9090"], "is not an address such as http://127.0.0.1:9090"),
        (
            ["--from-prometheus", "http://127.0.0.1:1", "--window", "day"],
            "--window: day: day is not a duration",
        ),
    ],
)
def test_wrong_options_are_the_users_input(files, options, message):
    with pytest.raises(InputError) as caught:
        run("--hpa", files[0], *options)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_picture_where_nothing_can_draw_says_what_to_install(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fraudscale.rehearsal.picture", raising=False)
    monkeypatch.delattr("fraudscale.rehearsal.picture", raising=False)
    with pytest.raises(InputError, match="needs matplotlib: install the group `train`"):
        run("--hpa", files[0], "--trace", files[2], "--picture", "p.svg")


MANIFESTS = {
    "no YAML": ("a: [", ""),
    "another kind": ("kind: Deployment", ""),
    "a version that there is not": (manifest().replace("autoscaling/v2", "autoscaling/v3"), "apiVersion"),
    "min above max": (manifest(least=7), "Replicas"),
    "a misspelt field": (manifest().replace("maxReplicas", "maxReplica"), "maxReplica"),
    "a window beyond an hour": (manifest().replace("Seconds: 60", "Seconds: 36000", 1), "behavior.scale"),
    "no target": (manifest().replace("averageUtilization: 70", "averageUtilization: 0"), "metrics[0]"),
    "a metric that no trace holds": (
        manifest(
            metrics=[
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": "qps"},
                        "target": {"type": "AverageValue", "averageValue": "10"},
                    },
                }
            ]
        ),
        "spec.metrics: a trace holds CPU and memory of pods, nothing for Pods/qps",
    ),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_bad_manifest_is_refused_in_one_line_with_its_file(files, tmp_path, kind):
    content, message = MANIFESTS[kind]
    path = tmp_path / "hpa.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        run("--hpa", path, "--trace", files[2])
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_request_nobody_waits():
    found = summary([(600, 0)])
    assert (found.requests, found.p99_ms, found.worst_p95_ms, found.worst_at_s) == (0, 0, 0, 0)


def test_the_table_marks_what_oscillates(files):
    load = [{"until_s": t, "total_cpu_m": cpu, "memory_mi": 200} for t, cpu in WAVES]
    files[2].write_text(json.dumps({"cpu_request_m": 500, "memory_request_mi": 512, "load": load}))
    text = run("--hpa", files[0], "--hpa", files[1], "--trace", files[2])
    assert re.search(r"^direction changes in 10 min\s+\d+\s+\d+ OSCILLATES$", text, re.MULTILINE)
