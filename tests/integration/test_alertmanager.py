"""Alertmanager with what we render: its own amtool takes it, and the real one tells whom it should, in words that read well."""

import json
import re
import subprocess
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import yaml

import alert_rules
from fraudscale.alerting import alertmanager
from fraudscale.config import AlertSettings, HttpSettings, KafkaSettings, LocalSettings, ModelSettings
from fraudscale.local.components import alertmanager as component_of
from fraudscale.local.components import assembly
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install.debian import ALERTMANAGER
from fraudscale.local.install.download import program
from fraudscale.local.install.ports import Ports, claim_block
from sinks import MailServer, Webhook, serving

SLACK = {"alert_webhook_url": "https://hooks.slack.com/services/T/B/x"}
MAIL = {"smtp_server": "smtp.example.org", "alert_email": "oncall@example.org"}
LOGIN = {"smtp_username": "fraud", "smtp_password": "a'b\"c: #{{x}}"}
WAYS = {
    "nobody": {},
    "Slack": SLACK,
    "mail": MAIL,
    "both": SLACK | MAIL,
    "with a login": SLACK | MAIL | LOGIN,
}


@pytest.mark.parametrize("scale", [1, 20])
@pytest.mark.parametrize("way", WAYS)
def test_amtool_takes_what_is_rendered(amtool, tmp_path, way, scale):
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager.render(AlertSettings(**WAYS[way]), scale))
    code, output = amtool("check-config", str(file))
    assert code == 0, output


@pytest.mark.parametrize("rule", alert_rules.ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_is_routed_by_its_severity(amtool, tmp_path, rule):
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager.render(AlertSettings(**WAYS["both"])))
    severity = rule["labels"]["severity"]
    labels = {"alertname": rule["alert"], "namespace": "ml-model", **rule["labels"]}
    receiver = alertmanager.NOBODY if severity == "none" else severity
    code, output = amtool(
        *("config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receiver}"),
        *(f"{name}={value}" for name, value in labels.items()),
    )
    assert code == 0, output


def test_an_alert_without_a_severity_is_a_warning(amtool, tmp_path):
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager.render(AlertSettings(**SLACK)))
    code, output = amtool("config", "routes", "test", f"--config.file={file}", "alertname=Yours")
    assert (code, output.split()[0]) == (0, "warning")


class Running:
    """An Alertmanager as `up` starts it, with time 20 times as fast, and both sinks behind it."""

    def __init__(self, api, webhook, mail):
        self.api, self.webhook, self.mail = api, webhook, mail

    def tell(self, *alerts, ends=None):
        """Post alerts (labels each) as Prometheus does."""
        body = []
        for labels in alerts:
            rule = next(r for r in alert_rules.ALERTS if r["alert"] == labels["alertname"])
            body.append(
                {
                    "labels": {"namespace": "ml-model", **rule["labels"], **labels},
                    "annotations": rule["annotations"],
                    "startsAt": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(),
                    **({"endsAt": ends.isoformat()} if ends else {}),
                }
            )
        request = urllib.request.Request(
            f"{self.api}/alerts", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def state(self, name):
        with urllib.request.urlopen(f"{self.api}/alerts", timeout=10) as answer:
            return next(a["status"] for a in json.load(answer) if a["labels"]["alertname"] == name)


def wait(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def running(tmp_path):
    with claim_block() as base, serving(Webhook()) as webhook, serving(MailServer()) as mail:
        settings = AlertSettings.read(
            alert_webhook_url=webhook.address,
            smtp_server=mail.address,
            alert_email="oncall@example.org",
            smtp_tls=False,
        )
        local = LocalSettings.read(fraudscale_home=tmp_path, time_scale=20)
        tools = SimpleNamespace(
            opensearch=None,
            grafana=None,
            alertmanager=program(local, ALERTMANAGER, print),
            haproxy_exports=True,
            prometheus=None,
        )
        b = Blueprint(
            local, ModelSettings(), KafkaSettings(), HttpSettings(), settings, tools, Ports.at(base)
        )  # type: ignore[arg-type]
        assembly.prepare(b)
        component = component_of.component(b, b.tools.alertmanager)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(component.command, stdout=log, stderr=log)
        try:
            wait(lambda: answers(f"{component.address}/-/ready"), "Alertmanager is ready")
            yield Running(f"{component.address}/api/v2", webhook, mail)
        finally:
            process.kill()
            process.wait()


def test_critical_goes_to_both_a_warning_to_slack_and_the_watchdog_to_nobody(running):
    running.tell({"alertname": "Watchdog"}, {"alertname": "HighErrorRate"}, {"alertname": "HighCPUUsage"})
    wait(lambda: len(running.webhook.messages) == 2 and running.mail.mails, "both are told")
    assert sorted(running.webhook.titles) == [
        "CRITICAL HighErrorRate (ml-model)",
        "WARNING HighCPUUsage (ml-model)",
    ]
    assert running.mail.subjects == ["CRITICAL HighErrorRate (ml-model)"]
    running.tell({"alertname": "HighErrorRate"}, ends=datetime.now(UTC))
    wait(lambda: len(running.mail.mails) == 2, "its end is told")
    assert running.mail.subjects[1] == "RESOLVED HighErrorRate (ml-model)"
    assert "RESOLVED HighErrorRate (ml-model)" in wait(lambda: running.webhook.titles[2:], "and to Slack")


def test_a_message_says_what_where_since_when_and_what_to_do(running):
    running.tell({"alertname": "HighKafkaQueueLength", "topic": "transactions", "group": "fraudscale"})
    (mail,) = wait(lambda: running.mail.mails, "a mail arrives")
    (message,) = wait(lambda: running.webhook.messages, "and a message in Slack")
    about = next(r["annotations"] for r in alert_rules.ALERTS if r["alert"] == "HighKafkaQueueLength")
    (text,) = [
        part.get_payload(decode=True).decode()
        for part in mail.walk()
        if part.get_content_type() == "text/plain"
    ]
    assert "text/html" not in {part.get_content_type() for part in mail.walk()}
    (attachment,) = message["attachments"]
    for words in (text, attachment["text"]):
        assert about["summary"] in words
        assert about["description"] in words
        assert re.search(r"group fraudscale, namespace ml-model, topic transactions[;\r]", words)
        assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", words)
        assert about["runbook_url"] in words
        assert about["dashboard_url"] in words
        assert "{{" not in words.replace("{{ $", "")  # Prometheus fills in values; here nobody did
        assert "<no value>" not in words
    assert attachment["color"] == "danger"
    assert (mail["To"], mail["From"]) == ("oncall@example.org", "oncall@example.org")


def test_what_another_alert_explains_is_muted_and_only_in_its_own_namespace(running):
    muted = lambda name: running.state(name)["state"] == "suppressed"  # noqa: E731
    running.tell(
        {"alertname": "HighErrorRate"}, {"alertname": "HighResponseTime"}, {"alertname": "HighCPUUsage"}
    )
    wait(lambda: muted("HighResponseTime"), "the slow answers are explained by the errors")
    assert not muted("HighErrorRate")
    assert not muted("HighCPUUsage")
    running.tell({"alertname": "ModelSaturatedAtMax", "namespace": "another"})
    wait(lambda: "CRITICAL ModelSaturatedAtMax (another)" in running.webhook.titles, "another one's is told")
    assert not muted("HighCPUUsage")
    running.tell({"alertname": "ModelSaturatedAtMax"})
    wait(lambda: muted("HighCPUUsage"), "ours explains it")


def test_an_inhibition_names_alerts_that_exist_and_a_cause_is_as_severe():
    severities = {}
    for rule in alert_rules.ALERTS:
        severities.setdefault(rule["alert"], set()).add(rule["labels"]["severity"])
    rank = ["info", "warning", "critical"]
    rules = yaml.safe_load(alertmanager.render(AlertSettings()))["inhibit_rules"]
    assert len(rules) > 5
    for rule in rules:
        (source,) = re.findall(r'alertname="(\w+)"', rule["source_matchers"][0])
        targets = re.findall(r'alertname=~?"([\w|]+)"', rule["target_matchers"][0])[0].split("|")
        assert {source, *targets} <= severities.keys()
        for target in targets:
            if target != source:
                assert max(map(rank.index, severities[source])) >= max(map(rank.index, severities[target]))
        assert rule["equal"] == ["namespace", "service"]
