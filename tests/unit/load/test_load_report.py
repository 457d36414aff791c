import msgspec
import numpy as np
import pytest
from msgspec import structs

from fraudscale.load import picture
from fraudscale.load.arrivals import RecordedArrivals
from fraudscale.load.history import History, Points, history
from fraudscale.load.measure import Measures
from fraudscale.load.report import Run, build, table

RUN = Run("kafka", "transactions at 127.0.0.1:9092", "constant", "even", 10, "2026-11-23T20:00:00Z")
SCHEDULE = RecordedArrivals(np.arange(0, 10, 0.1), 10)
PAST = History(Points([0, 5, 10], [0, 70, 3]), Points([0, 5, 10], [4, 5, 5]))


def report(*, late=0.001, taken=100, scored=100, stopped_at=None, missing=0, duplicates=0):
    measures = Measures(10)
    for due in SCHEDULE.times[:taken]:
        measures.took(due, due + late)
    for due in SCHEDULE.times[:scored]:
        measures.scored(due, due + 0.02)
    measures.missing, measures.duplicates = missing, duplicates
    return build(RUN, SCHEDULE, measures, stopped_at, PAST)


def test_a_run_that_kept_its_rate_says_so():
    found = report()
    assert (found.scheduled, found.sent, found.ok) == (100, 100, 100)
    assert (found.offered_rate, found.achieved_rate) == (10, 10)
    assert found.latency_ms.p50 == pytest.approx(20, rel=0.01)
    assert found.good
    assert "kept the rate" in table(found)


@pytest.mark.parametrize(
    ("trouble", "why"), [({"taken": 98, "scored": 98}, "lower load"), ({"late": 0.2}, "over 100 ms late")]
)
def test_a_generator_that_fell_behind_says_so_and_how(trouble, why):
    found = report(**trouble)
    assert not found.kept_rate
    assert not found.good
    assert "DID NOT KEEP THE RATE" in table(found)
    assert why in table(found)


@pytest.mark.parametrize("trouble", [{"missing": 1}, {"duplicates": 1}, {"scored": 0}])
def test_lost_doubled_or_unscored_transactions_are_a_bad_end(trouble):
    found = report(**trouble)
    assert found.kept_rate
    assert not found.good


def test_after_ctrl_c_only_what_was_due_by_then_counts():
    found = report(taken=50, scored=50, stopped_at=5.0)
    assert (found.scheduled, found.offered_rate, found.interrupted) == (50, 10, True)
    assert len(found.over_time) == 5
    assert found.good


def test_the_json_has_the_promised_figures():
    answer = msgspec.json.decode(msgspec.json.encode(report()))
    assert {"offered_rate", "achieved_rate", "sent", "ok", "errors"} < set(answer)
    assert set(answer["latency_ms"]) == {"p50", "p95", "p99", "max"}
    assert [p["offered_rate"] for p in answer["over_time"]] == [10] * 10
    assert answer["replicas"] == [[0, 4], [5, 5], [10, 5]]


@pytest.mark.parametrize(("suffix", "begin"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path, suffix, begin):
    path = tmp_path / f"run{suffix}"
    picture.draw(report(), path)
    assert path.read_bytes().startswith(begin)


def test_a_run_without_answers_and_without_prometheus_has_a_picture_too(tmp_path):
    found = build(RUN, SCHEDULE, Measures(10), None, History())
    picture.draw(found, tmp_path / "run.png")
    assert "–" in table(found)


def test_without_a_prometheus_that_answers_nothing_is_known_of_the_platform():
    assert history(None, 0, 10, topic="t", group="g") == History()
    assert history("http://127.0.0.1:9", 0, 10, topic="t", group="g") == History()


OVER_KAFKA = """\
constant load over kafka to transactions at 127.0.0.1:9092, 10 s, even arrivals

offered            10.0/s   100 transactions
achieved           10.0/s   100 sent; kept the rate
ok                    100   scored
errors                  0
missing                 2   sent, and no committed score seen
duplicates              1   scores of an input record that had one

ms                        p50      p95      p99      max
latency                  20.0     20.0     20.0     20.0   from the intended send time to the committed score
late sends                1.0      1.0      1.0      1.0   part of the latency"""
OVER_HTTP = """\
constant load over http to http://127.0.0.1:8000, 10 s, even arrivals, interrupted

offered            10.0/s   100 transactions
achieved           10.0/s   100 sent; kept the rate
ok                    100   scored
errors                  4   503: 3, timeout: 1

ms                        p50      p95      p99      max
latency                  20.0     20.0     20.0     20.0   from the intended send time to the answer
late sends                1.0      1.0      1.0      1.0   part of the latency"""


def test_the_table_says_what_goes_with_each_way_in():
    over_kafka = report(missing=2, duplicates=1)
    assert table(over_kafka) == OVER_KAFKA
    run = structs.replace(RUN, over="http", target="http://127.0.0.1:8000")
    errors = {"503": 3, "timeout": 1}
    assert table(structs.replace(over_kafka, run=run, interrupted=True, errors=errors)) == OVER_HTTP


def test_the_last_window_may_be_shorter_and_keeps_its_rate():
    points = report(taken=75, scored=75, stopped_at=7.5).over_time
    assert [(p.t, p.offered_rate, p.achieved_rate) for p in points][-2:] == [(6, 10, 10), (7, 10, 10)]
    assert [p.ok for p in points] == [10] * 7 + [5]


def test_a_long_run_has_points_two_seconds_apart():
    schedule, measures = RecordedArrivals(np.arange(0.0, 600.0), 600), Measures(600)
    points = build(RUN, schedule, measures, None, PAST).over_time
    assert [(p.t, p.offered_rate) for p in points[:3]] == [(0, 1), (2, 1), (4, 1)]
    assert points[-1].t == 598
