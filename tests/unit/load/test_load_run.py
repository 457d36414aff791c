"""A whole load test: from its options to table, JSON, picture and exit code."""

import json
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from fraudscale.config import KafkaSettings
from fraudscale.load import run as running
from fraudscale.load.arrivals import Shape
from fraudscale.load.history import Points, history, series
from fraudscale.load.over_http import HttpTarget
from fraudscale.load.run import LoadTest, run


class Handler(BaseHTTPRequestHandler):
    """Scores what is posted, and is a Prometheus whose value is always 5."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, b"{}")

    def do_GET(self):
        asked = parse_qs(urlsplit(self.path).query)
        start, end = float(asked["start"][0]), float(asked["end"][0])
        values = [[start, "5"], [end, "5"]]
        found = [{"metric": {}, "values": values}] if "unknown" not in asked["query"][0] else []
        status = 400 if "refused" in asked["query"][0] else 200
        self.answer(status, json.dumps({"status": "success", "data": {"result": found}}).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def patient(monkeypatch):
    """A busy machine sends late; whether a rate was kept is tested on reports."""
    monkeypatch.setattr("fraudscale.load.report.KEPT_SHARE", 0)
    monkeypatch.setattr("fraudscale.load.report.KEPT_LATENESS_MS", float("inf"))


@pytest.mark.usefixtures("patient")
def test_a_run_over_http_prints_a_table_and_writes_what_was_asked_for(url, tmp_path, capsys):
    test = LoadTest(
        "http",
        HttpTarget(url),
        rate=100,
        seconds=0.5,
        even=True,
        picture=tmp_path / "run.svg",
        saved=tmp_path / "run.json",
    )
    assert run(test, KafkaSettings(), url, as_json=False) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"constant load over http to {url}, 0.5 s, even arrivals\n")
    assert err.splitlines()[-2:] == [f"written: {tmp_path}/run.json", f"written: {tmp_path}/run.svg"]
    saved = json.loads((tmp_path / "run.json").read_text())
    assert (saved["sent"], saved["ok"], saved["replicas"][0]) == (50, 50, [0, 5])
    assert b"<svg" in (tmp_path / "run.svg").read_bytes()


RECORDED = "transaction_id,amount,merchant_category,hour,day_of_week,user_age,account_balance,at\n" + "".join(
    f"t{n},10,grocery,12,0,40,1000,2026-03-01T12:00:0{n}Z\n" for n in range(3)
)


@pytest.mark.usefixtures("patient")
def test_a_recording_is_replayed_and_the_report_is_json_on_stdout(url, tmp_path, capsys):
    file = tmp_path / "payments.csv"
    file.write_text(RECORDED)
    assert (
        run(LoadTest("http", HttpTarget(url), replay=file, speed=10), KafkaSettings(), None, as_json=True)
        == 0
    )
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["sent"], found["run"]["shape"], found["run"]["arrivals"]) == (3, "recorded", "recorded")
    assert found["replicas"] == []
    assert "recorded load over http" in err


@pytest.fixture
def sent(monkeypatch):
    """`sent(act)` lets a function send in the place of Kafka's; it gets the items, the counts and the stop."""

    def replace(act):
        class Sender:
            def __init__(self, settings, items, measures, stop):
                self.given = (items, measures, stop)

            def run(self, started):
                started(time.perf_counter())
                act(*self.given)

        monkeypatch.setattr(running, "KafkaLoad", Sender)

    return replace


def test_a_run_over_kafka_that_lost_a_record_ends_with_1(sent, capsys):
    def lose_one(items, measures, _):
        for item in items:
            measures.took(item.due, item.due)
            measures.scored(item.due, item.due + 0.001)
        measures.missing = 1

    sent(lose_one)
    test = LoadTest("kafka", HttpTarget("http://unused"), rate=100, shape=Shape.SPIKE, seconds=1)
    assert run(test, KafkaSettings(), None, as_json=False) == 1
    out = capsys.readouterr().out
    assert out.startswith("spike load over kafka to transactions at 127.0.0.1:9092, 1 s, Poisson arrivals\n")
    assert "missing                 1" in out


def test_a_signal_ends_the_sending_and_a_second_one_the_wait(sent, capsys):
    asked = []

    def until_stopped(items, measures, stop):
        item = next(items)
        measures.took(item.due, item.due)
        for wanted in (1, 2):
            os.kill(os.getpid(), signal.SIGINT)
            until = time.monotonic() + 10
            while stop.asked < wanted and time.monotonic() < until:
                time.sleep(0.01)
            asked.append(stop.asked)
        stop.at = 0.5

    before = signal.getsignal(signal.SIGINT)
    sent(until_stopped)
    run(LoadTest("kafka", HttpTarget("http://unused"), seconds=1.0), KafkaSettings(), None, as_json=False)
    assert asked == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before
    assert "interrupted" in capsys.readouterr().out


def test_what_prometheus_saw_is_told_in_seconds_since_the_start(url):
    found = history(url, 1000.0, 1060.0, topic="t", group="g")
    assert (found.queue, found.replicas) == (Points([0, 60], [5, 5]), Points([0, 60], [5, 5]))


@pytest.mark.parametrize("query", ["unknown", "refused"])
def test_what_prometheus_does_not_know_or_refuses_is_empty(url, query):
    assert series(url, query, 0, 10, 5) == Points([], [])


def test_a_recording_without_a_known_ending_is_refused(url, tmp_path):
    with pytest.raises(running.InputError, match="must end in"):
        run(LoadTest("http", HttpTarget(url), replay=Path("x.txt")), KafkaSettings(), None, as_json=False)
