import os
import socket

import pytest

from fraudscale.config import LocalSettings, SettingsError
from fraudscale.local.install import ports
from fraudscale.local.install.ports import Ports, PortsTaken, claim_block, ensure_free, taken


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_usual_table_is_the_documented_one():
    table = Ports.at(None).named()
    assert table["entry"] == 8000
    assert table["serve-1"] == 8101
    assert table["stream-6"] == 8206
    assert (table["kafka"], table["zookeeper"]) == (9092, 2181)
    assert len(set(table.values())) == len(table)


def test_a_base_moves_every_port_into_one_block_without_doubles():
    table = Ports.at(21_000).named()
    assert table.keys() == Ports().named().keys()
    assert set(table.values()) <= set(range(21_000, 21_000 + ports.BLOCK))
    assert len(set(table.values())) == len(table)


@pytest.mark.parametrize("base", [None, 21_000])
def test_a_console_port_moves_the_console_and_nothing_else(base):
    usual = Ports.at(base).named()
    assert Ports.of(LocalSettings(fraudscale_port_base=base)).named() == usual
    moved = Ports.of(LocalSettings(fraudscale_port_base=base, console_port=8090)).named()
    assert moved == usual | {"console": 8090}


def test_a_console_port_may_be_the_consoles_own_and_no_other_components():
    assert Ports.of(LocalSettings(console_port=8080)) == Ports()
    with pytest.raises(SettingsError, match=r"^CONSOLE_PORT=9092: is the port of kafka; set another$"):
        Ports.of(LocalSettings(console_port=9092))


def test_every_replica_that_may_come_has_its_ports():
    assert len(Ports.at(21_000).serve) == len(Ports.at(21_000).stream) == ports.MAX_REPLICAS


def test_a_taken_port_is_told_with_its_part_its_holder_and_the_remedy(listener):
    with pytest.raises(PortsTaken) as refused:
        ensure_free({"kafka": listener})
    message = str(refused.value)
    assert f"port {listener} (kafka)" in message
    assert f"(pid {os.getpid()})" in message
    assert "FRAUDSCALE_PORT_BASE" in message


def test_a_holder_that_the_system_does_not_tell_is_somebody_elses(listener, monkeypatch):
    monkeypatch.setattr(ports, "_holders", dict)
    assert taken({"kafka": listener})[0].holder == "another user's process"


def test_a_port_is_free_again_as_soon_as_its_holder_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass  # closed by us: the kernel keeps it in TIME_WAIT
    assert taken({"entry": port}) == []


def test_parts_of_somebody_else_need_no_port():
    needed = Ports().needed({"kafka", "prometheus"})
    assert not {"kafka", "kafka_controller", "prometheus", "airflow"} & needed.keys()
    assert {"entry", "mlflow", "serve-6", "stream-6"} <= needed.keys()


@pytest.mark.parametrize(
    ("mode", "wanted", "other"),
    [("kraft", "kafka_controller", "zookeeper"), ("zookeeper", "zookeeper", "kafka_controller")],
)
def test_a_broker_needs_the_port_of_its_own_coordinator_only(mode, wanted, other):
    needed = Ports().needed(kafka=mode)
    assert {"kafka", wanted} <= needed.keys()
    assert other not in needed
    assert not {"kafka", wanted, other} & Ports().needed({"kafka"}, mode).keys()


def test_central_logs_need_ports_only_where_they_are_wanted():
    assert not {"opensearch", "log_shipper"} & Ports().needed().keys()
    assert {"opensearch", "log_shipper"} <= Ports().needed(logs="opensearch").keys()
    assert "opensearch" not in Ports().needed({"opensearch"}, logs="opensearch")


def test_claims_side_by_side_get_blocks_that_do_not_overlap():
    with claim_block() as first, claim_block() as second:
        assert abs(first - second) >= ports.BLOCK
        assert max(first, second) + ports.BLOCK <= 32_768


def test_a_claim_is_given_back():
    with claim_block() as first:
        pass
    with claim_block() as second:
        assert first == second
