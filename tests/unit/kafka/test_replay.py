import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from fraudscale.config import KafkaSettings
from fraudscale.kafka import replay as replay_module
from fraudscale.kafka.messages import Record
from fraudscale.kafka.replay import (
    LONGEST_METADATA,
    BadRequest,
    PositionFull,
    Replay,
    ReplayFilter,
    ReplayPosition,
    ReplayResult,
    as_json,
    as_text,
    back,
    parse_time,
    replays,
)
from fraudscale.kafka.replayer import PartitionState, RecordRefused

AT = 1_700_000_000_000
"""2023-11-14T22:13:20Z"""


def letter(offset: int, *, reason=b"validation", source=b"in/0/7", key=None, timestamp=AT, **more) -> Record:
    headers = [("own", b"x"), ("traceparent", b"00-1"), ("reason", reason), ("error-field", b"hour")]
    headers += [("first-seen", b"2023-11-14T00:00:00Z"), ("source-record", source)]
    headers += more.items()
    return Record("in.dead-letter", 0, offset, key or b"t%d" % offset, b"\xff", headers, timestamp)


# --- what went back


def test_a_position_that_was_never_committed_begins_at_the_low_watermark():
    assert ReplayPosition.load(None, "", 5) == ReplayPosition(5)


def test_letters_in_a_row_only_move_the_base():
    position = ReplayPosition(5)
    for offset in (5, 6, 7):
        position.add(offset)
    assert (position, position.dump()) == (ReplayPosition(8), "")


def test_a_letter_that_was_left_holds_the_base_and_those_after_it_are_remembered():
    position = ReplayPosition(5)
    position.add(6)
    position.add(9)
    kept = ReplayPosition.load(position.base, position.dump(), 0)
    assert (kept.base, [o for o in range(12) if o in kept]) == (5, [0, 1, 2, 3, 4, 6, 9])
    kept.add(5)
    assert kept.base == 7


@given(st.sets(st.integers(0, 300)), st.integers(0, 300))
def test_a_position_knows_what_went_back_and_nothing_else(offsets, low):
    position = ReplayPosition(0)
    for offset in offsets:
        position.add(offset)
    kept = ReplayPosition.load(position.base, position.dump(), low)
    assert [o in kept for o in range(302)] == [o < low or o in offsets for o in range(302)]


@given(st.integers(0, 40), st.integers(0, 40), st.sets(st.integers(0, 60)))
def test_places_without_a_record_are_stepped_over(begin, end, offsets):
    position = ReplayPosition(0)
    for offset in offsets:
        position.add(offset)
    position.add_range(begin, end)
    assert {o for o in range(62) if o in position} == offsets | set(range(begin, end))


def test_twenty_thousand_letters_picked_at_random_are_remembered():
    import random

    position, rng = ReplayPosition(0), random.Random(1)
    for offset in range(1, 20_000):
        if rng.random() < 0.5:
            position.add(offset)
    assert len(position.dump()) <= LONGEST_METADATA


def test_more_than_a_broker_keeps_is_said_with_what_to_do():
    import random

    position = ReplayPosition(0, random.Random(1).getrandbits(100_000) << 1)
    with pytest.raises(PositionFull, match="--until"):
        position.dump()


# --- which letters


@pytest.mark.parametrize(
    ("choice", "goes"),
    [
        ({}, True),
        ({"reason": "validation"}, True),
        ({"reason": "prediction"}, False),
        ({"since": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}, True),
        ({"since": datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)}, False),
        ({"until": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}, False),
        ({"until": datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)}, True),
        ({"ids": frozenset({"t3", "t4"})}, True),
        ({"ids": frozenset({"t4"})}, False),
    ],
)
def test_every_filter_picks_its_letters(choice, goes):
    assert ReplayFilter(**choice).left(letter(3)) == (None if goes else "filtered")


def test_what_failed_again_stays_unless_it_is_asked_for():
    assert ReplayFilter().left(letter(3, replays=b"1")) == "failed_again"
    assert ReplayFilter(again=True).left(letter(3, replays=b"1")) is None


def test_a_record_that_nobody_says_the_source_of_stays():
    assert ReplayFilter().left(letter(3, source=b"")) == "foreign"


def test_absurd_numbers_of_other_people_are_no_error():
    assert ReplayFilter().left(letter(3, source=b"", timestamp=2**63 - 1)) == "foreign"
    assert ReplayFilter().left(letter(3, timestamp=2**63 - 1)) is None
    assert ReplayFilter().left(letter(3, source=b"in/0/" + b"9" * 5000)) == "foreign"
    assert replays({"replays": b"9" * 5000}) == 0


def test_an_empty_span_of_time_is_refused():
    with pytest.raises(BadRequest, match="--since"):
        ReplayFilter(since=datetime(2026, 1, 2, tzinfo=UTC), until=datetime(2026, 1, 1, tzinfo=UTC))


def test_times_are_rfc_3339_and_utc_unless_they_say_otherwise():
    assert parse_time("--since", "2026-01-02T03:04:05") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ago = datetime.now(UTC) - parse_time("--since", "2h")
    assert timedelta(hours=1) < ago < timedelta(hours=3)
    at = parse_time("--since", "2026-01-02T03:04:05+01:00")
    assert at == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    with pytest.raises(BadRequest, match=r"--until yesterday: must be a duration such as 10m"):
        parse_time("--until", "yesterday")


# --- what goes back


def test_a_record_goes_back_as_it_came_without_the_verdict():
    output = back(letter(3))
    assert (output.topic, output.key, output.value) == ("in", b"t3", b"\xff")
    assert output.headers == [
        ("own", b"x"),
        ("traceparent", b"00-1"),
        ("first-seen", b"2023-11-14T00:00:00Z"),
        ("replays", b"1"),
    ]


@pytest.mark.parametrize(("was", "becomes"), [(b"1", b"2"), (b"41", b"42"), (b"many", b"1"), (b"", b"1")])
def test_replays_are_counted_once_each(was, becomes):
    headers = back(letter(3, replays=was)).headers
    assert [value for name, value in headers if name == "replays"] == [becomes]


# --- a run


class FakeReplayer:
    """A topic in memory; refuses what is in `refused`, by what the broker says."""

    def __init__(self, letters, committed=None, metadata="", refused=None, gone=()):
        self.letters, self.refused, self.gone = letters, refused or {}, gone
        self.place = PartitionState(0, len(letters) + 1, committed, metadata)
        self.sent: list[list[int]] = []
        self.places = {}
        self.reached = {}

    def open(self, *, write):
        self.write = write
        return {0: self.place}

    def seek(self, offsets):
        self.unread = [x for x in self.letters if x.offset >= offsets[0]]

    def read(self):
        records, self.unread = self.unread[:2], self.unread[2:]
        if not self.unread:
            self.reached = {0: self.place.end}
        return records

    def takes(self, topic):
        return topic not in self.gone

    def send(self, outputs, places):
        keys = [output.key for output in outputs]
        if found := set(keys) & self.refused.keys():
            raise RecordRefused(KafkaError(self.refused[min(found)]))
        self.sent.append([int(key[1:]) for key in keys])
        self.places = places


def go(replayer, choice=None, *, dry_run=False, from_start=False):
    result = ReplayResult("in.dead-letter", dry_run)
    shares = []
    run = Replay(replayer, choice or ReplayFilter(), result, rate=None, progress=shares.append)
    run.run(from_start=from_start)
    assert shares[-1] == 1.0
    return result


def test_all_go_and_the_place_is_behind_the_last_mark():
    replayer = FakeReplayer([letter(i) for i in (0, 1, 3, 4)])
    assert go(replayer).sent == 4
    assert replayer.places == {0: (5, "")}


def test_a_second_run_sends_nothing_twice_whatever_the_filters_were():
    letters = [letter(i, reason=b"prediction" if i % 3 else b"validation") for i in range(10)]
    first = FakeReplayer(letters)
    assert go(first, ReplayFilter(reason="prediction")).left == Counter(filtered=4)
    second = FakeReplayer(letters, *first.places[0])
    go(second)
    assert sorted(offset for batch in first.sent + second.sent for offset in batch) == list(range(10))
    assert second.places[0] == (11, "")


def test_from_the_start_sends_all_again():
    replayer = FakeReplayer([letter(i) for i in range(3)], committed=3)
    assert go(replayer).sent == 0
    assert go(replayer, from_start=True).sent == 3


def test_a_limit_ends_the_run_and_leaves_the_rest_for_the_next():
    replayer = FakeReplayer([letter(i) for i in range(10)])
    assert go(replayer, ReplayFilter(limit=3)).sent == 3
    assert replayer.places == {0: (3, "")}


def test_a_dry_run_opens_nothing_to_write_and_lists_what_would_go():
    replayer = FakeReplayer([letter(i) for i in range(3)])
    result = go(replayer, ReplayFilter(limit=2), dry_run=True)
    assert (replayer.write, replayer.sent, result.sent) == (False, [], 2)
    assert [x["offset"] for x in result.letters] == [0, 1]
    assert "0/1  2023-11-14T00:00:00Z  t1  validation hour" in as_text(result)


def test_one_that_is_refused_stays_alone():
    refused = {b"t4": KafkaError.RECORD_LIST_TOO_LARGE, b"t5": KafkaError.INVALID_RECORD}
    replayer = FakeReplayer([letter(i) for i in range(7)], refused=refused)
    result = go(replayer)
    assert (result.sent, result.left) == (5, Counter(too_large=1, refused=1))
    assert replayer.places[0][0] == 4


def test_one_whose_topic_is_gone_stays_and_holds_nobody_up():
    other = letter(1, source=b"gone/0/1")
    result = go(FakeReplayer([letter(0), other, letter(2)], gone={"gone"}))
    assert (result.sent, result.left) == (2, Counter(no_topic=1))


def test_one_that_lacks_a_part_of_its_record_stays():
    result = go(FakeReplayer([letter(0), letter(1, omitted=b"value")]))
    assert (result.sent, result.left) == (1, Counter(incomplete=1))


def test_a_record_that_had_no_key_goes_back_without_one():
    named = letter(3)
    source = dict(named.headers)["source-record"]
    assert back(msgspec.structs.replace(named, key=source)).key is None


def test_the_answer_for_scripts_has_every_count():
    answer = json.loads(as_json(ReplayResult("in.dead-letter", dry_run=False, sent=2)))
    assert answer["left"] == dict.fromkeys(replay_module.LEFT, 0)
    assert {"filtered", "failed_again", "foreign", "too_large"} <= answer["left"].keys()
    assert (answer["sent"], "letters" in answer) == (2, False)


def test_the_largest_metadata_that_a_broker_keeps_are_kept(monkeypatch):
    position = ReplayPosition(0, 0b1010)
    monkeypatch.setattr("fraudscale.kafka.replay.LONGEST_METADATA", len(position.dump()))
    position.dump()
    monkeypatch.setattr("fraudscale.kafka.replay.LONGEST_METADATA", len(position.dump()) - 1)
    with pytest.raises(PositionFull):
        position.dump()


def test_progress_is_the_share_of_dead_letters_looked_at():
    shares = []
    replayer = FakeReplayer([letter(i) for i in range(7)])
    Replay(replayer, ReplayFilter(), ReplayResult("x", dry_run=False), rate=None, progress=shares.append).run(
        from_start=False
    )
    assert shares == [2 / 8, 4 / 8, 6 / 8, 7 / 8, 1.0]


def test_a_rate_is_kept_in_small_transactions(monkeypatch):
    slept = []
    monkeypatch.setattr("fraudscale.kafka.replay.time.sleep", slept.append)
    monkeypatch.setattr("fraudscale.kafka.replay.time.monotonic", lambda: 100.0)
    replayer = FakeReplayer([letter(i) for i in range(8)])
    Replay(
        replayer, ReplayFilter(), ReplayResult("x", dry_run=False), rate=10.0, progress=lambda _: None
    ).run(from_start=False)
    assert [len(batch) for batch in replayer.sent[:4]] == [2, 2, 2, 2]
    assert slept == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_a_run_says_how_long_it_took_and_lets_go(monkeypatch):
    replayer = FakeReplayer([letter(0)])
    closed = []
    replayer.close = lambda: closed.append(True)
    monkeypatch.setattr(replay_module, "Replayer", lambda *_: replayer)
    result = ReplayResult("in.dead-letter", dry_run=False, seconds=-1)
    replay_module.run(
        KafkaSettings(), ReplayFilter(), from_start=False, rate=None, progress=lambda _: None, result=result
    )
    assert (result.sent, closed) == (1, [True])
    assert 0 <= result.seconds < 5
