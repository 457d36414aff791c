"""What a dead letter says, and how the log speaks of many."""

import re
from datetime import UTC, datetime
from hashlib import sha256

import pytest
import structlog
from scored_records import record
from structlog.testing import capture_logs

from fraudscale.kafka.client import MAX_RECORD_BYTES
from fraudscale.kafka.dead_letters import (
    LARGEST_DEAD_LETTER,
    LONGEST_DETAIL,
    DeadLetter,
    DeadLetterLog,
    range_letter,
    record_of,
)
from fraudscale.kafka.messages import Record, UnreadableRange

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def test_a_dead_letter_keeps_bytes_and_key_and_tells_why_and_from_where():
    letter = DeadLetter(record(9, b"\xff", partition=2), "validation", "hour", "Expected `int` <= 23")
    output = record_of(letter, "in.dead-letter", NOW)
    assert (output.topic, output.key, output.value) == ("in.dead-letter", b"k9", b"\xff")
    headers = dict(output.headers)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", headers.pop("traceparent"))
    assert headers == {
        "reason": "validation",
        "error-field": "hour",
        "error-detail": b"Expected `int` <= 23",
        "first-seen": "2026-11-23T10:00:00Z",
        "source-record": "in/2/9",
    }


def test_a_dead_letter_keeps_the_headers_of_others():
    came = [("traceparent", b"00-1"), ("own", None)]
    output = record_of(DeadLetter(record(0, headers=came), "validation", "", ""), "dead", NOW)
    assert output.headers[:2] == came


def test_a_replayed_record_that_fails_again_keeps_its_first_time_and_has_each_header_once():
    came = [("first-seen", b"2026-01-01T00:00:00Z"), ("reason", b"prediction"), ("source-record", b"in/0/1")]
    output = record_of(DeadLetter(record(8, headers=came), "validation", "", ""), "dead", NOW)
    names = [name for name, _ in output.headers]
    assert len(names) == len(set(names))
    assert dict(output.headers)["first-seen"] == b"2026-01-01T00:00:00Z"
    assert dict(output.headers)["source-record"] == "in/0/8"


def test_a_record_too_large_for_its_dead_letter_goes_without_its_largest_part():
    value = b"{" + b" " * MAX_RECORD_BYTES
    large = record(9, value, partition=2, headers=[("own", b"x")])
    output = record_of(DeadLetter(large, "validation", "", "not JSON"), "dead", NOW)
    assert (output.key, output.value) == (b"k9", None)
    headers = dict(output.headers)
    assert (headers["own"], headers["omitted"]) == (b"x", "value")
    assert headers["value-sha256"] == sha256(value).hexdigest()
    assert headers["source-record"] == "in/2/9"
    assert headers["error-detail"].startswith(
        b"not JSON (too large for a dead letter: without value of 16777217 bytes"
    )


def test_a_refused_dead_letter_is_tried_again_with_less_each_time():
    whole = record(9, b"v" * 30, headers=[("own", b"x" * 20)])
    tries = [record_of(DeadLetter(whole, "validation", "", "", refusals=n), "dead", NOW) for n in range(4)]
    omitted = [dict(output.headers).get("omitted") for output in tries]
    assert omitted == [None, "value", "value,headers", "value,headers,key"]
    last = dict(tries[3].headers)
    assert (tries[3].key, tries[3].value) == (b"in/0/9", None)
    assert last["headers-sha256"] == sha256(b"own" + b"x" * 20).hexdigest()
    assert last["key-sha256"] == sha256(b"k9").hexdigest()


def test_a_refused_dead_letter_without_a_key_is_tried_with_one_first():
    keyless = record(9, b"v", key=None)
    tries = [record_of(DeadLetter(keyless, "validation", "", "", refusals=n), "dead", NOW) for n in range(3)]
    assert [(output.key, output.value) for output in tries] == [
        (None, b"v"),
        (b"in/0/9", b"v"),
        (b"in/0/9", None),
    ]
    assert "omitted" not in dict(tries[1].headers)


def test_what_producers_call_as_we_do_is_not_taken_for_ours():
    came = [("omitted", b"value"), ("value-sha256", b"x"), ("last-offset", b"9")]
    output = record_of(DeadLetter(record(0, headers=came), "validation", "", ""), "dead", NOW)
    assert not {"omitted", "value-sha256", "last-offset"} & dict(output.headers).keys()


def test_a_range_is_named_by_its_first_and_last_offset():
    output = range_letter(UnreadableRange("in", 3, 5, 404, "400 records"), "dead", NOW)
    headers = dict(output.headers)
    assert (output.key, output.value) == (b"in/3/5", None)
    assert (headers["source-record"], headers["last-offset"]) == ("in/3/5", "404")
    assert (headers["reason"], headers["omitted"]) == ("unreadable", "key,value,headers")


def test_the_detail_of_a_dead_letter_is_bounded():
    output = record_of(DeadLetter(record(0), "prediction", "", "x" * 10_000), "dead", NOW)
    assert len(dict(output.headers)["error-detail"]) == LONGEST_DETAIL


def test_dead_letters_are_logged_together_and_seldom():
    letters = [DeadLetter(record(i), "validation", "hour", "no") for i in range(3)]
    with capture_logs() as lines:
        log = DeadLetterLog(structlog.get_logger())
        log.add(letters[:1])
        log.add(letters)
        log.add(letters)
        log.flush()
        log.flush()
    assert [line["count"] for line in lines] == [1, 6]
    assert lines[0]["first_source"] == "in/0/0"


@pytest.mark.parametrize("grown", ["key", "headers"])
def test_key_and_headers_count_for_the_size_of_a_dead_letter(grown):
    half = LARGEST_DEAD_LETTER // 2
    more = (
        {"key": b"k" * (half + 1), "headers": ()}
        if grown == "key"
        else {"key": b"k", "headers": [("x", b"h" * half)]}
    )
    large = Record("in", 0, 0, more["key"], b"v" * half, more["headers"], 0)
    assert "omitted" in dict(record_of(DeadLetter(large, "validation", "", ""), "dead", NOW).headers)
    small = Record("in", 0, 0, b"k", b"v" * half, (), 0)
    assert record_of(DeadLetter(small, "validation", "", ""), "dead", NOW).value == small.value
