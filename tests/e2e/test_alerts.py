"""The running Prometheus evaluates the alert rules, has all that they read, and tells Alertmanager."""

import alert_rules


def loaded(platform):
    _, answer = platform.ask("GET", "/api/v1/rules", port=platform.ports.prometheus)
    return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


def test_every_rule_is_loaded_and_evaluated_without_an_error(platform):
    platform.wait(
        lambda: all(rule["health"] != "unknown" for rule in loaded(platform)), "every rule was evaluated"
    )
    found = [(rule["name"], rule["health"], rule.get("lastError", "")) for rule in loaded(platform)]
    assert sorted(found) == sorted((r.get("alert") or r["record"], "ok", "") for r in alert_rules.RULES)


def test_every_series_that_a_rule_reads_exists(platform):
    read = [alert_rules.selectors(rule["expr"]) for rule in alert_rules.RULES]
    # A recorded one may be a condition, which is there only while it holds.
    wanted = {
        s for names in read for name, ones in names.items() if name not in alert_rules.RECORDED for s in ones
    }
    assert len(wanted) > 20
    for selector in sorted(wanted):
        platform.wait(lambda s=selector: platform.query(s), f"{selector} is in Prometheus")
    others = platform.query('{__name__=~"kafka_.*|kube_.*|http_.*|ml_model_.*",namespace!="ml-model"}')
    assert others == []


def test_an_alert_reaches_alertmanager_with_links_to_this_machine(platform):
    def watchdog():
        _, alerts = platform.ask("GET", "/api/v2/alerts", port=platform.ports.alertmanager)
        return [alert for alert in alerts if alert["labels"]["alertname"] == "Watchdog"]

    # Prometheus may evaluate before it has looked up Alertmanager, and sends an alert again after a minute only.
    (alert,) = platform.wait(watchdog, "the watchdog is at Alertmanager", 180)
    assert alert["labels"].items() >= {"namespace": "ml-model", "service": "ml-model"}.items()
    assert alert["annotations"]["runbook_url"].endswith("/docs/runbooks/Watchdog.md")
    assert alert["annotations"]["dashboard_url"] == f"http://127.0.0.1:{platform.ports.console}"
