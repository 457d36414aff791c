import json
from datetime import UTC, datetime

import pytest

from fraudscale.central_logs.documents import LogLine, dead_letter, document

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


def line(content):
    return LogLine("c1-40", "replica-1-serve.log", 40, content)


def test_a_line_is_filed_under_the_day_of_its_own_time():
    made = document(line(b'{"event":"a_b","timestamp":"2026-11-24T23:59:59.5Z"}'), NOW)
    assert (made.index, made.line.id, made.refused) == ("fraudscale-logs-2026.11.24", "c1-40", "")
    assert json.loads(made.body) == {
        "event": "a_b",
        "timestamp": "2026-11-24T23:59:59.5Z",
        "log": {"file": "replica-1-serve.log", "offset": 40},
    }


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (b"INFO started", "not_json"),
        (b"[1, 2]", "not_json"),
        (b'{"event":"cut o', "not_json"),
        (b"\xff\xfe", "not_json"),
        (b'{"event":"a_b"}', "no_timestamp"),
        (b'{"timestamp":17}', "no_timestamp"),
        (b'{"timestamp":"yesterday"}', "no_timestamp"),
        (b'{"timestamp":"0001-01-01T00:00:00+14:00"}', "no_timestamp"),
        (b'{"timestamp":"2031-01-01T00:00:00Z"}', "no_timestamp"),
        (b'{"timestamp":"1970-01-01T00:00:00Z"}', "no_timestamp"),
    ],
)
def test_what_is_no_event_is_a_dead_letter_with_its_text(content, refused):
    made = document(line(content), NOW)
    assert (made.index, made.refused) == ("fraudscale-dead-logs-2026.11.25", refused)
    body = json.loads(made.body)
    assert body["line"] == content.decode(errors="replace")
    assert body["reason"]


def test_a_dead_letter_is_found_with_its_transaction():
    content = b'{"event":"a_b","transaction_id":"tx-1","trace_id":7,"timestamp":"2026-11-25T07:00:00Z"}'
    body = json.loads(dead_letter(line(content), "mapping", "trace_id is no text", NOW).body)
    assert (body["event"], body["transaction_id"], body["reason"]) == ("a_b", "tx-1", "trace_id is no text")
    assert "trace_id" not in body


def test_the_text_of_a_dead_letter_is_bounded():
    body = json.loads(dead_letter(line(b"x" * 1_000_000), "not_json", "why", NOW).body)
    assert len(body["line"]) == 16 * 1024
