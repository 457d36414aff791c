"""The search for a behaviour: what it finds holds when it is rehearsed, and it leaves alone what isn't its business."""

import json

import pytest
import yaml
from rehearsals import OURS, hpa, manifest, rehearsed, trace
from typer.testing import CliRunner

from fraudscale.cli import app
from fraudscale.errors import InputError
from fraudscale.hpa import read_manifest
from fraudscale.rehearsal.queueing import Service, estimate_latency
from fraudscale.rehearsal.report import summarise
from fraudscale.rehearsal.suggest import as_manifest, suggest

SPIKE = [(360, 1000), (720, 2600), (1800, 1000)]
SERVICE = Service(2, 500)


def found(load, limit_ms, *, of=None):
    shares = []
    suggestion = suggest(
        "hpa.yaml", of or hpa(most=8), trace(*load), SERVICE, limit_ms, lambda _, share: shares.append(share)
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return suggestion


def figures(load, of):
    rehearsal = rehearsed(load, of=of)
    return summarise(rehearsal, estimate_latency(rehearsal, SERVICE))


@pytest.mark.parametrize("limit_ms", [500, 1000, 5000])
def test_what_is_suggested_holds_the_limit_and_costs_less_than_what_did_not(limit_ms):
    suggestion = found(SPIKE, limit_ms)
    assert suggestion.holds
    its, ours = figures(SPIKE, suggestion.hpa), figures(SPIKE, hpa(most=8))
    assert its.p95_ms == suggestion.p95_ms <= limit_ms < ours.p95_ms
    assert its.pod_hours < ours.pod_hours


def test_a_stricter_limit_costs_no_less():
    costs = [figures(SPIKE, found(SPIKE, limit_ms).hpa).pod_seconds for limit_ms in (5000, 1000, 500)]
    assert costs == sorted(costs)


def test_nothing_but_the_behaviour_is_changed_and_a_manifest_can_say_it():
    suggestion = found(SPIKE, 1000)
    document = yaml.safe_load(manifest(most=8))
    document["spec"]["behavior"] = as_manifest(suggestion.hpa.behavior)
    assert read_manifest(yaml.safe_dump(document), "hpa.yaml") == suggestion.hpa


def test_the_difference_is_that_of_two_manifests():
    lines = found(SPIKE, 1000).diff.splitlines()
    assert lines[:2] == ["--- hpa.yaml", "+++ suggested"]
    assert "-      stabilizationWindowSeconds: 300" in lines
    assert sum(line.startswith("+ ") for line in lines) == sum(line.startswith("- ") for line in lines)


def test_where_nothing_holds_the_limit_the_nearest_is_told():
    suggestion = found(SPIKE, 0.5)
    assert not suggestion.holds
    assert suggestion.p95_ms < figures(SPIKE, hpa(most=8)).p95_ms
    assert "No behaviour that was tried keeps p95 under 0.5 ms" in suggestion.as_text()


def test_a_fleet_that_never_changes_needs_no_other_behaviour():
    suggestion = found([(1800, 1000)], 1000)
    assert (suggestion.holds, suggestion.diff) == (True, "")
    assert "with fewer pod-hours" in suggestion.as_text()


def test_a_direction_that_is_disabled_stays_so_and_a_tolerance_too():
    behavior = {
        "scaleUp": OURS["scaleUp"] | {"tolerance": "0.05"},
        "scaleDown": {"selectPolicy": "Disabled"},
    }
    suggestion = found(SPIKE, 1000, of=hpa(most=8, behavior=behavior))
    found_up, found_down = suggestion.hpa.behavior.scale_up, suggestion.hpa.behavior.scale_down
    assert found_up.tolerance == 0.05
    assert found_down == hpa(behavior=behavior).behavior.scale_down
    assert suggestion.diff


def test_without_behaviour_it_begins_with_that_of_the_api_server():
    assert found(SPIKE, 1000, of=hpa(most=8, behavior=None)).holds


def test_oscillation_is_no_way_to_save():
    waves = [(t, 2600 if t % 240 else 1000) for t in range(120, 2401, 120)]
    suggestion = found(waves, 1000)
    assert suggestion.holds
    assert not figures(waves, suggestion.hpa).oscillates


@pytest.fixture
def files(tmp_path):
    path, load = tmp_path / "hpa.yaml", tmp_path / "trace.json"
    path.write_text(manifest(most=8))
    segments = [{"until_s": t, "total_cpu_m": cpu, "memory_mi": 200} for t, cpu in SPIKE]
    load.write_text(json.dumps({"cpu_request_m": 500, "memory_request_mi": 512, "load": segments}))
    return ["--hpa", str(path), "--trace", str(load), "--pod-cpu-m", "500", "--cpu-ms-per-request", "2"]


def run(*arguments):
    return CliRunner().invoke(app, ["rehearse", *arguments])


def test_the_command_shows_both_and_the_difference(files):
    done = run(*files, "--suggest", "1000")
    assert done.exit_code == 0
    assert "suggested\n" in done.stdout.splitlines(keepends=True)[0]
    assert "+++ suggested" in done.stdout


def test_programs_get_both_answers_and_the_behaviour(files):
    done = run(*files, "--suggest", "1000", "--json")
    answer = json.loads(done.stdout)
    assert [a["hpa"] for a in answer["rehearsals"]] == [files[1], "suggested"]
    assert answer["suggestion"]["holds"] is True
    assert answer["suggestion"]["behavior"].keys() == {"scaleUp", "scaleDown"}


def test_where_nothing_holds_the_exit_code_is_1(files):
    assert run(*files, "--suggest", "0.5").exit_code == 1


def test_one_manifest_is_varied_and_not_several(files):
    done = run(*files, "--hpa", files[1], "--suggest", "100")
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert "give one --hpa" in str(done.exception)
