"""The platform on Kafka 3.9 with ZooKeeper instead of KRaft: `make up KAFKA=zookeeper`."""

import json

import pytest
from confluent_kafka import Producer
from test_platform import EXAMPLE, read


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FRAUDSCALE_KAFKA": "zk"}, "FRAUDSCALE_KAFKA='zk': Input should be 'kraft' or 'zookeeper'"),
        (
            {"FRAUDSCALE_KAFKA": "zookeeper", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"},
            "leave one of them out",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(new_platform, settings, message):
    refused = new_platform().fraudscale("up", **settings)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert message in refused.stderr


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.timeout(1200)
def test_the_platform_runs_on_zookeeper_survives_a_crash_and_leaves_nothing(new_platform):
    platform = new_platform(FRAUDSCALE_KAFKA="zookeeper", FRAUDSCALE_TRAFFIC="0")
    platform.start()
    components = {c["name"]: c for c in platform.status()["components"]}
    assert components["zookeeper"]["address"] == f"127.0.0.1:{platform.ports.zookeeper}"
    assert {c["state"] for c in components.values()} == {"ready"}
    score(platform, "before")

    platform.process.kill()  # nobody is left to stop the parts: the broker's node stays in ZooKeeper
    platform.process.wait()
    platform.process = None
    platform.start()
    score(platform, "after")
    assert {m.key() for m in scored(platform, 2)} == {b"before", b"after"}

    assert platform.stop() == 0
    assert platform.processes() == []
    ended = [json.loads(line) for line in (platform.home / "logs/supervisor.log").read_text().splitlines()]
    ended = [line["part"] for line in ended if line["event"] in {"part_stopped", "part_killed"}]
    assert ended[-1] == "zookeeper", "the broker needs it to end well"
    assert {"data/zookeeper", "data/kafka-zookeeper"} <= {
        str(p.relative_to(platform.home)) for p in platform.home.glob("data/*")
    }
    assert not (platform.home / "data/kafka").exists(), "KRaft's data are not touched"


def score(platform, id_):
    """Send a transaction, and see its score."""
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{platform.ports.kafka}"})
    producer.produce("transactions", json.dumps(EXAMPLE | {"transaction_id": id_}), key=id_)
    assert producer.flush(60) == 0
    read(f"127.0.0.1:{platform.ports.kafka}", "transactions.scored", lambda m: m.key() == id_.encode(), 1)


def scored(platform, count):
    return read(f"127.0.0.1:{platform.ports.kafka}", "transactions.scored", lambda _: True, count)
