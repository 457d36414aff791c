"""Alerts, their runbooks and their page agree, and all that they name exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from prometheus_client import generate_latest

import alert_rules
from fraudscale import metrics
from fraudscale.cli import app
from fraudscale.local.components.prometheus import SERVICE_LABELS

ROOT = Path(__file__).parents[3]
RUNBOOKS = sorted(path for path in (ROOT / "docs/runbooks").glob("*.md") if path.stem != "README")
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in RUNBOOKS}
EXPORTED = {metric.name: metric for metric in metrics.METRICS}
OF_PROMETHEUS = {"up"}
OF_THE_CLIENT = {"process_cpu_seconds_total", "process_start_time_seconds"}
TARGET_LABELS = {*SERVICE_LABELS, "job", "pod", "container", "le"}


def blocks(kind, text):
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


COMMANDS = sorted(
    {
        line.strip().removeprefix("$ ")
        for text in TEXTS.values()
        for block in blocks("console", text)
        for line in block.splitlines()
    }
)


def base(name):
    """The metric of a series: that of a histogram has three."""
    stem = re.sub(r"_(bucket|count|sum)$", "", name)
    return stem if stem in EXPORTED and EXPORTED[stem].kind == "histogram" else name


def test_each_alert_has_a_runbook_and_a_row_and_there_are_no_others():
    rows = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/reference/alerts.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(set(rows)) == sorted(TEXTS) == alert_rules.NAMES


@pytest.mark.parametrize("name", TEXTS)
def test_a_runbook_says_what_it_means_whom_it_hurts_how_to_find_out_and_what_to_do(name):
    headings = re.findall(r"^#+ .*", TEXTS[name], re.MULTILINE)
    assert headings == [f"# {name}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]


@pytest.mark.parametrize("rule", alert_rules.ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_severity_service_namespace_and_links(rule):
    assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}
    assert rule["labels"]["service"] == "ml-model"
    assert {"summary", "description", "action"} <= rule["annotations"].keys()
    assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{rule['alert']}.md")
    assert rule["annotations"]["dashboard_url"]


@pytest.mark.parametrize(
    "rule", alert_rules.RULES, ids=lambda rule: rule.get("alert") or rule["record"].replace(":", "-")
)
def test_what_a_rule_reads_is_exported_with_the_labels_that_it_asks_for(rule):
    for name, selectors in alert_rules.selectors(rule["expr"]).items():
        if name in OF_PROMETHEUS | OF_THE_CLIENT | alert_rules.RECORDED:
            continue
        assert base(name) in EXPORTED, name
        for selector in selectors:
            asked = set(re.findall(r"[{,](\w+)[=!]", selector))
            assert asked <= {*EXPORTED[base(name)].labels, *TARGET_LABELS}, selector


def test_what_is_said_to_be_the_clients_is_exported():
    exposition = generate_latest(metrics.process_registry()).decode()
    assert {name for name in OF_THE_CLIENT if f"\n{name} " not in exposition} == set()


@pytest.mark.parametrize("name", TEXTS)
def test_queries_of_a_runbook_ask_for_metrics_that_exist(name):
    for query in blocks("promql", TEXTS[name]):
        for metric in alert_rules.selectors(query):
            known = base(metric) in EXPORTED or metric in (
                OF_PROMETHEUS | OF_THE_CLIENT | alert_rules.RECORDED
            )
            assert known, metric


def test_a_runbook_names_commands_that_exist():
    group = typer.main.get_command(app)
    ours = [
        shlex.split(command.partition(" | ")[0])[1:]
        for command in COMMANDS
        if command.startswith(".venv/bin/fraudscale")
    ]
    assert len(ours) > 4
    for name, *options in ours:
        group.commands[name].make_context(name, options)  # raises for what it doesn't know
    others = {command.split()[0] for command in COMMANDS} - {".venv/bin/fraudscale"}
    assert others <= {"kubectl", "grep", "tail", "curl", "kill"}


def test_a_runbook_names_events_of_the_log_that_exist():
    documented = (ROOT / "docs/reference/logs.md").read_text(encoding="utf-8")
    named = {
        event
        for text in TEXTS.values()
        for event in re.findall(r"(?:-e|--event|grep -h|grep) ([a-z]+_[a-z_]+)", text)
    }
    assert len(named) > 10
    assert {event for event in named if f"`{event}`" not in documented} == set()
