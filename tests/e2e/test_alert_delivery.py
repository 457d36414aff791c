"""A real fault on the running platform reaches a webhook and a mail server, and so does its end."""

from contextlib import ExitStack

import psutil
import pytest

from sinks import MailServer, Webhook, serving

pytestmark = pytest.mark.slow  # a platform of its own, and minutes of its time

EXPECTED = {"CRITICAL HighKafkaQueueLength (ml-model)", "CRITICAL MetricsAbsent (ml-model)"}
ENDED = {title.replace("CRITICAL", "RESOLVED") for title in EXPECTED}


@pytest.fixture(scope="module")
def told():
    """Webhook and mail server."""
    with ExitStack() as stack:
        yield stack.enter_context(serving(Webhook())), stack.enter_context(serving(MailServer()))


@pytest.fixture(scope="module")
def watched(new_platform, told):
    """A platform whose alerts go there, and whose time runs ten times as fast."""
    webhook, mail = told
    platform = new_platform(
        TIME_SCALE="10",
        ALERT_WEBHOOK_URL=webhook.address,
        SMTP_SERVER=mail.address,
        ALERT_EMAIL="oncall@example.org",
        SMTP_TLS="false",
    )
    platform.start()
    yield platform
    platform.stop()


def test_scorers_that_stand_still_are_told_by_slack_and_mail_and_so_is_their_return(watched, told):
    webhook, mail = told
    assert "alerts go to Slack and e-mail to oncall@example.org" in watched.output()
    assert not EXPECTED & set(webhook.titles), "a start is no alarm"
    scorers = [psutil.Process(replica["stream_pid"]) for replica in watched.status()["replicas"]]
    for scorer in scorers:
        scorer.suspend()
    try:
        watched.wait(lambda: set(webhook.titles) >= EXPECTED, "Slack hears of it", 120)
        watched.wait(lambda: set(mail.subjects) >= EXPECTED, "and the mailbox", 60)
    finally:
        for scorer in scorers:
            scorer.resume()
    watched.wait(lambda: set(webhook.titles) >= ENDED, "Slack hears of the end", 180)
    watched.wait(lambda: set(mail.subjects) >= ENDED, "and the mailbox", 60)
    text = next(m["attachments"][0] for m in webhook.messages if "HighKafka" in m["attachments"][0]["title"])
    assert "topic transactions" in text["text"]
    assert "Time runs 10 times as fast here." in text["text"]
    assert "docs/runbooks/HighKafkaQueueLength.md" in text["text"]
    assert f"<http://127.0.0.1:{watched.ports.console}|Dashboard>" in text["text"]
