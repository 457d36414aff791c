"""The rule file with the links and windows of one place."""

import re
from pathlib import Path

import pytest
import yaml

from fraudscale.alerting import rules
from fraudscale.clock import duration, faster
from fraudscale.config import AlertSettings, SettingsError

RULES = Path(__file__).parents[3] / "monitoring/alerts/ml-alerts.yaml"


def all_rules(text):
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def rendered(time_scale):
    text = rules.rendered(
        RULES.read_text(), runbooks="https://wiki/runbooks", dashboard="https://g/d/1", time_scale=time_scale
    )
    return list(zip(all_rules(RULES.read_text()), all_rules(text), strict=True))


@pytest.mark.parametrize(
    ("text", "scale", "wanted"),
    [
        ("5m", 1, "5m"),
        ("5m", 10, "30s"),
        ("2m", 7, "17143ms"),
        ("1h30m", 2, "2700s"),
        ("1500ms", 3, "500ms"),
        ("1d", 20, "4320s"),
    ],
)
def test_a_duration_is_divided(text, scale, wanted):
    assert faster(text, scale) == wanted


def test_a_duration_is_written_in_whole_units():
    assert (duration(5.0), duration(1.5)) == ("5s", "1500ms")


def test_links_lead_to_the_addresses_of_the_place():
    for before, after in rendered(1):
        assert after.get("expr") == before["expr"]
        if "alert" in after:
            assert after["annotations"]["runbook_url"] == f"https://wiki/runbooks/{after['alert']}.md"
            assert after["annotations"]["dashboard_url"] == "https://g/d/1"


def test_windows_and_waits_are_divided_and_nothing_else_changes():
    seen = set()
    for before, after in rendered(10):
        for name in before:
            if name in {"for", "keep_firing_for"}:
                assert after[name] == faster(before[name], 10) != before[name]
                seen.add(name)
            elif name == "expr":
                wanted = re.sub(
                    r"(?<=\[)\d+m(?=\])|(?<= offset )\d+m", lambda m: faster(m[0], 10), before["expr"]
                )
                assert after["expr"] == wanted.replace("_age_seconds) > 60", "_age_seconds) > 6")
                seen |= set(re.findall(r"\[\d+m\]|_age_seconds\) > 60", before["expr"]))
            elif name == "annotations":
                assert after[name]["description"] == (
                    before[name]["description"] + " Time runs 10 times as fast here."
                )
            else:
                assert after[name] == before[name], name
    assert seen >= {"for", "keep_firing_for", "[2m]", "[5m]", "[10m]", "[15m]", "_age_seconds) > 60"}


def test_unset_links_lead_to_this_checkout_and_to_the_console(monkeypatch):
    monkeypatch.chdir(RULES.parents[2])
    text = rules.render(AlertSettings(runbook_url=None, dashboard_url=None), "http://console:8080", 1)
    watchdog = next(rule for rule in all_rules(text) if rule.get("alert") == "Watchdog")
    runbook = RULES.parents[2] / "docs/runbooks/Watchdog.md"
    assert watchdog["annotations"]["runbook_url"] == runbook.as_uri()
    assert watchdog["annotations"]["dashboard_url"] == "http://console:8080"


def test_rules_that_cannot_be_read_are_named():
    with pytest.raises(SettingsError, match=r"ALERT_RULES='/nowhere.yaml': No such file"):
        rules.read(AlertSettings(alert_rules=Path("/nowhere.yaml")))
