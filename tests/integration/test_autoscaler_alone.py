"""The autoscaler's process with nothing beside it: no broker, and replicas of which nothing can be measured."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fraudscale.local.install.ports import Ports, claim_block
from fraudscale.local.scaling import scale_file
from fraudscale.local.scaling.scale_file import ScaleRefused
from fraudscale.local.supervisor import state

ROOT = Path(__file__).parents[2]
RUN = "2026-11-24T00:00:00Z"
NO_PROCESS = 2**22 + 1
"""Above the highest process number that Linux gives."""


def until(condition, what):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


@pytest.fixture
def ports():
    block = claim_block()
    yield Ports.at(block.__enter__())
    block.__exit__(None, None, None)


def say(home, replicas):
    rows = [
        state.Replica(f"replica-{i}", "ready", NO_PROCESS, NO_PROCESS, "") for i in range(1, replicas + 1)
    ]
    state.write(home, state.Status(ready=True, replicas=rows, started_at=RUN))


def syncs(log):
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"hpa_synced"' in line]
    return [(line["current_replicas"], line["target_replicas"], line["want"]) for line in lines]


def test_without_broker_and_metrics_it_keeps_what_there_is_and_fills_up_to_the_least(tmp_path, ports):
    env = os.environ | {
        "FRAUDSCALE_HOME": str(tmp_path),
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{ports.kafka}",
        "METRICS_PORT": str(ports.autoscaler),
        "TIME_SCALE": "20",
    }
    say(tmp_path, 6)
    log = tmp_path / "autoscaler.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "fraudscale.cli", "autoscale"],
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=output,
        ) as autoscaler,
    ):
        try:
            until(lambda: '"broker_unavailable"' in log.read_text(), "it says that no broker answers")
            until(lambda: len(syncs(log)) > 3, "it syncs without a broker")
            assert set(syncs(log)) == {(6, 6, None)}
            assert get(ports.autoscaler, "/readyz")[0] == 200
            metrics = get(ports.autoscaler, "/metrics")[1]
            # No value is no empty queue.
            assert "\nkafka_queue_length{" not in metrics
            active = re.findall(r'condition="ScalingActive",.*status="(\w+)"\} 1\.0', metrics)
            assert active == ["false"]
            say(tmp_path, 2)
            assert until(lambda: desired(tmp_path), "it asks for the least") == 4
        finally:
            autoscaler.send_signal(signal.SIGTERM)
            assert autoscaler.wait(20) == 0


def desired(home):
    try:
        found = scale_file.read(home, RUN)
    except ScaleRefused:
        return None
    return found.replicas if found else None
