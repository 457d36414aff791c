"""Alertmanager's configuration, rendered from the settings: who is told what, when, and in which words."""

from typing import Any, Final

import yaml

from fraudscale.clock import faster
from fraudscale.config import AlertSettings

SEVERITIES: Final = ("critical", "warning", "info")
"""Of alerts that people are told of, each with a receiver of its own; an alert without one is a warning."""
NOBODY: Final = "nobody"
"""The receiver of the watchdog, which always fires."""
NOBODY_TOLD: Final = "nobody gets alerts: set ALERT_WEBHOOK_URL, or SMTP_SERVER and ALERT_EMAIL"

# (group_wait, group_interval, repeat_interval): how long others may join a first message, how soon changes of the group
# are told, and when it is said again.
_TIMES: Final = {
    "critical": ("10s", "1m", "1h"),
    "warning": ("30s", "5m", "4h"),
    "info": ("1m", "5m", "24h"),
}

# What causes what: while the first fires, the second says nothing new. Pairs of matchers; a cause never has the lower severity.
_INHIBITED: Final = (
    ('alertname="MetricsAbsent",metric="http_requests_total"', 'alertname=~"HighErrorRate|HighResponseTime|ReplicaErrorRate"'),
    ('alertname="MetricsAbsent",metric="http_requests_total"', 'alertname="MetricsAbsent",container="serve"'),
    ('alertname="MetricsAbsent",metric="kafka_messages_consumed_total"', 'alertname="MetricsAbsent",container="stream"'),
    ('alertname="KafkaQueueLengthAbsent"', 'alertname=~"HighKafkaQueueLength|KafkaOldestMessageAge|StreamFailures"'),
    ('alertname="HighKafkaQueueLength"', 'alertname="KafkaOldestMessageAge"'),
    ('alertname="HighErrorRate"', 'alertname="HighResponseTime"'),
    ('alertname="ModelLoadFailing"', 'alertname="ModelVersionNotServed"'),
    ('alertname="ModelSaturatedAtMax"', 'alertname=~"HighCPUUsage|ModelScaledToMax"'),
)  # fmt: skip

SUBJECT: Final = (
    '{{ if eq .Status "resolved" }}RESOLVED{{ else }}{{ .CommonLabels.severity | toUpper }}{{ end }} '
    "{{ .GroupLabels.alertname }} ({{ .GroupLabels.namespace }})"
)
_SINCE: Final = (
    '{{ .StartsAt.UTC.Format "2006-01-02 15:04:05" }} UTC'
    '{{ if eq .Status "resolved" }} until {{ .EndsAt.UTC.Format "15:04:05" }} UTC{{ end }}'
)
_WHERE: Final = (
    '{{ range $i, $label := (.Labels.Remove (stringSlice "alertname" "severity" "service")).SortedPairs }}'
    "{{ if $i }}, {{ end }}{{ $label.Name }} {{ $label.Value }}{{ end }}"
)
SLACK_TEXT: Final = """\
{{ range .Alerts }}*{{ .Annotations.summary }}*{{ if eq .Status "resolved" }} (resolved){{ end }}
{{ .Annotations.description }}
WHERE; since SINCE
<{{ .Annotations.runbook_url }}|Runbook> | <{{ .Annotations.dashboard_url }}|Dashboard>

{{ end }}""".replace("WHERE", _WHERE).replace("SINCE", _SINCE)
MAIL_TEXT: Final = """\
{{ range .Alerts }}{{ .Annotations.summary }}{{ if eq .Status "resolved" }} (resolved){{ end }}

{{ .Annotations.description }}

Where:     WHERE
Since:     SINCE
Runbook:   {{ .Annotations.runbook_url }}
Dashboard: {{ .Annotations.dashboard_url }}

{{ end }}All alerts, and silences: {{ .ExternalURL }}
""".replace("WHERE", _WHERE).replace("SINCE", _SINCE)
_COLOUR: Final = '{{ if eq .Status "resolved" }}good{{ else if eq .CommonLabels.severity "critical" }}danger{{ else }}warning{{ end }}'


def render(settings: AlertSettings, time_scale: float = 1) -> str:
    """Render the configuration, all waits divided by `time_scale`; it holds the webhook's address and the mail server's password."""
    route = {
        "receiver": "warning",
        "group_by": ["alertname", "namespace", "service"],
        **_times("warning", time_scale),
        "routes": [
            {"matchers": ['severity="none"'], "receiver": NOBODY},
            *(
                {"matchers": [f'severity="{severity}"'], "receiver": severity, **_times(severity, time_scale)}
                for severity in ("critical", "info")
            ),
        ],
    }
    inhibit_rules = [
        {
            "source_matchers": source.split(","),
            "target_matchers": target.split(","),
            "equal": ["namespace", "service"],
        }
        for source, target in _INHIBITED
    ]
    receivers = [{"name": NOBODY}, *(_receiver(severity, settings) for severity in SEVERITIES)]
    config = {"route": route, "inhibit_rules": inhibit_rules, "receivers": receivers}
    return f"# Rendered by `fraudscale render alertmanager`: {told(settings)}.\n{_dump(config)}"


def told(settings: AlertSettings) -> str:
    """Say in one line who gets alerts."""
    ways = [
        *(["Slack"] if settings.alert_webhook_url else []),
        *([f"e-mail to {settings.alert_email}"] if settings.alert_email else []),
    ]
    return f"alerts go to {' and '.join(ways)}" if ways else NOBODY_TOLD


def _times(severity: str, time_scale: float) -> dict[str, str]:
    names = ("group_wait", "group_interval", "repeat_interval")
    return {name: faster(text, time_scale) for name, text in zip(names, _TIMES[severity], strict=True)}


def _receiver(severity: str, settings: AlertSettings) -> dict[str, Any]:
    """Slack hears everything; mail what is critical, and everything where there is no Slack."""
    receiver: dict[str, Any] = {"name": severity}
    resolved = severity != "info"
    if settings.alert_webhook_url:
        receiver["slack_configs"] = [
            {
                "api_url": settings.alert_webhook_url.get_secret_value(),
                "send_resolved": resolved,
                "color": _COLOUR,
                "title": SUBJECT,
                "title_link": "{{ .ExternalURL }}",
                "fallback": SUBJECT,
                "text": SLACK_TEXT,
            }
        ]
    if settings.alert_email and (severity == "critical" or not settings.alert_webhook_url):
        receiver["email_configs"] = [_mail(settings) | {"send_resolved": resolved}]
    return receiver


def _mail(settings: AlertSettings) -> dict[str, Any]:
    login: dict[str, Any] = {}
    if settings.smtp_username and settings.smtp_password:
        login = {
            "auth_username": settings.smtp_username,
            "auth_password": settings.smtp_password.get_secret_value(),
        }
    return {
        "to": settings.alert_email,
        "from": settings.smtp_from or str(settings.alert_email).partition(",")[0],
        "smarthost": settings.smtp_server,
        "require_tls": settings.smtp_tls,
        **login,
        "headers": {"Subject": SUBJECT},
        "html": "",
        "text": MAIL_TEXT,
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, and nothing as an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
