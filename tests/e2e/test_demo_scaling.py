"""The demonstration of scaling, as `make demo-scaling TIME_SCALE=10` runs it."""

import json
import subprocess

import pytest

from fraudscale.rehearsal import trace
from fraudscale.rehearsal.trace import Cost, Setup

pytestmark = [pytest.mark.slow, pytest.mark.quiet]  # three minutes, and the load decides
UP_AND_BACK = [4, 5, 6, 5, 4]


@pytest.mark.timeout(900)
def test_it_goes_up_and_back_with_nothing_lost_and_as_rehearsed(new_platform):
    platform = new_platform()
    command = platform.command("demo-scaling", "--time-scale", "10", "--json")
    done = subprocess.run(command, env=platform.env, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    assert (found["good"], found["wrong"]) == (True, [])
    assert found["comparison"]["went"] == found["comparison"]["rehearsed"] == UP_AND_BACK
    assert found["prometheus"] == UP_AND_BACK
    first, last = found["fired"]
    up = next(step["t"] for step in found["comparison"]["steps"] if step["target"] == 6)
    assert up < first < last
    for sender in found["sent"]:
        assert sender["ok"] == sender["sent"] > 100
        assert (sender["errors"], sender["missing"], sender["duplicates"]) == ({}, 0, 0)
    run = platform.home / "run"
    assert json.loads((run / "demo-scaling.json").read_text()) == found
    assert trace.read(run / "demo-scaling-trace.json", Setup(), Cost()).initial_replicas == 4
    assert (run / "demo-scaling.png").stat().st_size > 20_000
    assert platform.processes() == []
