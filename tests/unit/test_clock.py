"""Instants and durations as text: what is written, what is read, what is refused."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fraudscale.clock import duration, faster, parse_duration, parse_instant, parse_moment, rfc3339

AT = datetime(2026, 11, 23, 10, 0, 0, 120_000, UTC)


@pytest.mark.parametrize(
    ("at", "timespec", "text"),
    [
        (AT, "auto", "2026-11-23T10:00:00.120000Z"),
        (AT, "seconds", "2026-11-23T10:00:00Z"),
        (AT, "milliseconds", "2026-11-23T10:00:00.120Z"),
        (AT.replace(microsecond=0), "auto", "2026-11-23T10:00:00Z"),
        (AT.astimezone(timezone(timedelta(hours=2))), "seconds", "2026-11-23T10:00:00Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "auto", "0001-01-01T00:00:00Z"),
        (datetime.max.replace(tzinfo=UTC), "seconds", "9999-12-31T23:59:59Z"),
    ],
)
def test_an_instant_is_written_in_utc(at, timespec, text):
    assert rfc3339(at, timespec) == text


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-23T10:00:00.120Z", AT),
        ("2026-11-23T12:00:00.12+02:00", AT),
        ("2026-11-23 10:00:00.120", AT),  # no zone: UTC
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_an_instant_is_read_in_utc(text, at):
    assert parse_instant(text) == at
    assert parse_instant(text).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("10m", AT - timedelta(minutes=10)),
        ("1h30m", AT - timedelta(hours=1, minutes=30)),
        ("2026-11-23T10:00:00.12", AT),
        ("2026-11-23T11:00:00.12+01:00", AT),
    ],
)
def test_a_moment_is_an_instant_or_how_long_ago_it_was(text, at):
    assert parse_moment(text, AT) == at


@pytest.mark.parametrize("text", ["", "ten minutes", "999999999999d", f"{'9' * 400}s", "-10m"])
def test_a_moment_that_is_neither_or_before_all_years_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of the standard library, with its words
        parse_moment(text, AT)


def test_an_instant_without_a_zone_does_not_depend_on_the_machine(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_instant("2026-11-23T10:00:00.120") == AT
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "10:00",
        "2026-02-30",
        "2026-11-23T25:00Z",
        "10000-01-01",
        "0001-01-01T00:00:00+02:00",
        "9999-12-31T23:59:59-02:00",
    ],
)
def test_what_is_no_instant_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_instant(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86_400),
        ("1w", 604_800),
        ("1y", 31_536_000),
        ("1h30m", 5400),
        ("1m500ms", 60.5),
        ("1.5d", 129_600),
        ("0s", 0),
    ],
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 m", "5M", "5m5", "1h,30m", ".5h", "five", "5µs"])
def test_what_is_no_duration_is_refused_with_what_would_be_one(text):
    with pytest.raises(ValueError, match="is not a duration; write 30s, 10m, 2h or 1d"):
        parse_duration(text)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (5, "5s"), (90.0, "90s"), (0.5, "500ms")])
def test_a_duration_is_written_for_prometheus(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "time_scale", "scaled"),
    [("1h30m", 1, "1h30m"), ("5m", 60, "5s"), ("15s", 30, "500ms"), ("1h30m", 60, "90s")],
)
def test_a_faster_clock_makes_durations_shorter(text, time_scale, scaled):
    assert faster(text, time_scale) == scaled
