"""Sample traffic: an even pace without drift, valid transactions, errors that are told once."""

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fraudscale.config import KafkaSettings, LogSettings
from fraudscale.local import traffic
from fraudscale.local.traffic import CATCH_UP_SECONDS, Pace, PredictSender, SampleSource, SteadySender
from fraudscale.net import NoAnswer
from fraudscale.scoring import codec
from fraudscale.synthetic import SyntheticTransactions


class Log:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))

    warning = info


@pytest.fixture(scope="module")
def source():
    return SampleSource(SyntheticTransactions(seed=1))


@pytest.fixture
def entry():
    """A server that keeps what was posted and answers with `status`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            server.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            server.clients.add(self.client_address)
            self.send_response(server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.posted, server.clients, server.status = [], set(), 200
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


def test_the_pace_is_that_of_the_schedule_however_late_each_one_was_sent():
    pace = Pace(10, start=0)
    for n in range(100):
        assert pace.wait(n / 10) == pytest.approx(0)
        pace.take(n / 10 + 0.04)
    assert pace.wait(9.94) == pytest.approx(0.06)


def test_a_short_delay_is_caught_up():
    pace = Pace(10, start=0)
    pace.take(0.5)
    assert pace.wait(0.5) == 0


def test_what_was_missed_long_ago_is_left_out():
    pace = Pace(10, start=0)
    pace.take(3600)
    sent = 0
    while pace.wait(3600) == 0:
        pace.take(3600)
        sent += 1
    assert sent == pytest.approx(CATCH_UP_SECONDS * 10, abs=1)


def test_transactions_are_valid_and_different(source):
    transactions = [source.next() for _ in range(50)]
    assert len({t.transaction_id for t in transactions}) == 50
    for transaction in transactions:
        assert codec.decode_transaction(codec.encode_transaction(transaction)) == transaction


def test_the_http_sender_keeps_its_connection(source, entry):
    sender = PredictSender(entry.url)
    sender.send(source.next())
    sender.send(source.next())
    assert len(entry.posted) == 2
    assert len(entry.clients) == 1
    sender.close()


def test_another_answer_than_200_is_a_failure(source, entry):
    entry.status = 503
    sender = PredictSender(entry.url)
    with pytest.raises(NoAnswer, match="503"):
        sender.send(source.next())
    sender.close()


def test_a_sender_tells_when_it_begins_to_fail_and_when_it_is_back(source):
    answers, log = iter([NoAnswer("refused"), NoAnswer("refused"), None]), Log()

    def send(_):
        if error := next(answers):
            raise error

    door = SteadySender("http", send, log)
    for _ in range(3):
        door.send(source.next())
    assert log.lines == [
        ("traffic_failing", {"door": "http", "reason": "refused"}),
        ("traffic_back", {"door": "http", "failed": 2}),
    ]


def test_a_sender_sends_until_it_is_to_stop(source):
    stop, sent = threading.Event(), []

    def send(transaction):
        sent.append(transaction)
        if len(sent) == 5:
            stop.set()

    SteadySender("http", send, Log()).run(source, 1000, stop)
    assert len(sent) == 5


class Topic:
    """A sender to Kafka that keeps what it was given."""

    def __init__(self, *_):
        self.sent, self.closed = [], False
        Topic.made = self

    def send(self, topic, key, value):
        self.sent.append((topic, key, value))

    def close(self, seconds):
        self.closed = True


def test_a_run_sends_over_http_and_kafka_until_a_signal(entry, monkeypatch):
    monkeypatch.setattr(traffic, "Sender", Topic)
    monkeypatch.setattr(traffic.logs, "set_up", lambda *_, **__: log)
    log = Log()

    def stop_soon():
        while len(entry.posted) < 3 or len(Topic.made.sent) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_soon)
    monkeypatch.setattr(log, "info", lambda *_, **__: stopper.start())
    assert traffic.run(entry.url, KafkaSettings(kafka_topic="t"), LogSettings()) == 0
    stopper.join()
    assert Topic.made.closed
    topic, key, value = Topic.made.sent[0]
    assert (topic, codec.decode_transaction(value).transaction_id) == ("t", key)
