import time

import pytest

from fraudscale.load import progress
from fraudscale.load.measure import Measures
from fraudscale.load.progress import Live, figures


def measured():
    measures = Measures(10)
    for n in range(4):
        measures.took(n / 10, n / 10)
    measures.scored(0.0, 0.02)
    measures.scored(0.1, 0.12)
    measures.failed(0.2, "503")
    return measures


def test_a_line_tells_the_last_whole_window():
    measures = measured()
    assert figures(1.5, 10, measures, measures.windows[0]) == (
        "2 of 10 s: 4/s sent, p50 20.1 p99 20.1 ms, 1 in flight, 1 errors"
    )


def test_nothing_scored_has_no_latency():
    measures = Measures(10)
    assert "p50 – p99 – ms" in figures(1.5, 10, measures, measures.windows[0])


def test_after_the_schedule_it_tells_what_is_waited_for():
    measures = measured()
    assert figures(12, 10, measures, measures.windows[-1]) == "12 s: all sent, waiting for 1 answers"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)


def test_away_from_a_terminal_a_line_comes_now_and_then(quick, capsys):
    measures = measured()
    with Live(measures, 10) as live:
        live.started(time.perf_counter())
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 6
    assert all("1 in flight, 1 errors" in line for line in lines)
    assert measures.windows[0].in_flight == 1


def test_a_run_that_never_started_shows_nothing(quick, capsys):
    with Live(Measures(10), 10):
        pass
    assert capsys.readouterr().err == ""
