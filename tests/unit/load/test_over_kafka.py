from fraudscale.kafka.headers import SourceRecord
from fraudscale.kafka.scores import CommittedScore
from fraudscale.load.measure import Measures
from fraudscale.load.over_kafka import Pending, Repeats


def score(offset, source=0, out=0):
    return CommittedScore(b"k", out, SourceRecord("in", source, offset))


def test_scores_of_growing_offsets_are_no_repeats():
    repeats = Repeats()
    assert not any(repeats.is_repeated(score(offset)) for offset in (3, 4, 9))


def test_a_batch_that_was_scored_twice_is_found_record_by_record():
    repeats = Repeats()
    seen = [repeats.is_repeated(score(offset)) for offset in (3, 4, 5, 4, 5, 6)]
    assert seen == [False, False, False, True, True, False]


def test_partitions_have_offsets_of_their_own():
    repeats = Repeats()
    assert not repeats.is_repeated(score(9))
    assert not repeats.is_repeated(score(2, source=1))
    assert not repeats.is_repeated(score(3, out=1))


def test_records_that_name_no_source_are_no_repeats():
    repeats = Repeats()
    assert not any(repeats.is_repeated(CommittedScore(b"k", 0, None)) for _ in range(2))


def test_a_score_is_matched_once_and_only_if_it_is_ours():
    pending = Pending(Measures(1))
    pending.add(b"a", 0.5)
    assert pending.take(b"b") is None
    assert pending.take(None) is None
    assert pending.take(b"a") == 0.5
    assert pending.take(b"a") is None


def test_a_record_that_was_not_written_is_an_error_and_no_longer_waited_for():
    measures = Measures(1)
    pending = Pending(measures)
    pending.add(b"a", 0.5)
    pending.failed(b"a", "_MSG_TIMED_OUT")
    assert (len(pending), dict(measures.errors)) == (0, {"_MSG_TIMED_OUT": 1})


def test_waiting_is_bounded_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr("fraudscale.load.over_kafka.MAX_PENDING", 2)
    pending = Pending(Measures(1))
    for n, key in enumerate((b"a", b"b", b"c")):
        pending.add(key, n)
    assert [pending.take(key) for key in (b"a", b"b", b"c")] == [None, 1, 2]
