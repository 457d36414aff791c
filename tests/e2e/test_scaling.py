"""Replicas come and go on one machine while both doors are used: no failed request, no lost record."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psutil
import pytest

from fraudscale.config import LocalSettings
from fraudscale.local.scaling import manifests, scale_file
from fraudscale.local.scaling.usage import read_trees

pytestmark = [pytest.mark.slow, pytest.mark.harmed(TIME_SCALE="10")]  # replicas come and go

HPA = '{horizontalpodautoscaler="ml-model",namespace="ml-model"}'


def pid_of(platform, name):
    return next(c["pid"] for c in platform.status()["components"] if c["name"] == name)


def desire(platform, replicas):
    scale_file.write(platform.home, scale_file.Scale(replicas, platform.status()["started_at"]))


def there_are(platform, replicas):
    # not whether the platform is ready: an autoscaler that stands still isn't
    found = [(r["id"], r["state"]) for r in platform.status()["replicas"]]
    return found == [(f"replica-{i}", "ready") for i in range(1, replicas + 1)]


def value(platform, metric):
    found = platform.query(f"kube_horizontalpodautoscaler_{metric}{HPA}")
    return float(found[0]["value"][1]) if found else None


def scraped(platform):
    targets = platform.query('up{job="ml-model"}')
    return sorted({t["metric"]["pod"] for t in targets if t["value"][1] == "1"})


@pytest.fixture
def resting(harmed):
    """The platform with an autoscaler that decides nothing for the length of a test."""
    autoscaler = psutil.Process(pid_of(harmed, "autoscaler"))
    autoscaler.suspend()
    yield harmed
    desire(harmed, 4)
    autoscaler.resume()


def load_until(platform, done, over):
    """Send until `done`; return the report."""
    command = platform.command("load", "--json", "--over", over, "--rate", "60", "--seconds", "600")
    with subprocess.Popen(
        command, env=platform.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as sender:
        try:
            done()
        finally:
            sender.terminate()  # also when `done` gave up: leaving waits for the sender
        return json.loads(sender.communicate(timeout=120)[0])


def test_the_desired_number_is_followed_up_and_down_without_a_failed_request_or_a_lost_record(resting):
    platform = resting
    log = platform.home / "logs/supervisor.log"
    before = len(log.read_text())

    def up_and_down():
        desire(platform, 6)
        platform.wait(lambda: there_are(platform, 6), "six replicas are ready", 120)
        answered = {platform.ask("GET", "/readyz", port=p)[0] for p in platform.ports.serve}
        assert answered == {200}
        platform.wait(lambda: len(scraped(platform)) == 6, "Prometheus asks all six")
        desire(platform, 4)
        platform.wait(lambda: there_are(platform, 4), "four are left", 120)
        platform.wait(lambda: len(scraped(platform)) == 4, "Prometheus asks four")

    over = Event()
    with ThreadPoolExecutor(1) as pool:
        http = pool.submit(load_until, platform, lambda: platform.wait(over.is_set, "the other", 400), "http")
        try:
            kafka = load_until(platform, up_and_down, "kafka")
        finally:
            over.set()
        http = http.result()
    assert (http["errors"], http["ok"]) == ({}, http["sent"])
    assert (kafka["errors"], kafka["missing"], kafka["duplicates"]) == ({}, 0, 0)
    assert min(http["ok"], kafka["ok"]) > 100
    assert '"event":"part_killed"' not in log.read_text()[before:]


def test_a_bad_scale_file_is_refused_with_a_line_and_the_last_one_stays(resting):
    log = resting.home / "logs/supervisor.log"
    before = len(log.read_text())
    scale_file.path(resting.home).write_text('{"replicas":60,"run":"x"}')
    resting.wait(lambda: '"scale_refused"' in log.read_text()[before:], "it is refused")
    assert there_are(resting, 4)


def test_the_autoscaler_takes_back_what_nobody_needs_and_says_so(harmed):
    log = harmed.home / "logs/autoscaler.log"
    before = len(log.read_text())

    def events():
        new = log.read_text()[before:].splitlines()
        lines = [json.loads(line) for line in new if '"scaling_event"' in line]
        return [e for e in lines if (e["current_replicas"], e["target_replicas"]) == (5, 4)]

    desire(harmed, 5)
    event = harmed.wait(events, "it scales down", 400)[-1]
    assert event["level"] == "warning"
    assert {"cpu_usage", "memory_usage", "reason"} <= event.keys()
    harmed.wait(lambda: there_are(harmed, 4), "four are left", 120)


def test_a_killed_autoscaler_comes_back_and_its_metrics_with_it(harmed):
    old = pid_of(harmed, "autoscaler")
    psutil.Process(old).kill()
    harmed.wait(
        lambda: pid_of(harmed, "autoscaler") not in {old, None} and there_are(harmed, 4), "it is back"
    )
    for metric, wanted in (
        ("status_current_replicas", 4),
        ("status_desired_replicas", 4),
        ("spec_max_replicas", 6),
        ("spec_min_replicas", 4),
    ):
        harmed.wait(
            lambda metric=metric, wanted=wanted: value(harmed, metric) == wanted,
            f"{metric} is {wanted}",
            90,
        )
    active = 'kube_horizontalpodautoscaler_status_condition{condition="ScalingActive",status="true"} == 1'
    harmed.wait(lambda: harmed.query(active), "ScalingActive is true", 90)
    queue = 'kafka_queue_length{job="autoscaler",topic="transactions",group="fraudscale"}'
    harmed.wait(lambda: harmed.query(queue), "the queue is known without a scorer", 90)


def test_an_idle_replica_uses_at_most_55_percent_of_the_memory_it_requests(platform):
    """Above 64 % the memory metric would hold the fleet up for ever: more replicas don't lower it."""
    requests = manifests.read(LocalSettings()).requests
    requested = sum(request["memory"] for request in requests.values()) / 1000
    for replica in platform.status()["replicas"]:
        trees = read_trees([replica["serve_pid"], replica["stream_pid"]])
        used = sum(tree.rss for tree in trees.values())
        assert len(trees) == 2
        assert 0 < used <= 0.55 * requested, f"{replica['id']}: {used / 2**20:.0f} MiB"
