"""What a scaling demonstration says of a run; the run itself is in tests/e2e."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from msgspec import structs
from test_comparison import ROOT, SCALING, UP_AND_DOWN, run_of, syncs_of

from fraudscale.config import LocalSettings
from fraudscale.load.history import Points
from fraudscale.local.demo import comparison, scaling
from fraudscale.local.demo import picture as demo_picture
from fraudscale.local.demo.scaling import Command, Demo, DemoFailed, Outcome, Seen, Sent, as_text, judge, run
from fraudscale.local.supervisor import state
from fraudscale.local.terminal import Terminal

TICKS = run_of(UP_AND_DOWN)
GOOD = comparison.compare(TICKS, TICKS)
SENT = Sent("kafka", 4000.0, 100, 100, {}, 0, 0)
LATE = comparison.Step(5, 6, 180, 210)


def test_a_run_that_went_well_has_nothing_wrong():
    assert judge(SCALING.hpa, GOOD, [4, 5, 6, 5, 4], [SENT], alerted=True) == []


def test_a_step_one_tick_beside_its_rehearsal_is_well():
    steps = [structs.replace(step, rehearsed_t=step.t - 15) for step in GOOD.steps]
    assert judge(SCALING.hpa, structs.replace(GOOD, steps=steps), [4, 5, 6, 5, 4], [], alerted=True) == []


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (
            {"ok": 99, "errors": {"503": 1}},
            "kafka: of 100 sent 99 were scored; errors {'503': 1}, missing 0, scored twice 0",
        ),
        (
            {"ok": 99, "missing": 1},
            "kafka: of 100 sent 99 were scored; errors none, missing 1, scored twice 0",
        ),
        ({"duplicates": 2}, "kafka: of 100 sent 100 were scored; errors none, missing 0, scored twice 2"),
        ({"sent": 0, "ok": 0}, "kafka: of 0 sent 0 were scored; errors none, missing 0, scored twice 0"),
    ],
)
def test_what_is_not_scored_exactly_once_is_one_line(sent, line):
    assert judge(SCALING.hpa, GOOD, [4, 5, 6, 5, 4], [SENT, structs.replace(SENT, **sent)], alerted=True) == [
        line
    ]


@pytest.mark.parametrize(
    ("comparison", "prometheus", "line"),
    [
        (
            {"went": [4, 5, 4], "rehearsed": [4, 5, 4]},
            [4, 5, 4],
            "it went 4 → 5 → 4 and not 4 → 5 → 6 → 5 → 4; a higher --rate needs more replicas",
        ),
        (
            {"went": [4, 5, 6], "rehearsed": [4, 5, 6]},
            [4, 5, 6],
            "it went 4 → 5 → 6 and not 4 → 5 → 6 → 5 → 4",
        ),
        (
            {"rehearsed": [4, 5, 4], "steps": []},
            [4, 5, 6, 5, 4],
            "with the same CPU the rehearsal went 4 → 5 → 4, the run 4 → 5 → 6 → 5 → 4",
        ),
        ({}, [4, 5, 4], "Prometheus saw 4 → 5 → 4, the autoscaler went 4 → 5 → 6 → 5 → 4"),
        ({}, [], "Prometheus saw nothing, the autoscaler went 4 → 5 → 6 → 5 → 4"),
        (
            {"steps": [LATE]},
            [4, 5, 6, 5, 4],
            "5 → 6 came at 00:03:00, and at 00:03:30 in the rehearsal: 2 ticks apart",
        ),
    ],
)
def test_another_way_than_the_manifests_is_one_line(comparison, prometheus, line):
    assert judge(SCALING.hpa, structs.replace(GOOD, **comparison), prometheus, [SENT], alerted=True) == [line]


def test_an_alert_that_stays_silent_is_one_line():
    line = "the alert ModelScaledToMax did not fire"
    assert judge(SCALING.hpa, GOOD, [4, 5, 6, 5, 4], [SENT], alerted=False) == [line]


def test_a_person_is_told_of_every_step_and_every_sender():
    comparison = structs.replace(GOOD, steps=[GOOD.steps[0], LATE])
    text = as_text(
        Outcome(True, [], 10, 150.0, comparison, [4, 5, 6, 5, 4], (290.0, 660.0), [SENT], ["run/x.json"])
    )
    assert "4 → 5 → 6 → 5 → 4 replicas in 150 s, the autoscaler's time running 10 times as fast" in text
    assert "ModelScaledToMax fired from 00:04:50 to 00:11:00" in text
    assert "4 → 5       00:02:00    00:02:00   the same tick" in text
    assert "5 → 6       00:03:00    00:03:30   2 ticks later in the rehearsal" in text
    assert "kafka            4,000/s       100       100       0        0      0" in text
    assert text.endswith("written: run/x.json")


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("seen", [Points([], []), Points([0.0, 15.0], [4.0, 5.0])])
def test_the_picture_needs_no_prometheus(tmp_path, ending, seen):
    path = tmp_path / f"demo.{ending}"
    demo_picture.draw(path, SCALING, (TICKS, TICKS), seen, seen, (15.0, 30.0) if seen.at else None)
    assert path.read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}


@pytest.mark.parametrize(("ok", "code"), [(100, 0), (99, 1)])
def test_the_outcome_is_written_and_the_exit_code_says_how_it_went(tmp_path, monkeypatch, capfd, ok, code):
    (tmp_path / "run").mkdir()
    syncs, sent = syncs_of(tmp_path, TICKS), structs.replace(SENT, ok=ok)
    # Prometheus sees a change with the next sync.
    numbers = Points([tick.t for tick in TICKS], [float(tick.current) for tick in TICKS])
    seen = Seen(replicas=numbers, alert=Points([290.0, 660.0], [1.0, 1.0]), scored=Points([], []))
    monkeypatch.setattr(Demo, "run", lambda _: (syncs, [sent], seen))
    local = LocalSettings(
        fraudscale_home=tmp_path,
        hpa_manifest=ROOT / "argocd/manifests/hpa.yaml",
        deployment_manifest=ROOT / "argocd/manifests/deployment.yaml",
        time_scale=10,
    )
    assert run(local, 4000, None, as_json=True) == code
    out, err = capfd.readouterr()
    outcome = json.loads(out)
    assert (outcome["good"], outcome["seconds"]) == (code == 0, 148.5)
    assert ("fraudscale: kafka: of 100 sent 99 were scored" in err) == (code == 1)
    assert json.loads((tmp_path / "run/demo-scaling.json").read_text()) == outcome
    assert all(Path(path).stat().st_size for path in outcome["written"])


@pytest.fixture
def demo(tmp_path):
    (tmp_path / "logs").mkdir()
    return Demo(LocalSettings(fraudscale_home=tmp_path), SCALING.hpa, 4000, Terminal())


@pytest.mark.parametrize(
    ("syncs", "rests"),
    [
        (4, False),  # the window for the way up is not full yet
        (5, True),
        (6, False),  # the metrics want more
    ],
)
def test_it_begins_when_the_replicas_rest_for_as_long_as_the_window_for_the_way_up(demo, syncs, rests):
    syncs_of(demo._home / "logs", TICKS[:syncs])
    assert demo._rests() is rests


@pytest.mark.parametrize(
    "change", [{"ready": 3}, {"want": None}, {"want": 5}, {"target": 5}, {"current": 5}], ids=str
)
def test_a_sync_that_is_not_quiet_is_no_rest(demo, change):
    syncs_of(demo._home / "logs", [*TICKS[:4], TICKS[4]._replace(**change)])
    assert not demo._rests()


def test_beside_a_platform_that_runs_it_starts_nothing(demo):
    with state.Lock(demo._home), pytest.raises(state.AlreadyRuns):
        demo.run()


def test_a_part_that_ends_by_itself_ends_the_demonstration(demo, tmp_path):
    log = tmp_path / "load.log"
    with ExitStack() as stack:
        demo._start(stack, Command("load", ("load", "--over", "pigeon"), log, {}))
        with pytest.raises(DemoFailed, match=r"load ended by itself with exit code 2; see .*load\.log"):
            demo._until(lambda: False, 60)
    assert "pigeon" in log.read_text()


class LoadReport(msgspec.Struct):
    """What the demonstration reads of a load's report."""

    achieved_rate: float = 30.0
    sent: int = 100
    ok: int = 100
    errors: dict[str, int] = {}
    missing: int = 0
    duplicates: int = 0


class Played:
    """Stands for a command: entered and left; a load leaves its report."""

    def __init__(self, name, arguments, log, env):
        self.name, self.log, self.env, self.state = name, log, env, "made"
        self.saved = [argument.partition("=")[2] for argument in arguments if argument.startswith("--save=")]

    def __enter__(self):
        self.state = "runs"
        return self

    def __exit__(self, *_):
        self.state = "stopped"
        for path in self.saved:
            Path(path).write_bytes(msgspec.json.encode(LoadReport()))

    def check(self):
        pass


@pytest.fixture
def played(demo, monkeypatch):
    """The demonstration with commands that do nothing; `conditions` answers each wait, in turn."""
    made, conditions = [], []

    def make(*arguments):
        made.append(Played(*arguments))
        return made[-1]

    monkeypatch.setattr(scaling, "Command", make)
    monkeypatch.setattr(scaling, "Report", LoadReport)
    monkeypatch.setattr(scaling.signal, "signal", lambda *_: None)
    monkeypatch.setattr(demo, "_until", lambda *_: conditions.pop(0))
    syncs_of(demo._home / "logs", TICKS)
    return SimpleNamespace(demo=demo, made=made, conditions=conditions)


def test_the_load_goes_up_and_down_between_two_rests_and_all_is_stopped(played, monkeypatch):
    asked = []
    monkeypatch.setattr(scaling.running, "find", lambda _: SimpleNamespace(prometheus="http://p"))
    monkeypatch.setattr(scaling, "series", lambda at, query, *_: asked.append(query) or ([1.0], [4.0]))
    played.conditions[:] = [True, True, True, True]
    syncs, sent, seen = played.demo.run()
    assert len(syncs) == played.demo._rest_syncs
    assert [one.sender for one in sent] == ["kafka", "http-beside", "kafka-beside"]
    assert all(one.whole for one in sent)
    assert (len(asked), seen.scored.values) == (3, [4.0])
    assert [one.state for one in played.made] == ["stopped"] * 4
    assert played.made[0].env["FRAUDSCALE_TRAFFIC"] == "0"


@pytest.mark.parametrize(
    ("conditions", "message"),
    [([False], "was not ready within 600 s"), ([True, False], "does not rest at 4 replicas")],
)
def test_a_platform_that_does_not_come_to_rest_ends_the_demonstration(played, conditions, message):
    played.conditions[:] = conditions
    with pytest.raises(DemoFailed, match=message):
        played.demo.run()
    assert [one.state for one in played.made] == ["stopped"]


def test_a_wait_ends_when_its_condition_holds_or_its_time_is_over(demo):
    answers = iter([False, True])
    assert demo._until(lambda: next(answers), 10)
    assert not demo._until(lambda: False, 0.1)


def test_a_load_without_a_report_ends_the_demonstration(demo):
    with pytest.raises(DemoFailed, match=r"the load kafka left no report .*; see load\.log"):
        demo._sent(Played("kafka", (), Path("load.log"), {}))


def test_a_command_that_does_not_heed_ctrl_c_is_killed(tmp_path, monkeypatch):
    script = ["/bin/sh", "-c", "trap '' INT; echo deaf; exec sleep 60"]
    start = scaling.subprocess.Popen
    monkeypatch.setattr(scaling.subprocess, "Popen", lambda _, **options: start(script, **options))
    monkeypatch.setattr(scaling, "STOP_SECONDS", 0.2)
    log = tmp_path / "log"
    with Command("deaf", (), log, {}) as deaf:
        deadline = time.monotonic() + 20
        while "deaf" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        deaf.check()
    assert deaf._process.returncode == -9
