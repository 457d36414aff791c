"""What a person reads once the platform is ready: addresses, an example, who is told of alerts, how to stop."""

from pathlib import Path
from typing import Final

from fraudscale.alerting import alertmanager
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install.ports import HOST
from fraudscale.local.supervisor.state import ModelInUse
from fraudscale.local.supervisor.supervise import ManagedComponent
from fraudscale.scoring import codec
from fraudscale.scoring.records import Transaction

EXAMPLE: Final = Transaction("tx-1", 949.9, "electronics", 3, 6, 23, 1200.0)
"""What the banner and the README let a person try."""
WITHOUT_ALERTMANAGER: Final = "the console shows alerts, and nobody gets them: Alertmanager can't be started here (`make doctor` says why)"


def banner(
    blueprint: Blueprint, components: list[ManagedComponent], model: ModelInUse, seconds: float
) -> list[str]:
    """Write the lines.

    Args:
        blueprint: of what runs.
        components: with the addresses of what was started.
        model: that scores.
        seconds: from the command's start until all was ready.
    """
    addresses = {
        managed.component.name: managed.component.address
        for managed in components
        if managed.component.address
    }
    entry = addresses["haproxy"]
    body = codec.encode_transaction(EXAMPLE).decode()
    return [
        "",
        f"fraudscale is ready after {seconds:.1f} s, with model {model.version or '?'} ({model.alias or 'no alias'})",
        "",
        *(f"  {name:<14} {value}" for name, value in _rows(blueprint, addresses).items()),
        "",
        f"  try it: curl -s {entry}/predict -H 'content-type: application/json' -d '{body}'",
        "",
        *(f"  {note}" for note in _notes(blueprint, {managed.component.name for managed in components})),
        "",
    ]


def _rows(blueprint: Blueprint, addresses: dict[str, str]) -> dict[str, str]:
    topic = blueprint.kafka.kafka_topic
    replicas = sorted({name.partition("/")[0] for name in addresses if "/" in name})
    others = {name: at for name, at in (addresses | blueprint.external).items() if "/" not in name}
    entry = others.pop("haproxy")
    others["kafka"] = f"{others['kafka']}   {topic} → {topic}.scored, {topic}.dead-letter"
    return {
        "predict": f"{entry}/predict   (all routes: {entry}/docs)",
        "console": blueprint.console,  # before all the others
        **others,
        "haproxy": f"http://{HOST}:{blueprint.ports.haproxy_metrics}/   (statistics and metrics)",
        **{
            name: f"http://{addresses[f'{name}/serve']}   (metrics of its Kafka scorer: http://{addresses[f'{name}/stream']}/metrics)"
            for name in replicas
        },
    }


def _notes(blueprint: Blueprint, names: set[str]) -> list[str]:
    notes = []
    if "traffic" in names:
        notes.append("sample transactions flow over HTTP and Kafka (FRAUDSCALE_TRAFFIC=0 for none)")
    if (scale := blueprint.local.time_scale) != 1:
        notes.append(
            f"time runs {scale:g} times as fast: windows, periods and sync of the autoscaler, those of alerts, "
            "and scrape intervals are that much shorter"
        )
    told = alertmanager.told(blueprint.alerts) if blueprint.tools.alertmanager else WITHOUT_ALERTMANAGER
    logs = _shortest(blueprint.home / "logs")
    return [*notes, told, f"logs of every component: {logs}; state: make status; stop: Ctrl-C"]


def _shortest(path: Path) -> Path:
    """A path as a person in this folder would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
