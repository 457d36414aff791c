import socket
import threading
from pathlib import Path

import pytest
from blueprints import named

from fraudscale.config import (
    SettingsError,
)
from fraudscale.local.components import assembly, kafka
from fraudscale.local.install.ports import Ports


def test_storage_is_formatted_once(blueprint, tmp_path):
    assert named(blueprint())["kafka"].needs == ("kafka-storage",)
    (tmp_path / "data" / "kafka").mkdir(parents=True)
    (tmp_path / "data" / "kafka" / "meta.properties").touch()
    components = named(blueprint())
    assert "kafka-storage" not in components
    assert components["kafka"].needs == ()


def test_kafka_waits_for_its_zookeeper_and_stops_before_it(blueprint):
    components = named(blueprint(mode="zookeeper"))
    zookeeper, kafka = components["zookeeper"], components["kafka"]
    assert "kafka-storage" not in components
    assert kafka.needs == ("zookeeper",)
    assert zookeeper.stop_phase > max(p.stop_phase for p in components.values() if p is not zookeeper)
    assert (zookeeper.address, kafka.address) == (
        f"127.0.0.1:{Ports.at(21_000).zookeeper}",
        f"127.0.0.1:{Ports.at(21_000).kafka}",
    )
    assert "zookeeper" not in named(blueprint())


def test_each_kind_of_broker_keeps_data_of_its_own(blueprint):
    folders = {}
    for mode in ("kraft", "zookeeper"):
        b = blueprint(mode=mode)
        assembly.prepare(b)
        lines = (b.run / "kafka.properties").read_text().splitlines()
        (folders[mode],) = [line.partition("=")[2] for line in lines if line.startswith("log.dirs=")]
        assert Path(folders[mode]).is_dir()
    assert folders["kraft"] != folders["zookeeper"]


def test_a_killed_broker_is_forgotten_within_seconds_and_zookeeper_lets_it():
    def values(text):
        return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))

    session = int(values(kafka.properties(Ports(), Path("/d"), "zookeeper"))["zookeeper.session.timeout.ms"])
    tick = int(values(kafka.zookeeper_cfg(Ports(), Path("/z")))["tickTime"])
    assert 2 * tick <= session <= 3000, "ZooKeeper grants no session below two ticks"


def test_a_broker_of_ours_and_one_of_yours_are_a_contradiction(blueprint):
    yours = {"kafka_bootstrap_servers": "broker:9092"}
    with pytest.raises(
        SettingsError, match=r"FRAUDSCALE_KAFKA='zookeeper'.*KAFKA_BOOTSTRAP_SERVERS='broker:9092'"
    ):
        assembly.components(blueprint(mode="zookeeper", kafka=yours))


@pytest.fixture
def zookeeper_that_says():
    """Answers each question with a text, and ends the connection, as ZooKeeper does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def ask(answer):
            def serve():
                with server.accept()[0] as connection:
                    assert connection.recv(10) == b"mntr"
                    connection.sendall(answer.encode())

            thread = threading.Thread(target=serve)
            thread.start()
            ready = kafka.zookeeper_ready(*server.getsockname())
            thread.join()
            return ready

        yield ask


@pytest.mark.parametrize(
    ("connections", "ephemerals", "ready"),
    [(1, 0, True), (2, 4, True), (1, 4, False)],
    ids=["nobody yet", "a broker", "a broker that died"],
)
def test_zookeeper_is_ready_unless_it_holds_nodes_of_a_broker_that_is_gone(
    zookeeper_that_says, connections, ephemerals, ready
):
    figures = {
        "zk_version": "3.8.6-…, built on 2026-01-01",
        "zk_server_state": "standalone",
        "zk_num_alive_connections": connections,
        "zk_ephemerals_count": ephemerals,
    }
    text = "".join(f"{name}\t{value}\n" for name, value in figures.items())
    assert zookeeper_that_says(text) is ready


def test_a_zookeeper_that_does_not_serve_yet_is_not_ready(zookeeper_that_says):
    assert not zookeeper_that_says("This ZooKeeper instance is not currently serving requests\n")


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_data_of_kafka_is_bounded(mode):
    properties = kafka.properties(Ports(), Path("/d"), mode)
    assert {"log.retention.hours=24", "log.retention.bytes=67108864"} <= set(properties.splitlines())


def test_data_of_zookeeper_is_bounded():
    cfg = kafka.zookeeper_cfg(Ports(), Path("/z"))
    assert {"autopurge.snapRetainCount=3", "autopurge.purgeInterval=1"} <= set(cfg.splitlines())


def test_group_session_limits_fall_together_or_kafka_would_not_start():
    lines = kafka.properties(Ports(), Path("/d")).splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name in ("session.timeout", "heartbeat.interval"):
        assert int(values[f"group.consumer.min.{name}.ms"]) <= int(values[f"group.consumer.{name}.ms"])
