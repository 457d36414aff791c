"""What a dead letter says, and how the log speaks of many."""

import re
from datetime import UTC, datetime

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
    record_of,
)
from fraudscale.kafka.messages import Record

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


def test_a_record_too_large_for_its_dead_letter_goes_without_value_and_headers():
    large = record(9, b"{" + b" " * MAX_RECORD_BYTES, partition=2, headers=[("own", b"x")])
    output = record_of(DeadLetter(large, "validation", "", "not JSON"), "dead", NOW)
    assert (output.key, output.value) == (b"k9", None)
    headers = dict(output.headers)
    assert "own" not in headers
    assert headers["source-record"] == "in/2/9"
    assert headers["error-detail"].startswith(b"not JSON (too large for a dead letter")


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
    assert record_of(DeadLetter(large, "validation", "", ""), "dead", NOW).value is None
    small = Record("in", 0, 0, b"k", b"v" * half, (), 0)
    assert record_of(DeadLetter(small, "validation", "", ""), "dead", NOW).value == small.value
