"""What the page is told of the platform that Prometheus doesn't know."""

import json
import os

import msgspec
import pytest

from fraudscale.console import overview
from fraudscale.local.supervisor import state

SYNC = {
    "event": "hpa_synced",
    "timestamp": "2026-11-25T02:51:50.5Z",
    "reason": "DesiredWithinRange",
    "message": "All metrics below target: the desired count is within the acceptable range",
    "current_replicas": 5,
    "target_replicas": 4,
    "want": 4,
    "cpu_usage": 40,
}


@pytest.fixture
def log(tmp_path):
    def write(*lines):
        path = tmp_path / "logs" / "autoscaler.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines))
        return path

    return write


def line(**fields):
    return json.dumps(SYNC | fields, separators=(",", ":"))


def test_the_reason_is_that_of_the_last_sync(log):
    other = '{"event":"scaling_event","level":"warning"}'
    found = overview.last_decision(log(line(want=6), line(want=5), other))
    assert (found.want, found.message) == (5, SYNC["message"])


def test_a_line_that_is_half_written_is_passed_over(log):
    assert overview.last_decision(log(line(want=5), line(want=6)[:80])).want == 5


def test_no_log_and_no_sync_are_no_reason(log, tmp_path):
    assert overview.last_decision(tmp_path / "nowhere.log") is None
    assert overview.last_decision(log('{"event":"autoscaler_started"}')) is None


def test_a_home_where_nothing_runs_says_so_and_tells_no_old_reason(log, tmp_path):
    log(line())
    found = overview.look(tmp_path)
    assert (found.ready, found.started_at, found.model, found.decision) == (False, None, None, None)
    assert found.components == found.replicas == []


def test_a_platform_is_told_with_its_parts_and_the_autoscalers_reason(log, tmp_path):
    log(line())
    (tmp_path / "run").mkdir()
    status = state.Status(
        ready=True,
        components=[state.ComponentStatus("kafka", "ready", "127.0.0.1:9092", 1)],
        replicas=[state.Replica("replica-1", "ready", 1, 2, "127.0.0.1:8101")],
        started_at="2026-11-25T02:28:35Z",
        supervisor=state.identify("supervisor", os.getpid()),
    )
    state.write(tmp_path, status)
    told = msgspec.json.decode(msgspec.json.encode(overview.look(tmp_path)))
    assert told["ready"]
    assert [part["name"] for part in told["components"]] == ["kafka"]
    assert [replica["id"] for replica in told["replicas"]] == ["replica-1"]
    assert told["decision"]["reason"] == "DesiredWithinRange"
