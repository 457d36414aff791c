"""The autoscaler against a status file, process readings and a clock that the test sets: no process, no second is spent."""

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import MagicMock

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings, LocalSettings, LogSettings, MetricsSettings
from fraudscale.local.scaling import autoscaler, manifests, scale_file
from fraudscale.local.scaling.autoscaler import Autoscaler, SyncSchedule
from fraudscale.local.scaling.usage import Clock, Reading
from fraudscale.local.supervisor import state
from fraudscale.metrics import HpaMetrics

ROOT = Path(__file__).parents[4]
RUN = "2026-11-24T00:00:00Z"
REQUEST_S = 0.1
"""CPU seconds that a replica requests a second: both containers' 50m."""


class FakeClock(Clock):
    def __init__(self, scale=1.0):
        super().__init__(scale)
        object.__setattr__(self, "real", 5000.0)

    def now(self):
        return self.real * self.scale

    def pass_(self, seconds):
        object.__setattr__(self, "real", self.real + seconds)


class Platform:
    """Replicas that share a load evenly, start at once, and follow the desired number as the supervisor would."""

    def __init__(self, home, scale=1.0):
        self.home, self.clock = home, FakeClock(scale)
        self.load, self.memory, self.used, self.follows = 0.0, 0.3, {}, True
        self.late = 0.0
        self.replicas, self.born = 4, {}
        self.counts, self.autoscaler = None, None
        (home / "run").mkdir()
        self.tell()
        self.start()

    def start(self):
        """A (new) autoscaler process."""
        local = LocalSettings(
            hpa_manifest=ROOT / "argocd/manifests/hpa.yaml",
            deployment_manifest=ROOT / "argocd/manifests/deployment.yaml",
        )
        self.counts = HpaMetrics()
        self.autoscaler = Autoscaler(
            self.home, manifests.read(local), self.clock, self.counts, structlog.get_logger(), self.read
        )
        return self

    def tell(self):
        rows = []
        for i in range(1, self.replicas + 1):
            born = self.born.setdefault(i, self.clock.real if self.used else 0.0)
            rows.append(state.Replica(f"replica-{i}", "ready", 10 + i, 20 + i, "", born, born))
        state.write(self.home, state.Status(ready=True, replicas=rows, started_at=RUN))

    def read(self, pids):
        return {pid: Reading(1.0, self.used.get(pid, 0.0), int(self.memory * 384 * 2**20)) for pid in pids}

    def tick(self, late=0.0):
        """15 seconds of the autoscaler's clock under the load (in requests of replicas), then a sync, so many real seconds late."""
        seconds = 15 / self.clock.scale + late - self.late
        self.late = late
        self.clock.pass_(seconds)
        for i in range(1, self.replicas + 1):
            share = self.load * REQUEST_S * seconds / self.replicas
            for pid in (10 + i, 20 + i):
                self.used[pid] = self.used.get(pid, 0.0) + share / 2
        self.autoscaler.sync(self.clock.now() - self.late * self.clock.scale)
        if self.follows and (desired := scale_file.read(self.home, RUN)):
            self.replicas = desired.replicas
        self.tell()
        return self.replicas

    def run(self, ticks):
        return [self.tick() for _ in range(ticks)]

    def value(self, family, *labels):
        return family.labels("ml-model", "ml-model", *labels).value


@pytest.fixture
def platform(tmp_path):
    return Platform(tmp_path)


@pytest.mark.parametrize("scale", [1, 10])
def test_it_goes_up_and_down_as_the_manifest_says_whatever_its_time_scale(tmp_path, scale):
    """The worked steps of the manifest: 60 s of agreement, a pod a minute; 300 s, a pod in five minutes."""
    platform = Platform(tmp_path, scale)
    platform.load = 4 * 0.6
    platform.run(4)
    platform.load = 6.4
    assert platform.run(10) == [4] * 3 + [5] * 4 + [6] * 3
    platform.load = 1.0
    assert platform.run(46) == [6] * 19 + [5] * 20 + [4] * 7


def test_a_sync_that_comes_late_counts_as_if_it_had_come_in_time(platform):
    """The steps are those above: what was stamped late would still be in its window when that is over."""
    platform.load = 4 * 0.6
    platform.run(4)
    platform.load = 6.4
    assert [platform.tick(late) for late in (2, 0.1, 1, 0.2, 0)] == [4] * 3 + [5] * 2
    assert [platform.tick(late) for late in (3, 1, 0.1, 0.5)] == [5] * 2 + [6] * 2


def test_each_change_is_one_warning_with_scale_and_use(platform):
    platform.load = 6.4
    with capture_logs() as lines:
        platform.run(6)
    (event,) = [line for line in lines if line["event"] == "scaling_event"]
    assert event["log_level"] == "warning"
    assert (event["current_replicas"], event["target_replicas"]) == (4, 5)
    assert (event["cpu_usage"], event["memory_usage"]) == (160, 29)
    assert event["reason"] == "cpu resource utilization (percentage of request) above target"
    assert sum(line["event"] == "hpa_synced" for line in lines) == 6


def test_it_exports_what_kube_state_metrics_does(platform):
    platform.load = 6.4
    platform.run(5)
    counts, value = platform.counts, platform.value
    assert (value(counts.min), value(counts.max)) == (4, 6)
    assert (value(counts.current), value(counts.desired)) == (4, 5)
    assert value(counts.target, "cpu", "utilization") == 70
    assert value(counts.seen, "cpu", "utilization") == 160
    assert [value(counts.condition, "ScalingLimited", s) for s in ("true", "false", "unknown")] == [1, 0, 0]
    assert [value(counts.condition, "ScalingActive", s) for s in ("true", "false", "unknown")] == [1, 0, 0]


def test_without_metrics_nothing_moves_and_the_condition_says_so(platform):
    platform.load = 6.4
    platform.run(3)
    platform.autoscaler._meter._read = lambda pids: {}
    assert platform.run(60) == [4] * 60
    assert platform.value(platform.counts.condition, "ScalingActive", "false") == 1
    assert not [m.labels for m in platform.counts.seen.collect().samples]


def test_six_replicas_stay_while_metrics_are_away_for_longer_than_the_window(platform):
    platform.load = 6.4
    platform.run(12)
    assert platform.replicas == 6
    read, platform.load = platform.autoscaler._meter._read, 1.0
    platform.autoscaler._meter._read = lambda pids: {}
    assert platform.run(60) == [6] * 60
    platform.autoscaler._meter._read = read
    # The first look is no rate yet. Nothing was recommended meanwhile, so nothing holds it then: as in a cluster.
    assert platform.run(3) == [6, 5, 5]


ALL = set(range(1, 7))
STRETCHES = st.tuples(
    st.sampled_from([0.0, 1.0, 3.0, 6.4]),
    st.one_of(st.just(set()), st.just(ALL), st.sets(st.integers(1, 6))),
    st.integers(2, 6),
    st.integers(1, 25),
)
"""Load, replicas without metrics, replicas that still run, and for how many syncs."""


@given(st.lists(STRETCHES, max_size=6))
@settings(max_examples=60, deadline=None)
def test_whatever_fails_it_asks_for_no_less_than_the_least_and_without_metrics_no_less_than_before(stretches):
    with TemporaryDirectory() as home:
        platform = Platform(Path(home))
        read, silent = platform.autoscaler._meter._read, set()
        platform.autoscaler._meter._read = lambda pids: {
            pid: reading for pid, reading in read(pids).items() if pid % 10 not in silent
        }
        desired = 4
        for load, missing, alive, syncs in stretches:
            platform.load = load
            silent.clear()
            silent.update(missing)
            for _ in range(syncs):
                platform.replicas = min(platform.replicas, alive)
                platform.tick()
                before, desired = (
                    desired,
                    (scale_file.read(platform.home, RUN) or scale_file.Scale(4, RUN)).replicas,
                )
                assert 4 <= desired <= 6
                assert desired >= before or missing != ALL


def test_a_replica_without_metrics_holds_the_way_down(platform):
    platform.load = 6.4
    platform.run(12)
    assert platform.replicas == 6
    read = platform.autoscaler._meter._read
    platform.load, silent = 6 * 0.6, {13, 23, 14, 24}
    platform.autoscaler._meter._read = lambda pids: {p: r for p, r in read(pids).items() if p not in silent}
    assert platform.run(40) == [6] * 40


def test_below_the_minimum_it_comes_back_at_once(platform):
    """Somebody stopped replicas behind its back, and no file says that they are wanted."""
    platform.replicas = 2
    platform.tell()
    assert platform.tick() == 4


def test_a_new_process_goes_on_with_windows_and_policies_of_the_old_one(platform):
    platform.load = 6.4
    platform.run(12)
    platform.load = 1.0
    platform.run(15)
    platform.start()
    # A controller of a cluster would begin its 300 s anew here.
    assert platform.run(6) == [6, 6, 6, 6, 5, 5]


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: b"{half",
        lambda kept: msgspec.json.encode({**kept, "run": "another"}),
        lambda kept: msgspec.json.encode({**kept, "time_scale": 10}),
        lambda kept: msgspec.json.encode({**kept, "saved_at": 1e9}),
    ],
)
def test_a_memory_that_is_not_ours_is_said_and_begun_anew(platform, damage):
    platform.load = 1.0
    platform.run(25)
    file = scale_file.memory_path(platform.home)
    file.write_bytes(damage(msgspec.json.decode(file.read_bytes())))
    with capture_logs() as lines:
        platform.start().run(2)
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["scaling_memory_lost"]
    assert len(platform.autoscaler._memory.recommendations) == 3  # the seed, and two


def test_a_scale_that_cannot_be_written_is_no_scaling(platform):
    platform.load = 6.4
    platform.run(4)
    scale_file.path(platform.home).mkdir()
    platform.follows = False
    with capture_logs() as lines:
        platform.run(2)
    assert {"scale_not_written"} <= {line["event"] for line in lines}
    assert scalings(lines) == []
    assert platform.autoscaler._memory.ups == []
    scale_file.path(platform.home).rmdir()
    platform.follows = True
    assert platform.tick() == 5


def test_a_person_may_set_the_scale_and_the_hpa_goes_on_from_there(platform):
    platform.load = 4 * 0.6
    platform.run(25)
    scale_file.write(platform.home, scale_file.Scale(6, RUN))
    platform.replicas = 6
    platform.tell()
    # At the first sync the two have no sample yet, so it wants no fewer; 300 s later that is forgotten.
    assert platform.run(22) == [6] * 20 + [5] * 2


BY_HAND = "run/scale.json was changed by somebody else"


def scalings(lines):
    return [
        (line["current_replicas"], line["target_replicas"], line["reason"])
        for line in lines
        if line["event"] == "scaling_event"
    ]


def set_by_hand(platform, replicas):
    scale_file.write(platform.home, scale_file.Scale(replicas, RUN))
    platform.replicas = replicas
    platform.tell()


def test_a_scale_that_a_person_set_is_told_once_with_what_is_used(platform):
    platform.load = 6 * 0.07
    platform.run(2)
    set_by_hand(platform, 6)
    with capture_logs() as lines:
        platform.run(1)
        platform.start().run(2)  # another process of the autoscaler
    by_hand = [one for one in scalings(lines) if one[2] == BY_HAND]
    assert by_hand == [(4, 6, BY_HAND)]
    event = next(line for line in lines if line["event"] == "scaling_event")
    assert (event["reason"], event["log_level"], event["memory_usage"]) == (BY_HAND, "warning", 29)


def test_a_scale_that_was_set_before_the_first_sync_is_told_at_it(platform):
    platform.load = 5 * 0.07
    set_by_hand(platform, 5)
    with capture_logs() as lines:
        platform.run(1)
    assert scalings(lines) == [(4, 5, BY_HAND)]


def test_a_scale_that_was_set_while_no_autoscaler_ran_is_told_by_the_next_one(platform):
    platform.load = 5 * 0.07
    platform.run(2)
    set_by_hand(platform, 5)
    with capture_logs() as lines:
        platform.start().run(1)
    assert scalings(lines)[0] == (4, 5, BY_HAND)


def test_a_scale_that_was_set_and_the_hpas_answer_to_it_are_two_changes(platform):
    platform.load = 6.4
    platform.run(3)
    set_by_hand(platform, 5)
    with capture_logs() as lines:
        platform.run(4)
    assert [(a, b) for a, b, _ in scalings(lines)] == [(4, 5), (5, 6)]


def test_the_scale_is_what_is_desired_though_the_replica_is_not_there_yet(platform):
    """Else a slow start would look like a scale that somebody set back, and be raised again and again."""
    platform.follows = False
    platform.load = 6.4
    platform.run(5)
    assert platform.value(platform.counts.desired) == 5
    platform.run(1)
    assert (platform.value(platform.counts.current), len(platform.autoscaler._memory.ups)) == (5, 1)


def test_a_file_of_another_run_is_not_the_scale(platform):
    scale_file.write(platform.home, scale_file.Scale(6, "another"))
    platform.load = 4 * 0.6
    platform.follows = False
    platform.tick()
    assert platform.value(platform.counts.current) == 4


def test_without_the_status_nothing_is_decided_and_it_is_said_once(platform):
    platform.load = 6.4
    platform.run(4)
    status = state.status_path(platform.home)
    status.rename(status.with_suffix(".away"))
    with capture_logs() as lines:
        for _ in range(3):
            platform.clock.pass_(15)
            assert platform.autoscaler.sync(platform.clock.now()) is None
    assert [line["event"] for line in lines] == ["scale_unknown"]
    assert platform.value(platform.counts.condition, "AbleToScale", "false") == 1
    platform.tell()
    platform.tick()
    assert platform.value(platform.counts.condition, "AbleToScale", "true") == 1


@pytest.mark.parametrize("scale", [1, 10])
def test_syncs_lie_on_a_grid_and_missed_ones_are_left_out(scale):
    clock = FakeClock(scale)
    schedule = SyncSchedule(clock)
    assert schedule.wait() == 15 / scale
    clock.pass_(15.5 / scale)
    assert schedule.wait() == pytest.approx(14.5 / scale)
    clock.pass_(50 / scale)  # it should have been 14.5
    assert schedule.wait() == pytest.approx(9.5 / scale)


def test_an_autoscaler_that_hangs_is_not_ready():
    clock = FakeClock()
    schedule, last = SyncSchedule(clock), clock.now()
    clock.pass_(45)
    assert schedule.late(last) is None
    clock.pass_(1)
    assert schedule.late(last) == "no sync for 46 s"
    assert schedule.late(last, 4) is None
    clock.pass_(15)
    assert schedule.late(last, 4) == "no sync for 61 s"


def test_a_run_syncs_until_a_signal_and_stops_what_it_started(tmp_path, monkeypatch):
    server, reporter, log = MagicMock(), MagicMock(), MagicMock()
    for name, fake in (
        ("OpsServer", server),
        ("LagReporter", reporter),
        ("BrokerLink", MagicMock()),
        ("Watermarks", MagicMock()),
    ):
        monkeypatch.setattr(autoscaler, name, lambda *_, it=fake, **__: it)
    monkeypatch.setattr(autoscaler.logs, "set_up", lambda *_, **__: log)
    monkeypatch.setattr(autoscaler, "SYNC_SECONDS", 1.0)
    log.warning.side_effect = lambda *_, **__: os.kill(
        os.getpid(), signal.SIGTERM
    )  # nobody wrote a status: that is told
    local = LocalSettings(fraudscale_home=tmp_path, time_scale=20)
    assert autoscaler.run(local, MetricsSettings(), KafkaSettings(), LogSettings()) == 0
    assert log.warning.call_args.args == ("scale_unknown",)
    for one in (server, reporter):
        one.start.assert_called_once_with()
        one.stop.assert_called_once_with()
