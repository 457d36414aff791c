"""Tools that are nowhere, and a blueprint's components by name."""

from pathlib import Path

from fraudscale.local.components import assembly
from fraudscale.local.install.download import KafkaTools, Tools

TOOLS = Tools(
    kafka=KafkaTools(Path("/t/java"), "/t/kafka/*"),
    prometheus=Path("/t/bin/prometheus"),
    alertmanager=Path("/t/bin/alertmanager"),
    node_exporter=Path("/t/bin/node_exporter"),
    haproxy=Path("/t/sbin/haproxy"),
    haproxy_libraries="/t/lib",
    haproxy_exports=True,
)


def named(b):
    return {component.name: component for component in assembly.components(b)}
