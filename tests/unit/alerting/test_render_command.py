"""`fraudscale render`, as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def render(*arguments, **settings):
    return subprocess.run(
        [sys.executable, "-m", "fraudscale.cli", "render", *arguments],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_rules_are_printed_with_the_links_and_the_time_scale():
    done = render("rules", "--time-scale", "10", RUNBOOK_URL="https://wiki/rb", DASHBOARD_URL="https://g/d")
    rules = [rule for group in yaml.safe_load(done.stdout)["groups"] for rule in group["rules"]]
    rule = next(rule for rule in rules if rule.get("alert") == "HighErrorRate")
    assert rule["for"] == "6s"
    assert rule["annotations"]["runbook_url"] == "https://wiki/rb/HighErrorRate.md"
    assert rule["annotations"]["dashboard_url"] == "https://g/d"


def test_alertmanagers_configuration_is_printed():
    done = render("alertmanager", "--time-scale", "10", ALERT_WEBHOOK_URL="https://hooks/x")
    config = yaml.safe_load(done.stdout)
    assert config["route"]["group_wait"] == "3s"
    assert config["receivers"][1]["slack_configs"][0]["api_url"] == "https://hooks/x"


def test_half_a_way_is_refused_with_one_line():
    done = render("alertmanager", SMTP_SERVER="smtp.example.org")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fraudscale: SMTP_SERVER is set and ALERT_EMAIL is not: set both, or neither\n"


def test_the_dashboard_is_the_committed_one_with_runbooks_of_yours():
    committed = (ROOT / "monitoring/dashboards/ml-model-dashboard.json").read_text()
    done = render("dashboard", RUNBOOK_URL="https://wiki/rb")
    assert done.stdout == committed.replace("https://fraudscale.example/docs/runbooks", "https://wiki/rb")
