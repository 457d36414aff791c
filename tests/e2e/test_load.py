"""The load test against the platform: as a person runs it, and as a script reads it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load(platform, *arguments):
    """Run `fraudscale load`; return exit code, report and what was written to stderr."""
    done = platform.fraudscale("load", "--json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("over", ["http", "kafka"])
def test_a_load_is_sent_at_its_rate_and_all_of_it_is_scored(platform, tmp_path, over):
    picture = tmp_path / "run.png"
    code, report, table = load(
        platform, "--over", over, "--rate", "150", "--seconds", "6", "--even", "--picture", str(picture)
    )
    assert (report["scheduled"], report["sent"], report["ok"], report["errors"]) == (900, 900, 900, {})
    assert (report["missing"], report["duplicates"]) == (0, 0)
    assert report["offered_rate"] == 150
    assert code == (0 if report["kept_rate"] else 1), table
    quantiles = list(report["latency_ms"].values())
    assert 0 < quantiles[0] <= quantiles[1] <= quantiles[2] <= quantiles[3] < 60_000
    assert "from the intended send time" in table
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_load_over_kafka_knows_queue_and_replicas_over_time(platform):
    _, report, _ = load(platform, "--over", "kafka", "--rate", "50", "--seconds", "11")
    assert {n for _, n in report["replicas"]} <= {4, 5, 6}  # a busy machine may have scaled up
    assert report["replicas"]
    assert report["queue"]
    assert len(report["over_time"]) == 11


def test_a_recording_is_replayed_with_its_gaps(platform, tmp_path):
    rows = ["transaction_id,amount,merchant_category,hour,day_of_week,user_age,account_balance,at"]
    rows += [f"rec-{n},12.5,grocery,12,2,40,900,2026-03-01T12:00:{n:02}Z" for n in range(50)]
    (tmp_path / "rec.csv").write_text("\n".join(rows))
    _, report, _ = load(platform, "--over", "kafka", "--replay", str(tmp_path / "rec.csv"), "--speed", "20")
    assert (report["run"]["shape"], report["run"]["seconds"]) == ("recorded", 2.45)
    assert (report["sent"], report["ok"]) == (50, 50)


def test_the_script_keeps_report_and_picture(platform):
    done = subprocess.run(
        [
            sys.executable,
            "load-testing/kafka-load-test.py",
            "--rate",
            "100",
            "--shape",
            "spike",
            "--seconds",
            "5",
        ],
        cwd=ROOT,
        env=platform.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "spike load over kafka" in done.stdout, done.stderr
    report = json.loads((platform.home / "load/kafka-load-test.json").read_text())
    assert report["ok"] == report["sent"] > 400
    assert (platform.home / "load/kafka-load-test.png").exists()


@pytest.mark.parametrize("over", ["http", "kafka"])
def test_ctrl_c_ends_the_sending_and_the_report_is_about_what_was_done(platform, tmp_path, over):
    with (tmp_path / "progress").open("w+") as progress:
        process = subprocess.Popen(
            platform.command("load", "--json", "--over", over, "--rate", "100", "--seconds", "600"),
            cwd=ROOT,
            env=platform.env,
            stdout=subprocess.PIPE,
            stderr=progress,
            text=True,
        )
        written = tmp_path / "progress"
        platform.wait(lambda: "5 of 600 s" in written.read_text(), "it sends", 60)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        report = json.loads(process.communicate(timeout=60)[0])
    assert time.monotonic() - asked < 30
    assert report["interrupted"]
    assert report["ok"] == report["sent"] > 300
    assert report["offered_rate"] == pytest.approx(100, rel=0.3)


def test_bad_arguments_are_one_line_and_exit_code_2(platform):
    for arguments, message in (
        (("--rate", "-1"), "--rate -1: "),
        (("--replay", "/no/such.csv"), "'/no/such.csv' does not exist"),
        (("--url", "ftp://x"), "must be http://HOST"),
    ):
        done = platform.fraudscale("load", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (("--url", "http://127.0.0.1:9"), {}),
        (("--over", "kafka"), {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}),
    ],
)
def test_nothing_there_is_exit_code_1_and_a_line_that_says_so(platform, arguments, env):
    done = platform.fraudscale("load", *arguments, **env)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr.splitlines()[-1]
