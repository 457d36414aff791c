"""The alert rules as one place needs them: its addresses in the links, and its time scale in the windows."""

import re
from typing import Final

import msgspec
import yaml

from fraudscale.clock import faster
from fraudscale.config import AlertSettings, SettingsError
from fraudscale.places import checkout

RUNBOOKS: Final = "https://fraudscale.example/docs/runbooks"
DASHBOARD: Final = "https://grafana.example/d/ml-model"
"""What stands in the file for your addresses."""

_RANGE: Final = re.compile(r"(?:(?<=\[)|(?<= offset ))(?:\d+(?:ms|[smhdwy]))+(?=[\]) ])")
_FOR: Final = re.compile(r"^( +(?:for|keep_firing_for): )((?:\d+(?:ms|[smhdwy]))+)$", re.MULTILINE)
_AGE: Final = re.compile(r"(_age_seconds\) > )(\d+)")
"""A limit that is a time of waiting. Those of response times are edges of a histogram, and stay."""
_DESCRIPTION: Final = re.compile(r"^( +description: )('?)(.+?)(\2)$", re.MULTILINE)


class _Rule(msgspec.Struct):
    expr: str | float
    alert: str | None = None
    record: str | None = None
    labels: dict[str, str] = {}


class _Group(msgspec.Struct):
    name: str
    rules: list[_Rule]


class _File(msgspec.Struct):
    groups: list[_Group]


def read(settings: AlertSettings) -> str:
    """Read the rule file; whether its expressions are sound is for Prometheus to say.

    Raises:
        SettingsError: it can't be read, or is no rule file.
    """
    try:
        text = settings.alert_rules.read_text(encoding="utf-8")
        msgspec.convert(yaml.safe_load(text), _File)
    except OSError as error:
        reason = str(error.strerror)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        reason = " ".join(str(error).split())
    else:
        return text
    raise SettingsError(
        f"ALERT_RULES={str(settings.alert_rules)!r}: {reason}; name a file of Prometheus's rules"
    )


def runbooks(settings: AlertSettings) -> str:
    """Address of the folder with a page an alert; unset, that of this checkout."""
    return settings.runbook_url or (checkout() / "docs/runbooks").resolve().as_uri()


def render(settings: AlertSettings, console: str, time_scale: float) -> str:
    """Render the rules that the settings name; unset links lead to this checkout and to the console.

    Raises:
        SettingsError: as `read`.
    """
    return rendered(
        read(settings),
        runbooks=runbooks(settings),
        dashboard=settings.dashboard_url or console,
        time_scale=time_scale,
    )


def rendered(text: str, *, runbooks: str, dashboard: str, time_scale: float) -> str:
    """Put links and windows of one place into a rule file.

    With another time scale than 1, ranges, `for`, `keep_firing_for` and the limit of a waiting time are divided by it, and
    each description says so. Counts and shares stay: so many events are as many at any pace.
    """
    text = text.replace(RUNBOOKS, runbooks).replace(DASHBOARD, dashboard)
    if time_scale == 1:
        return text
    text = _RANGE.sub(lambda m: faster(m[0], time_scale), text)
    text = _FOR.sub(lambda m: m[1] + faster(m[2], time_scale), text)
    text = _AGE.sub(lambda m: f"{m[1]}{int(m[2]) / time_scale:g}", text)
    return _DESCRIPTION.sub(rf"\1\2\3 Time runs {time_scale:g} times as fast here.\4", text)
