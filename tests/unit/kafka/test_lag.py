"""Queue length, age and lag, from what the broker says."""

import time

import pytest
import structlog
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import BrokerLink, BrokerRefused, BrokerUnavailable
from fraudscale.kafka.lag import LagReporter
from fraudscale.kafka.watermarks import Waiting
from fraudscale.metrics import KafkaMetrics


class FakeWatermarks:
    def __init__(self, *answers):
        self.answers = list(answers)

    def oldest(self, waiting):
        return self.timestamp

    timestamp = 0

    def waiting(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def reporter_of(*answers):
    counts = KafkaMetrics(consumed="in", produced=())
    settings = KafkaSettings(kafka_topic="in", kafka_group="g")
    link = BrokerLink("kafka:9092", structlog.get_logger())
    return LagReporter(settings, counts, link, FakeWatermarks(*answers)), counts


WAITING = {0: Waiting(0, 10, 4), 1: Waiting(5, 10, None)}


def values(family):
    return {labels: gauge.value for labels, gauge in family._values.items()}


def test_queue_length_counts_all_partitions_and_lag_our_own():
    reporter, counts = reporter_of(WAITING)
    reporter.own(frozenset({1}))
    reporter.report()
    assert values(counts.queue_length) == {("in", "g"): 11}
    assert values(counts.topic_messages) == {("in",): 15}
    assert values(counts.lag) == {("in", "g", "1"): 5}


def test_the_lag_of_a_revoked_partition_vanishes_at_once():
    reporter, counts = reporter_of(WAITING)
    reporter.own(frozenset({0, 1}))
    reporter.report()
    reporter.own(frozenset({0}))
    assert values(counts.lag) == {("in", "g", "0"): 6}


def test_figures_that_cannot_be_known_are_taken_away():
    reporter, counts = reporter_of(WAITING, BrokerUnavailable("gone"))
    reporter.own(frozenset({0}))
    reporter.report()
    with capture_logs():
        reporter.report()
    assert values(counts.queue_length) == values(counts.lag) == values(counts.topic_messages) == {}
    assert values(counts.oldest_age) == values(counts.without_commit) == {}


def test_a_missing_right_is_told_once_and_is_no_missing_broker():
    """While batches are delivered the broker is there; the two told each other's opposite 30 times a minute."""
    refused = BrokerRefused("kafka:9092: Group authorization failed")
    reporter, counts = reporter_of(*[refused] * 30, WAITING, refused)
    with capture_logs() as lines:
        for _ in range(30):
            reporter.report()
            reporter._link.back()  # a batch was delivered
        assert values(counts.queue_length) == {}
        reporter.report()
        assert values(counts.queue_length) == {("in", "g"): 11}
        reporter.report()
    assert [line["event"] for line in lines] == ["broker_question_failed"] * 2
    assert lines[0]["reason"] == "queue length: kafka:9092: Group authorization failed"


def test_a_broker_that_refuses_is_back():
    reporter, _ = reporter_of(BrokerUnavailable("gone"), BrokerRefused("no"))
    with capture_logs() as lines:
        reporter.report()
        reporter.report()
    assert [line["event"] for line in lines] == [
        "broker_unavailable",
        "broker_back",
        "broker_question_failed",
    ]


def test_the_age_is_that_of_the_oldest_waiting_message_and_zero_when_none_waits(monkeypatch):
    monkeypatch.setattr(FakeWatermarks, "timestamp", int((time.time() - 60) * 1000))
    reporter, counts = reporter_of(WAITING, {0: Waiting(0, 10, 10)})
    reporter.report()
    assert values(counts.oldest_age) == {("in", "g"): pytest.approx(60, abs=5)}
    assert values(counts.without_commit) == {("in", "g"): 1}
    reporter.report()
    assert values(counts.oldest_age) == values(counts.without_commit) == {("in", "g"): 0}


def test_a_clock_that_is_ahead_makes_no_age_below_zero_and_an_unread_message_none_at_all(monkeypatch):
    reporter, counts = reporter_of(WAITING, WAITING)
    monkeypatch.setattr(FakeWatermarks, "timestamp", int((time.time() + 60) * 1000))
    reporter.report()
    assert values(counts.oldest_age) == {("in", "g"): 0}
    monkeypatch.setattr(FakeWatermarks, "timestamp", None)
    reporter.report()
    assert values(counts.oldest_age) == {}


def test_a_report_that_fails_in_an_odd_way_takes_the_figures_away_and_the_next_one_is_made():
    reporter, counts = reporter_of(WAITING, ValueError("odd"), WAITING)
    seen = []
    report = reporter.report

    def watched():
        seen.append(values(counts.queue_length))
        if len(seen) == 3:
            reporter._stopping = True
        reporter._changed.set()
        report()

    reporter.report = watched
    with capture_logs():
        reporter._run()
    assert seen == [{}, {("in", "g"): 11}, {}]
    assert values(counts.queue_length) == {("in", "g"): 11}


@pytest.mark.parametrize(("took", "rest"), [(0.5, 1.5), (5.0, 0.0)])
def test_reports_are_made_at_their_interval_however_long_one_takes(monkeypatch, took, rest):
    reporter, _ = reporter_of(WAITING)
    clock, waits = iter([10.0, 10.0 + took]), []
    monkeypatch.setattr("fraudscale.kafka.lag.monotonic", lambda: next(clock))

    def wait(seconds):
        waits.append(seconds)
        reporter._stopping = True

    reporter._changed.wait = wait
    reporter._run()
    assert waits == [rest]


def test_a_reporter_that_is_stopped_does_not_wait():
    reporter, _ = reporter_of(WAITING)
    reporter.report = lambda: setattr(reporter, "_stopping", True)
    reporter._changed.wait = lambda _: pytest.fail("it waited")
    reporter._run()


def test_a_reporter_begins_and_ends_with_its_thread():
    reporter, counts = reporter_of(WAITING)
    reporter.start()
    reporter.stop()
    assert not reporter._thread.is_alive()
    assert values(counts.queue_length) in ({}, {("in", "g"): 11})
