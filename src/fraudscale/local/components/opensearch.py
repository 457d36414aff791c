"""OpenSearch on one machine: `python -m fraudscale.local.components.opensearch FILE` runs it inside this process until a signal.

The jars that Maven has bring no launcher that takes a port of ours, so its Java API is called from Python. It runs without
JNA's native half: that asks who runs it, and refuses root, who is often the only user of a container.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from fraudscale.local.components.blueprint import OUTER_STOP_SECONDS, STORE_PHASE, Blueprint
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.download import OpenSearchTools
from fraudscale.local.supervisor.component import Component
from fraudscale.stopping import StopSignals

HEAP: Final = "256m"
LOG4J2: Final = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}] %p %c{1.} %m%n
logger.resources.name = org.opensearch.cluster.InternalClusterInfoService
logger.resources.level = error
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


class Node(msgspec.Struct, frozen=True):
    """The content of FILE."""

    jvm: str
    classpath: str
    options: list[str]
    config: str
    """Folder; OpenSearch wants one."""
    settings: dict[str, str]


def component(b: Blueprint) -> Component:
    return Component(
        "opensearch",
        (sys.executable, "-m", "fraudscale.local.components.opensearch", str(b.run / "opensearch.json")),
        ready=lambda: http_ok(f"{b.log_store}/_cluster/health"),
        alive=lambda: http_ok(b.log_store),
        address=b.log_store,
        stop_phase=STORE_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def files(tools: OpenSearchTools, port: int, run: Path, data: Path) -> dict[Path, str]:
    """The configuration files of a node on 127.0.0.1 that is its own cluster.

    Args:
        tools: of `fetch`.
        port: of its HTTP API.
        run: folder of `opensearch.json`, which names the others.
        data: folder of what it keeps.
    """
    log4j2 = run / "opensearch-log4j2.properties"
    options = [
        "-Xrs",  # signals are Python's
        f"-Xms{HEAP}",
        f"-Xmx{HEAP}",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-Djava.awt.headless=true",
        "-Djna.nosys=true",
        "-Djna.noclasspath=true",
        "-Dlog4j2.disable.jmx=true",
        f"-Dlog4j2.configurationFile={log4j2}",
    ]
    settings = {
        "cluster.name": "fraudscale",
        "node.name": "fraudscale",
        "path.home": str(data),
        "path.data": str(data / "data"),
        "path.logs": str(data / "logs"),
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "http.port": str(port),
        "transport.port": "0",  # it must listen for other nodes; there are none
        "action.auto_create_index": "fraudscale-*",
        # The usual marks are percentages, which a full laptop is above with a hundred gigabytes free.
        "cluster.routing.allocation.disk.watermark.low": "1gb",
        "cluster.routing.allocation.disk.watermark.high": "500mb",
        "cluster.routing.allocation.disk.watermark.flood_stage": "250mb",
    }
    node = Node(str(tools.jvm), tools.classpath, options, str(data / "config"), settings)
    return {
        run / "opensearch.json": msgspec.json.format(msgspec.json.encode(node)).decode(),
        log4j2: LOG4J2,
    }


def start(node: Node) -> Any:
    """Start the Java runtime in this process, and a node in it; return the node, whose `close` ends it."""
    import jpype  # noqa: PLC0415  of the group `train`; `files` must work without it

    jpype.startJVM(*node.options, jvmpath=node.jvm, classpath=[node.classpath], convertStrings=False)

    @jpype.JImplements("java.util.function.Supplier")
    class Name:
        @jpype.JOverride  # type: ignore[untyped-decorator]
        def get(self) -> str:
            return node.settings["node.name"]

    prepare = jpype.JClass("org.opensearch.node.InternalSettingsPreparer").prepareEnvironment
    no_properties = jpype.JClass("java.util.Collections").emptyMap()
    config = jpype.JClass("java.nio.file.Paths").get(node.config)
    plugins = jpype.JClass("java.util.ArrayList")()
    plugins.add(jpype.JClass("org.opensearch.transport.Netty4ModulePlugin").class_)
    environment = prepare(_settings(jpype, node.settings), no_properties, config, Name())
    made = jpype.JClass("org.codelibs.opensearch.runner.node.OpenSearchRunnerNode")(environment, plugins)
    made.start()
    return made


def _settings(jpype: Any, table: Mapping[str, str]) -> Any:
    builder = jpype.JClass("org.opensearch.common.settings.Settings").builder()
    for name, value in table.items():
        builder.put(name, value)
    return builder.build()


def main(file: Path) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit code."""
    node = msgspec.json.decode(file.read_bytes(), type=Node)
    Path(node.config).mkdir(parents=True, exist_ok=True)
    with StopSignals() as signals:
        running = start(node)
        signals.stop.wait()
        running.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
