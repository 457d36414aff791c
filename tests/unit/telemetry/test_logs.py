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


def run(code):
    """Log in a process of its own: the library caches loggers."""
    head = (
        "from fraudscale.telemetry import logs; from fraudscale.config import LogSettings; import logging\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


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
