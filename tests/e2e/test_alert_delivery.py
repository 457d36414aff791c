"""A real fault on the running platform reaches a webhook and a mail server, and so does its end."""

import json
from contextlib import suppress

import psutil
import pytest
from confluent_kafka import Producer
from test_platform import EXAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.harmed(TIME_SCALE="10")]  # minutes even so

EXPECTED = {"CRITICAL HighKafkaQueueLength (ml-model)", "CRITICAL MetricsAbsent (ml-model)"}
ENDED = {title.replace("CRITICAL", "RESOLVED") for title in EXPECTED}


def firing(platform):
    """Titles of the critical alerts that Alertmanager holds."""
    status, alerts = platform.ask("GET", "/api/v2/alerts", port=platform.ports.alertmanager)
    assert status == 200
    return {f"CRITICAL {alert['labels']['alertname']} (ml-model)" for alert in alerts}


def fill_the_queue(platform):
    """More than the 1,000 waiting transactions that HighKafkaQueueLength allows."""
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{platform.ports.kafka}"})
    for i in range(1500):
        producer.produce("transactions", json.dumps(EXAMPLE | {"transaction_id": f"waits-{i}"}))
    assert producer.flush(30) == 0


def test_scorers_that_stand_still_are_told_by_slack_and_mail_and_so_is_their_return(harmed, sinks):
    said = "alerts go to Slack and e-mail to oncall@example.org"
    harmed.wait(lambda: said in harmed.output(), "the banner is printed, once all is ready", 10)
    assert not EXPECTED & set(sinks.at_start), "a start is no alarm"
    harmed.wait(lambda: not EXPECTED & firing(harmed), "nothing of it fires for another test's sake", 120)
    sinks.clear()
    webhook, mail = sinks.webhook, sinks.mail
    scorers = [psutil.Process(replica["stream_pid"]) for replica in harmed.status()["replicas"]]
    for scorer in scorers:
        scorer.suspend()
    try:
        fill_the_queue(harmed)
        harmed.wait(lambda: set(webhook.titles) >= EXPECTED, "Slack hears of it", 120)
        harmed.wait(lambda: set(mail.subjects) >= EXPECTED, "and the mailbox", 60)
        told = [message["attachments"][0] for message in webhook.messages]
        sinks.clear()
    finally:
        for scorer in scorers:
            # one that stood still for longer than the supervisor puts up with is another process by now
            with suppress(psutil.NoSuchProcess):
                scorer.resume()
    harmed.wait(lambda: set(webhook.titles) >= ENDED, "Slack hears of the end", 180)
    harmed.wait(lambda: set(mail.subjects) >= ENDED, "and the mailbox", 60)
    text = next(attachment for attachment in told if "HighKafka" in attachment["title"])
    assert "topic transactions" in text["text"]
    assert "Time runs 10 times as fast here." in text["text"]
    assert "docs/runbooks/HighKafkaQueueLength.md" in text["text"]
    assert f"<http://127.0.0.1:{harmed.ports.console}|Dashboard>" in text["text"]
