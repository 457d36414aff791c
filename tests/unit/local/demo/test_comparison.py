"""The autoscaler's log as a trace: its rehearsal repeats what was decided, and what differs is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from fraudscale.config import LocalSettings
from fraudscale.local.demo import comparison
from fraudscale.local.scaling import manifests
from fraudscale.rehearsal.rehearse import rehearse
from fraudscale.rehearsal.trace import decode

ROOT = Path(__file__).parents[4]
SCALING = manifests.read(
    LocalSettings(
        hpa_manifest=ROOT / "argocd/manifests/hpa.yaml",
        deployment_manifest=ROOT / "argocd/manifests/deployment.yaml",
    )
)
UP_AND_DOWN = ((75, 120), (600, 480), (1500, 150))
"""(until_s, milli-cores of all replicas)."""


def run_of(load, *, ready_after=1):
    """What a platform whose replicas need so long to start would decide."""
    segments = [{"until_s": until, "total_cpu_m": cpu, "memory_mi": 240} for until, cpu in load]
    head = {"cpu_request_m": 100, "memory_request_mi": 768, "pod_ready_after_s": ready_after}
    trace = decode("load", json.dumps(head | {"load": segments}).encode())
    return comparison.rehearsed(rehearse("hpa.yaml", SCALING.hpa, trace))


def line(tick, *, late=0.0):
    fields = {
        "event": "hpa_synced",
        "timestamp": "2026-11-24T02:00:36.131915Z",
        "at": 5000 + tick.t + late,
        "current_replicas": tick.current,
        "target_replicas": tick.target,
        "want": tick.want,
        "stabilised": tick.want,
        "reason": "",
        "message": "",
        "cpu_usage": tick.cpu,
        "memory_usage": 31,
        "cpu_millicores": 0,
        "memory_mi": 240.0,
        "pods": tick.current,
        "ready": tick.ready,
        "sampled": tick.current,
    }
    return json.dumps(fields, separators=(",", ":"))


def syncs_of(tmp_path, ticks, **options):
    log = tmp_path / "autoscaler.log"
    others = '{"event":"autoscaler_started","hpa":"ml-model"}\n'
    log.write_text(others + "".join(line(tick, **options) + "\n" for tick in ticks) + line(ticks[-1])[:50])
    return comparison.read(log)


def again(syncs):
    return comparison.rehearsed(rehearse("hpa.yaml", SCALING.hpa, comparison.trace(syncs, SCALING)))


@pytest.mark.parametrize("ready_after", [1, 5, 40, 100])
def test_the_rehearsal_of_a_log_repeats_it_tick_by_tick(tmp_path, ready_after):
    ticks = run_of(UP_AND_DOWN, ready_after=ready_after)
    syncs = syncs_of(tmp_path, ticks)
    assert comparison.ran(syncs) == ticks
    found = comparison.compare(ticks, again(syncs))
    assert found.went == found.rehearsed == [4, 5, 6, 5, 4]
    assert [step.ticks_apart for step in found.steps] == [0] * 4
    assert found.same_target == found.same_want == found.ticks == 100


def test_a_log_that_is_not_there_tells_of_no_sync(tmp_path):
    assert comparison.read(tmp_path / "autoscaler.log") == []


def test_a_sync_that_was_missed_is_a_longer_segment(tmp_path):
    ticks = run_of(UP_AND_DOWN)
    syncs = syncs_of(tmp_path, [tick for tick in ticks if tick.t != 30])
    assert [segment.until_s for segment in comparison.trace(syncs, SCALING).load][:4] == [15, 45, 60, 75]
    assert comparison.compare(comparison.ran(syncs), again(syncs)).went == [4, 5, 6, 5, 4]


def test_the_clock_of_a_restarted_autoscaler_is_put_on_the_grid(tmp_path):
    ticks = run_of(UP_AND_DOWN)
    syncs = syncs_of(tmp_path, ticks[:50]) + syncs_of(tmp_path, ticks[50:], late=4.2)
    assert [tick.t for tick in comparison.ran(syncs)] == [tick.t for tick in ticks]


def test_a_sync_without_metrics_is_one_without_reports(tmp_path):
    ticks = run_of(UP_AND_DOWN)
    ticks[3] = ticks[3]._replace(cpu=None, want=None)
    segments = comparison.trace(syncs_of(tmp_path, ticks), SCALING).load
    assert [segment.metrics_share for segment in segments[:5]] == [1, 1, 1, 0, 1]
    assert again(syncs_of(tmp_path, ticks))[3].want is None


@pytest.mark.parametrize("request_m", [100, 250, 333, 1000])
def test_the_percentage_of_a_replica_survives_the_way_through_milli_cores(tmp_path, request_m):
    scaling = replace(SCALING, requests={"pod": {"cpu": request_m, "memory": 768 * 2**20 * 1000}})
    ticks = [tick._replace(cpu=cpu) for cpu, tick in enumerate(run_of([(15 * 200, 0)]))]
    trace = comparison.trace(syncs_of(tmp_path, ticks), scaling)
    # The same number all the time: only the arithmetic is asked for.
    found = comparison.rehearsed(
        rehearse("hpa.yaml", SCALING.hpa, structs.replace(trace, pod_ready_after_s=1e6))
    )
    assert [tick.cpu for tick in found] == list(range(200))


def test_without_a_step_up_there_is_no_time_to_get_ready(tmp_path):
    syncs = syncs_of(tmp_path, run_of([(300, 120)]))
    assert comparison.trace(syncs, SCALING).pod_ready_after_s == 0


def test_a_replica_that_never_got_ready_is_not_ready_in_the_rehearsal_either(tmp_path):
    syncs = syncs_of(tmp_path, run_of(((75, 120), (300, 480)), ready_after=1000))
    assert {tick.ready for tick in again(syncs)} == {4}


def test_a_step_at_another_tick_is_told_with_its_distance():
    ticks = run_of(UP_AND_DOWN)
    later = [tick._replace(t=tick.t + 30) for tick in ticks]
    found = comparison.compare(ticks[2:], later[:-2])
    assert [step.ticks_apart for step in found.steps] == [2] * 4
    assert found.same_target == found.ticks - 8


def test_another_way_has_no_steps_to_compare():
    ticks = run_of(UP_AND_DOWN)
    found = comparison.compare(ticks, run_of([(1500, 120)]))
    assert (found.went, found.rehearsed, found.steps) == ([4, 5, 6, 5, 4], [4], [])
