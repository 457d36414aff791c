"""Write the files that are generated: pages of docs/reference, the dashboard, `.env`, what central logs need; `--check` only compares."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grafana_dashboard
import kibana_objects
import typer
import yaml

from fraudscale.alerting.rules import RUNBOOKS
from fraudscale.central_logs import fields
from fraudscale.cli import app
from fraudscale.config import SETTINGS, Settings
from fraudscale.dashboard import limits
from fraudscale.metrics import METRICS

ROOT = Path(__file__).parent.parent
NOTE = "Written by `make gen`; do not edit."
ALERTS = ROOT / "monitoring/alerts/ml-alerts.yaml"


def settings_page() -> str:
    return "\n".join(
        [
            "# Settings",
            "",
            f"<!-- {NOTE} -->",
            "",
            "Settings come from three sources: the environment, `.env.local` (yours, ignored by Git) and `.env` (defaults, no secret).",
            "The first source that has a setting wins.",
            "A value that is not allowed stops the program at start, with a message that names the setting and what it may be.",
            "",
            "What is only doubtful stops nothing.",
            "A command says it on stderr, and a process in its log, as `setting_doubtful`:",
            "",
            "- a name that is like a setting's, such as `KAFKA_TOPICC`, or begins with `FRAUDSCALE_` and is none: the nearest is named;",
            "- a value of a variable `OTEL_…` that is not allowed, which is ignored, as OpenTelemetry wants it;",
            "- `KAFKA`, `LOGS` and `TRAFFIC`, names of before for `FRAUDSCALE_KAFKA`, `FRAUDSCALE_LOGS` and `FRAUDSCALE_TRAFFIC`: a value that the setting takes holds, and another is ignored. Said to make, as in `make up TRAFFIC=0`, they mean the settings.",
            "",
            "A relative path begins at the checkout around the working folder, or else at the working folder; `~` is the user's own folder.",
            *[line for group in SETTINGS for line in _settings_table(group)],
            "",
        ]
    )


def _settings_table(group: type[Settings]) -> Iterator[str]:
    yield from (
        "",
        f"## {(group.__doc__ or '').strip().rstrip('.')}",
        "",
        "| name | default | meaning |",
        "|---|---|---|",
    )
    for name, field in group.model_fields.items():
        default = "" if field.default in (None, "") else f"`{_text(field.default)}`"
        yield f"| `{name.upper()}` | {default} | {_one_line(field.description)} |"


def env_file() -> str:
    lines = [
        "# Defaults of every setting, commented out; docs/reference/settings.md explains them.",
        "# Your own values belong in .env.local, which Git ignores. No secret belongs here.",
        "# `make up` starts a component whose address is unset (MLFLOW_TRACKING_URI, KAFKA_BOOTSTRAP_SERVERS, PROMETHEUS_ENDPOINT);",
        "# it uses the one whose address is set. OPENSEARCH_ENDPOINT alone begins to ship log lines.",
    ]
    for group in SETTINGS:
        lines += ["", f"# {(group.__doc__ or '').strip()}"]
        for name, field in group.model_fields.items():
            lines.append(f"#{name.upper()}={'' if field.default is None else _text(field.default)}")
    return "\n".join([*lines, ""])


def metrics_page() -> str:
    lines = [
        "# Metrics",
        "",
        f"<!-- {NOTE} -->",
        "",
        "| metrics | exporter |",
        "|---|---|",
        "| all but the following | `serve` on its `/metrics`, `stream` on `METRICS_PORT` |",
        "| `kube_*` | the autoscaler of one machine (port 8301); kube-state-metrics in a cluster |",
        "| `kafka_queue_length`, `kafka_topic_messages`, `kafka_oldest_message_age_seconds`, `kafka_partitions_without_commit` | the autoscaler too, so that the queue is known without a Kafka consumer |",
        "| `logs_*` | the log shipper (port 8302) |",
        "| `process_*`, `python_*` | the Prometheus client's own, in every process |",
        "",
        "Labels are bounded: no ids, no raw paths, no exception texts.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {_one_line(m.help)} |"
        for m in METRICS
    ]
    lines += ["", "## Histogram edges", "", "| metric | upper edges |", "|---|---|"]
    lines += [f"| `{m.name}` | {', '.join(f'{edge:g}' for edge in m.edges)} |" for m in METRICS if m.edges]
    return "\n".join([*lines, ""])


def commands_page() -> str:
    group: Any = typer.main.get_command(app)
    shown: list[tuple[str, Any]] = []
    hidden: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        for place, one in getattr(command, "commands", {"": command}).items():
            (hidden if command.hidden else shown).append((f"{name} {place}".strip(), one))
    return "\n".join(
        [
            "# Commands",
            "",
            f"<!-- {NOTE} -->",
            "",
            "`fraudscale COMMAND --help` says the same.",
            "[Settings](settings.md) are environment variables; an option wins over its setting.",
            "Exit code 0 means done, 1 that something failed, 2 that the input can't be used.",
            *(line for command in shown for line in _command(*command)),
            "",
            "## Commands that `make up` runs",
            "",
            "| command | does |",
            "|---|---|",
            *(f"| `fraudscale {name}` | {_one_line(command.help)} |" for name, command in hidden),
            "",
        ]
    )


def _command(name: str, command: Any) -> Iterator[str]:
    yield from ("", f"## fraudscale {name}", "", _one_line(command.help))
    context = typer.Context(command)
    records = [one.get_help_record(context) for one in command.params if one.name != "help"]
    if records:
        yield from ("", "| option | meaning |", "|---|---|")
    yield from (f"| `{_one_line(option)}` | {_one_line(meaning)} |" for option, meaning in records)


def alerts_page() -> str:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    lines = [
        "# Alerts",
        "",
        f"<!-- {NOTE} -->",
        "",
        "The rules of `monitoring/alerts/ml-alerts.yaml` are the same in a cluster and on one machine.",
        "Tests with promtool check both sides of each edge.",
        "[How alerts reach you](../how-to/alerts.md).",
        "",
        "- `for`: how long the expression must hold before the alert fires.",
        "- `keeps`: how long the alert goes on firing after that.",
        "- *Words* in a meaning are labels of the series.",
        "",
        "| alert | severity | for | keeps | meaning | what to do |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_alert_row(rule) for rule in rules if "alert" in rule]
    lines += ["", "## Expressions", ""]
    for rule in rules:
        lines += [
            f"`{rule.get('alert') or rule['record']}`",
            "",
            "```promql",
            rule["expr"].rstrip(),
            "```",
            "",
        ]
    return "\n".join(lines)


def _alert_row(rule: dict[str, Any]) -> str:
    name, about = rule["alert"], rule["annotations"]
    cells = [
        f"`{name}`",
        rule["labels"]["severity"],
        rule.get("for", ""),
        rule.get("keep_firing_for", ""),
        f"{_words(about['summary'])}. {about['action']}",
        f"[runbook](../runbooks/{name}.md)",
    ]
    return f"| {' | '.join(_one_line(cell) for cell in cells)} |"


def _words(template: str) -> str:
    """The text of an annotation's template with the names of labels for their values, and both branches of a choice."""
    choice = re.sub(r"{{ if .*? }}(.*?){{ else }}(.*?){{ end }}", r"\1, or: \2", template)
    return re.sub(r"{{ \$labels\.(\w+) }}", r"*\1*", choice)


def dashboard() -> str:
    return grafana_dashboard.build(limits.read(ALERTS.read_text(encoding="utf-8")), RUNBOOKS)


def _text(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "docs/reference/settings.md": settings_page,
    "docs/reference/metrics.md": metrics_page,
    "docs/reference/alerts.md": alerts_page,
    "docs/reference/commands.md": commands_page,
    "monitoring/dashboards/ml-model-dashboard.json": dashboard,
    ".env": env_file,
    f"logging/elasticsearch/{fields.LOGS}.json": lambda: _json(fields.logs_template()),
    f"logging/elasticsearch/{fields.DEAD_LOGS}.json": lambda: _json(fields.dead_logs_template()),
    "logging/kibana/fraudscale.ndjson": kibana_objects.saved_objects,
}


def main() -> int:
    stale = []
    for name, content in FILES.items():
        path, wanted = ROOT / name, content()
        if not path.exists() or path.read_text() != wanted:
            stale.append(name)
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(wanted)
    if stale:
        print("\n".join(f"{'not current' if '--check' in sys.argv else 'written'}: {name}" for name in stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
