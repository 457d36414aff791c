"""Kafka on one machine: a broker that is its own controller, or one with a ZooKeeper; commands, properties, readiness."""

import base64
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final

from fraudscale.config import KafkaMode
from fraudscale.local.components.blueprint import (
    KAFKA_FOLDERS,
    OUTER_STOP_SECONDS,
    REST_PHASE,
    ZOOKEEPER_PHASE,
    Blueprint,
)
from fraudscale.local.components.ready import ASK_SECONDS, kafka_answers
from fraudscale.local.install.download import KafkaTools
from fraudscale.local.install.ports import HOST, Ports
from fraudscale.local.supervisor.component import Component

CLUSTER_ID: Final = base64.urlsafe_b64encode(b"fraudscale-local").decode().rstrip("=")
"""Kafka wants 16 bytes in base64; one machine has one cluster, so it needn't be random."""
KAFKA_MAIN: Final = "kafka.Kafka"
ZOOKEEPER_MAIN: Final = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


def components(b: Blueprint) -> list[Component]:
    return _with_kraft(b) if b.local.kafka == "kraft" else _with_zookeeper(b)


def _with_kraft(b: Blueprint) -> list[Component]:
    broker = _broker(b, needs="kafka-storage")
    if (b.kafka_data / "meta.properties").is_file():
        return [replace(broker, needs=())]
    command = java("kraft", b.tools.kafka, b.run, "kafka.tools.StorageTool", "format", "--ignore-formatted")
    command += ("-t", CLUSTER_ID, "-c", str(b.run / "kafka.properties"))
    return [Component("kafka-storage", command, once=True, stop_seconds=OUTER_STOP_SECONDS), broker]


def _with_zookeeper(b: Blueprint) -> list[Component]:
    zookeeper = Component(
        "zookeeper",
        java("zookeeper", b.tools.kafka, b.run, ZOOKEEPER_MAIN, str(b.run / "zookeeper.cfg"), heap="128m"),
        ready=lambda: zookeeper_ready(HOST, b.ports.zookeeper),
        alive=lambda: bool(_figures(HOST, b.ports.zookeeper)),
        address=f"{HOST}:{b.ports.zookeeper}",
        stop_phase=ZOOKEEPER_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )
    return [zookeeper, _broker(b, needs="zookeeper")]


def _broker(b: Blueprint, needs: str) -> Component:
    return Component(
        "kafka",
        java(b.local.kafka, b.tools.kafka, b.run, KAFKA_MAIN, str(b.run / "kafka.properties")),
        ready=lambda: kafka_answers(HOST, b.ports.kafka),
        alive=lambda: kafka_answers(HOST, b.ports.kafka),
        needs=(needs,),
        address=f"{HOST}:{b.ports.kafka}",
        stop_phase=REST_PHASE,
    )


def java(mode: KafkaMode, tools: KafkaTools, run: Path, *main: str, heap: str = "512m") -> tuple[str, ...]:
    """The command that runs a program of Kafka's class path (class and arguments), with `files` in `run`."""
    # Kafka 3.9 logs by reload4j, the successor of log4j 1.
    log4j2, log4j = run / "log4j2.properties", run / "log4j.properties"
    return (
        str(tools.java),
        f"-Xmx{heap}",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # a broker that idles most of the time: starting fast beats peak speed
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={log4j2}" if mode == "kraft" else f"-Dlog4j.configuration=file:{log4j}",
        "-cp",
        tools.classpath,
        *main,
    )


def zookeeper_ready(host: str, port: int) -> bool:
    """Whether it serves, and holds nothing of a broker that died: such a node would refuse the broker's successor."""
    figures = _figures(host, port)
    if "zk_ephemerals_count" not in figures:
        return False  # it doesn't serve yet
    connected = int(figures["zk_num_alive_connections"]) > 1  # somebody beside us
    return connected or figures["zk_ephemerals_count"] == "0"


def _figures(host: str, port: int) -> dict[str, str]:
    """What a ZooKeeper says of itself; nothing where it doesn't answer."""
    try:
        with socket.create_connection((host, port), timeout=ASK_SECONDS) as connection:
            connection.sendall(b"mntr")
            answer = connection.makefile("r", encoding="utf-8").read()
    except OSError:
        return {}
    return dict(line.split("\t", 1) for line in answer.splitlines() if "\t" in line)


def files(mode: KafkaMode, ports: Ports, run: Path, data: Path) -> dict[Path, str]:
    """The configuration files in `run` of a broker, and of its ZooKeeper, which keep their data in folders of `data`."""
    broker = {run / "kafka.properties": properties(ports, data / KAFKA_FOLDERS[mode], mode)}
    if mode == "kraft":
        return {**broker, run / "log4j2.properties": LOG4J2}
    return {
        **broker,
        run / "zookeeper.cfg": zookeeper_cfg(ports, data / "zookeeper"),
        run / "log4j.properties": LOG4J,
    }


def properties(ports: Ports, data: Path, mode: KafkaMode = "kraft") -> str:
    """`server.properties` of the only broker of its cluster, its data bounded."""
    own = _kraft_properties(ports) if mode == "kraft" else _zookeeper_properties(ports)
    return f"""\
{own}
advertised.listeners=PLAINTEXT://{HOST}:{ports.kafka}
log.dirs={data}
auto.create.topics.enable=false

# One broker holds the only copy of everything.
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1

# A dozen partitions of state instead of fifty: a start opens them all.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4

# At most a day and 64 MB a partition; small segments, because only whole ones are deleted.
log.retention.hours=24
log.retention.bytes=67108864
log.segment.bytes=16777216
log.retention.check.interval.ms=60000

# A killed Kafka consumer's partitions and transactions are free within seconds.
group.initial.rebalance.delay.ms=0
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
"""


def _kraft_properties(ports: Ports) -> str:
    """What a broker needs that is its own controller."""
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{HOST}:{ports.kafka_controller}
listeners=PLAINTEXT://{HOST}:{ports.kafka},CONTROLLER://{HOST}:{ports.kafka_controller}
controller.listener.names=CONTROLLER
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# After a crash a broker's old registration keeps the new one out until it expires: 9 s if left alone.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Members are missed within seconds. The minimum must fall together with the value, or Kafka won't start.
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=1000
"""


def _zookeeper_properties(ports: Ports) -> str:
    """What a broker needs whose metadata ZooKeeper keeps."""
    return f"""\
broker.id=1
listeners=PLAINTEXT://{HOST}:{ports.kafka}
zookeeper.connect={HOST}:{ports.zookeeper}
# After a crash a broker's old node keeps the new one out until its session ends: 18 s if left alone.
zookeeper.session.timeout.ms=3000
# There is no other broker to hand its partitions to; asking may take 5 s.
controlled.shutdown.enable=false
"""


def zookeeper_cfg(ports: Ports, data: Path) -> str:
    """`zoo.cfg` of a ZooKeeper that stands alone, its data bounded."""
    return f"""\
dataDir={data}
clientPort={ports.zookeeper}
clientPortAddress={HOST}
# Sessions last two ticks at least: at the usual 2 s the broker's would become 4 s.
tickTime=1000
# The question by which we learn whether it is ready; the rest of its commands, and its web server, stay off.
4lw.commands.whitelist=mntr
admin.enableServer=false
# Snapshots and logs are dropped every hour but for the last three; a log file begins with 1 MB instead of 64.
autopurge.snapRetainCount=3
autopurge.purgeInterval=1
preAllocSize=1024
"""


LOG4J2: Final = """\
status=error
shutdownHook=disable
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %p %c{1} %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
"""

LOG4J: Final = """\
log4j.rootLogger=WARN, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.EnhancedPatternLayout
log4j.appender.console.layout.ConversionPattern=%d{yyyy-MM-dd'T'HH:mm:ss.SSS'Z'}{UTC} %p %c{1} %m%n
log4j.logger.kafka.server.KafkaServer=INFO
"""
