import json
import logging
import subprocess
import sys

import pytest

from fraudscale.config import LogSettings
from fraudscale.telemetry import logs
from fraudscale.telemetry.logs import LogLimiter


@pytest.fixture(autouse=True)
def _restore_logging():
    import structlog

    yield
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


def run(code, *, decode=True):
    """Log in a process of its own: the library caches loggers."""
    head = (
        "from fraudscale.telemetry import logs; from fraudscale.config import LogSettings; import logging\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line) if decode else line for line in done.stdout.splitlines()]


def test_an_event_is_one_line_of_json_with_its_context():
    (line,) = run(
        "log = logs.set_up(LogSettings(), replica_id='replica-1', process='serve')\n"
        "log.info('model_loaded', version='3', seconds=0.25)"
    )
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "model_loaded",
        "level": "info",
        "process": "serve",
        "replica_id": "replica-1",
        "version": "3",
        "seconds": 0.25,
    }


def test_lines_below_the_level_are_not_written():
    (line,) = run(
        "log = logs.set_up(LogSettings(log_level='warning'), process='serve')\n"
        "log.info('quiet'); log.warning('loud')"
    )
    assert line["event"] == "loud"


def test_warnings_of_libraries_are_events_too():
    (line,) = run(
        "logs.set_up(LogSettings(), process='serve')\nlogging.getLogger('some.library').warning('careful %s', 1)"
    )
    assert (line["event"], line["library"], line["message"]) == (
        "library_message",
        "some.library",
        "careful 1",
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("warning('%d of %s', 'a')", "%d of %s ('a',)"),
        ("warning('careful', 1)", "careful (1,)"),
        ("warning('%(name)s', {'other': 1})", "%(name)s {'other': 1}"),
        ("log(35, 'between two levels')", "between two levels"),
        ("log(99, 'above all')", "above all"),
        ("warning(Odd())", "<Odd> ()"),
        ("warning('half %s', chr(0xD800))", "half \\ud800"),
    ],
)
def test_a_mistake_of_a_library_costs_neither_its_line_nor_its_work(call, message):
    (line, end) = run(
        f"{ODD}logs.set_up(LogSettings(), process='serve')\nlogging.getLogger('some.library').{call}\n"
        "logging.getLogger('some.library').error('went on')"
    )
    assert (line["event"], line["message"]) == ("library_message", message)
    assert end["message"] == "went on"


ODD = """\
class Odd:
    def __repr__(self):
        raise RuntimeError("no name")
class OddError(Exception):
    def __str__(self):
        raise RuntimeError("no text")
round = []; round.append(round)
deep = []
for _ in range(100_000): deep = [deep]
"""


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "call",
    [
        "info('event', value=Odd())",
        "info('event', value=[Odd()])",
        "info('event', value=chr(0xD800))",
        "info('event', **{chr(0xDFFF): 1})",
        "info('event', value={(1, 2): 3})",
        "info('event', value=10**30)",
        "info('event', value=round)",
        "info('event', value=deep)",
        "info('event %d', 'a')",
        "info('event', 1, 2)",
        "info('event', value=float('nan'), more={1j: b'x'})",
        "error('event', exc_info=OddError())",
        "error('event', exc_info=(1, 2, 3))",
        "exception('event')",
        "info('event', timestamp=Odd(), level=Odd())",
    ],
)
def test_a_logger_never_raises_into_its_caller(form, call):
    """Read by who runs the platform: the event is there whatever is wrong with its fields, and the caller goes on."""
    head = f"{ODD}log = logs.set_up(LogSettings(log_format='{form}'), process='serve')\n"
    lines = run(f"{head}log.{call}\nlog.info('went_on', seconds=1)", decode=form == "json")
    if form == "json":
        assert lines[0]["event"].startswith("event")
        assert lines[1].items() >= {"event": "went_on", "seconds": 1}.items()
    else:
        assert "event" in lines[0]
        assert "went_on" in lines[-1]


def test_a_value_that_cannot_be_written_leaves_the_others_as_they_are():
    (line,) = run(
        f"{ODD}log = logs.set_up(LogSettings(), process='serve')\n"
        "log.info('event', odd=Odd(), seconds=0.25, half='a' + chr(0xD800), listed=[1, 2])"
    )
    assert line.items() >= {"odd": "<Odd>", "seconds": 0.25, "half": "a\\ud800", "listed": [1, 2]}.items()


@pytest.mark.parametrize("close", ["sys.stdout.close()", "os.close(1)", "sys.stdout = None"])
@pytest.mark.parametrize("form", ["json", "console"])
def test_without_a_standard_output_nothing_stops(form, close):
    code = (
        "import os, sys; from fraudscale.telemetry import logs; from fraudscale.config import LogSettings\n"
        f"log = logs.set_up(LogSettings(log_format='{form}'), process='serve')\n{close}\n"
        "log.info('unheard'); logs.stdout.write(b'x'); logs.stdout.flush(); os.write(2, b'went on'); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "went on")


def test_an_exception_is_written_with_its_traceback():
    (line,) = run(
        "log = logs.set_up(LogSettings(), process='serve')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    log.error('broke', exc_info=error)"
    )
    assert "ZeroDivisionError" in line["exception"]


def test_json_is_for_pipes_and_can_be_forced():
    assert logs.is_json(LogSettings(log_format="json"))
    assert not logs.is_json(LogSettings(log_format="console"))


def test_the_limiter_lets_each_key_through_once():
    limiter = LogLimiter(60)
    assert [limiter.allows(key) for key in "aaba"] == [True, False, True, False]
