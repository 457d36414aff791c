"""How the broker's absence is told."""

import logging

import structlog
from structlog.testing import capture_logs

from fraudscale.kafka import client
from fraudscale.kafka.client import BrokerLink


def test_a_link_tells_changes_only():
    with capture_logs() as lines:
        link = BrokerLink("kafka:9092", structlog.get_logger())
        for change in (link.back, lambda: link.lost("a"), lambda: link.lost("b"), link.back, link.back):
            change()
    assert [line["event"] for line in lines] == ["broker_unavailable", "broker_back"]
    assert lines[0]["reason"] == "a"


def test_a_refusal_is_told_once_for_each_reason_and_is_no_outage():
    with capture_logs() as lines:
        link = BrokerLink("kafka:9092", structlog.get_logger())
        for reason in ("no right", "no right", "no topic", "no right"):
            link.refused("queue length", reason)
            link.refused("transactional id", "no right")
        link.granted("queue length")
        link.refused("queue length", "no right")
    assert {line["event"] for line in lines} == {"broker_question_failed"}
    assert [line["reason"] for line in lines] == [
        "queue length: no right",
        "transactional id: no right",
        "queue length: no topic",
        "queue length: no right",
        "queue length: no right",
    ]


def test_a_line_of_the_client_library_is_logged_once_for_each_kind():
    kept = client._ClientLog()

    def record(*arguments):
        return logging.LogRecord("kafka.client", logging.WARNING, "", 0, "%s %s", arguments, None)

    lines = [record("FAIL", 1), record("FAIL", 2), record("ERROR", 1)]
    assert [kept.filter(line) for line in lines] == [True, False, True]
