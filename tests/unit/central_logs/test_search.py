import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from fraudscale.central_logs.search import BadQuery, Query, as_text, in_files, since
from fraudscale.cli import app

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


@pytest.fixture
def logs(tmp_path):
    """Two parts that know of transaction tx-1 and its trace, and one that does not; its own noise is no JSON."""
    folder = tmp_path / "logs"
    folder.mkdir()

    def write(name, *lines):
        rows = [line if isinstance(line, str) else json.dumps(line, separators=(",", ":")) for line in lines]
        (folder / name).write_text("".join(f"{row}\n" for row in rows))

    def event(second, name, **fields):
        return {
            "event": name,
            "level": "info",
            "timestamp": f"2026-11-25T07:59:{second:02}Z",
            "process": "serve",
            **fields,
        }

    write(
        "replica-1-serve.log",
        "INFO no JSON with tx-1 and t-1",
        event(30, "prediction_made", transaction_id="tx-1", trace_id="t-1", is_fraud=True),
        event(31, "prediction_made", transaction_id="tx-10", trace_id="t-2"),
    )
    write("replica-1-serve.log.1", event(20, "request_seen", trace_id="t-1"))
    write("replica-2-stream.log", event(40, "label_seen", transaction_id="tx-1"), '{"cut o')
    return folder


def names(found):
    return [(line["event"], line["log"]["file"]) for line in found.lines]


def test_a_transaction_is_found_over_all_parts_with_its_trace_in_the_order_of_time(logs):
    assert names(in_files(logs, Query(transaction="tx-1"))) == [
        ("request_seen", "replica-1-serve.log.1"),
        ("prediction_made", "replica-1-serve.log"),
        ("label_seen", "replica-2-stream.log"),
    ]


def test_a_trace_an_event_and_a_time_narrow_it_down(logs):
    assert len(in_files(logs, Query(trace="t-1")).lines) == 2
    assert len(in_files(logs, Query(trace="t-1", events=("prediction_made",))).lines) == 1
    assert len(in_files(logs, Query(trace="t-1", events=("prediction_made", "request_seen"))).lines) == 2
    assert len(in_files(logs, Query(since=datetime(2026, 11, 25, 7, 59, 31, tzinfo=UTC))).lines) == 2
    assert in_files(logs, Query(trace="t")).lines == []


def test_the_first_lines_are_given_and_all_are_counted(logs):
    found = in_files(logs, Query(limit=1))
    assert (names(found), found.total) == ([("request_seen", "replica-1-serve.log.1")], 4)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("10m", 600), ("1.5h", 5400), ("30s", 30), ("2d", 172800), ("2026-11-25T07:00:00Z", 3600)],
)
def test_since_is_a_length_or_an_instant(text, ago):
    assert since(text, NOW) == NOW - timedelta(seconds=ago)


@pytest.mark.parametrize("text", ["yesterday", "10", "m", "-5m"])
def test_a_since_that_is_neither_is_refused(text):
    with pytest.raises(BadQuery, match="such as 10m"):
        since(text, NOW)


def test_a_line_is_written_for_a_person_and_commands_no_terminal():
    line = {
        "timestamp": "T",
        "level": "info",
        "event": "a_b",
        "error": "\x1b[2J",
        "log": {"file": "x.log"},
        "n": None,
    }
    (text,) = as_text([line])
    assert text.split() == ["T", "x", "INFO", "a_b", "error=?[2J"]


def test_the_command_searches_the_files_where_no_store_runs(logs, monkeypatch):
    monkeypatch.setenv("FRAUDSCALE_HOME", str(logs.parent))
    done = CliRunner().invoke(app, ["logs", "--transaction", "tx-1", "--json"])
    assert done.exit_code == 0
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "request_seen",
        "prediction_made",
        "label_seen",
    ]
    assert CliRunner().invoke(app, ["logs", "--trace", "nobody's"]).exit_code == 1
