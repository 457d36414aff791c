"""Queue length, age and lag, from what the broker says."""

import time

import pytest
import structlog
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import BrokerLink, BrokerRefused, BrokerUnavailable
from fraudscale.kafka.lag import LagReporter, ScoringProgress
from fraudscale.kafka.watermarks import Waiting
from fraudscale.metrics import KafkaMetrics


class FakeWatermarks:
    def __init__(self, *answers):
        self.answers = list(answers)

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


def first_at(seconds_ago):
    """A record waits whose timestamp is so old; in another partition one is still looked for."""
    timestamp = int((time.time() - seconds_ago) * 1000)
    return {0: Waiting(0, 10, 4, first=4, readable=True, timestamp=timestamp), 1: Waiting(5, 10, None)}


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


def test_the_age_is_that_of_the_oldest_waiting_message_and_zero_when_none_waits():
    reporter, counts = reporter_of(first_at(60), {0: Waiting(0, 10, 10)})
    reporter.report()
    assert values(counts.oldest_age) == {("in", "g"): pytest.approx(60, abs=5)}
    assert values(counts.without_commit) == {("in", "g"): 1}
    reporter.report()
    assert values(counts.oldest_age) == values(counts.without_commit) == {("in", "g"): 0}


def test_a_clock_that_is_ahead_makes_no_age_below_zero_and_an_unread_message_none_at_all():
    reporter, counts = reporter_of(first_at(-60), WAITING)
    reporter.report()
    assert values(counts.oldest_age) == {("in", "g"): 0}
    reporter.report()
    assert values(counts.oldest_age) == {}


def test_offsets_without_a_record_are_no_queue():
    """The end of a transaction, or what was rolled back: nobody will ever read it."""
    reporter, counts = reporter_of({0: Waiting(0, 3024, 12, first=3024), 1: Waiting(0, 9, 4, first=8)})
    reporter.own(frozenset({0, 1}))
    reporter.report()
    assert values(counts.queue_length) == {("in", "g"): 1}
    assert values(counts.lag) == {("in", "g", "0"): 0, ("in", "g", "1"): 1}


# --- progress


def one(committed, end=10, *, readable=True, first=None):
    return Waiting(0, end, committed, first=first, readable=readable)


def looks(*rounds, owned=(0,)):
    """What is said of the progress after looks that are 40 s apart."""
    progress = ScoringProgress()
    for number, waiting in enumerate(rounds):
        progress.see(waiting, frozenset(owned), 40.0 * number)
    return progress.seconds_stalled


@pytest.mark.parametrize(
    ("rounds", "stalled"),
    [
        (({0: one(4)}, {0: one(4)}, {0: one(4, 90)}), 80),
        (({0: one(4)}, {0: one(5)}, {0: one(5)}), 40),  # it moved in between
        (({0: one(10)}, {0: one(10)}), 0),  # nothing waits
        (
            ({0: one(10)}, {0: one(10)}, {0: one(10, 11)}, {0: one(10, 11)}),
            80,
        ),  # counted from where something may wait
        (({0: one(4, first=10)}, {0: one(4, first=10)}), 0),  # offsets without a record
        (({0: one(4, readable=False)}, {0: one(4, readable=False)}), 0),  # a transaction is open upstream
        (({0: one(None)}, {0: one(None)}), 40),  # nothing was ever scored
        (({0: one(4), 1: one(1)}, {0: one(4), 1: one(2)}), 40),  # somebody else's goes on
    ],
)
def test_a_scorer_is_stalled_for_as_long_as_its_records_wait_and_no_commit_of_its_own_moves(rounds, stalled):
    assert looks(*rounds) == stalled


def test_one_partition_of_several_that_moves_is_progress():
    stuck_and_moving = [{0: one(4), 1: one(n)} for n in range(3)]
    assert looks(*stuck_and_moving, owned=(0, 1)) == 0


def test_a_scorer_without_partitions_is_judged_by_its_group():
    assert looks({0: one(4), 1: one(1)}, {0: one(4), 1: one(1)}, owned=()) == 40
    assert looks({0: one(4), 1: one(1)}, {0: one(4), 1: one(2)}, owned=()) == 0


def test_other_partitions_and_a_broker_without_an_answer_begin_the_count_anew():
    progress = ScoringProgress()
    for now, owned in ((0, {0}), (40, {0}), (80, {1})):
        progress.see({0: one(4), 1: one(4)}, owned, now)
    assert progress.seconds_stalled == 0
    progress.see({0: one(4), 1: one(4)}, {1}, 120)
    progress.forget()
    assert progress.missing_for(0) is None
    progress.see({0: one(4), 1: one(4)}, {1}, 160)
    assert progress.seconds_stalled == 0


def test_a_stall_is_told_once_it_is_longer_than_asked_for():
    progress = ScoringProgress()
    progress.seconds_stalled = 31.0
    assert progress.missing_for(31) is None
    assert progress.missing_for(30) == "records wait, and none was scored for 31 s"


def test_a_reporter_follows_the_progress_of_what_it_owns_while_the_broker_answers(monkeypatch):
    clock = iter([0.0, 40.0, 80.0])
    monkeypatch.setattr("fraudscale.kafka.lag.monotonic", lambda: next(clock))
    mine_stands, others_move = one(4), iter([one(1), one(2)])
    answers = [{0: mine_stands, 1: next(others_move)}, {0: mine_stands, 1: next(others_move)}]
    reporter, _ = reporter_of(*answers, BrokerUnavailable("gone"))
    reporter.own(frozenset({0}))
    reporter.report()
    reporter.report()
    assert reporter.progress.seconds_stalled == 40
    with capture_logs():
        reporter.report()
    assert reporter.progress.seconds_stalled == 0


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
    clock, waits = iter([10.0, 10.0, 10.0 + took]), []
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
