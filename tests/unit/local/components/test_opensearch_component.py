import json
import os
import signal
import sys
from pathlib import Path
from unittest.mock import MagicMock

import msgspec
import pytest
from blueprints import named

from fraudscale.config import LocalSettings
from fraudscale.local import running
from fraudscale.local.components import assembly, opensearch, prometheus


def test_no_log_leaves_its_file_where_that_is_not_wanted(blueprint):
    assert not {"opensearch", "log-shipper"} & named(blueprint()).keys()
    assert "log-shipper" not in prometheus.yml(blueprint())


def test_the_shipper_waits_for_opensearch_stops_before_it_and_is_watched(with_logs):
    b = with_logs()
    components = named(b)
    shipper, store = components["log-shipper"], components["opensearch"]
    assert shipper.needs == ("opensearch",)
    assert shipper.stop_phase < store.stop_phase
    assert shipper.address in prometheus.yml(b)


@pytest.mark.parametrize(("endpoint", "ours"), [(None, True), ("https://logs.example:9200", False)])
def test_the_shipper_knows_where_the_store_is_and_whose(with_logs, monkeypatch, tmp_path, endpoint, ours):
    b = with_logs(endpoint)
    environment = named(b)["log-shipper"].env
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = LocalSettings.read()
    assert running.log_store(told) == b.log_store
    assert told.starts_opensearch is ours, "what is not ours is kept for ever"


def test_an_opensearch_of_yours_is_used_and_not_started(with_logs):
    b = with_logs("https://logs.example:9200")
    components = named(b)
    assert "opensearch" not in components
    assert (components["log-shipper"].needs, b.external["opensearch"]) == ((), "https://logs.example:9200")
    assert not any("opensearch" in path.name for path in assembly.files(b))


def test_opensearch_listens_on_this_machine_only_and_its_heap_is_bounded(with_logs):
    b = with_logs()
    node = json.loads(assembly.files(b)[b.run / "opensearch.json"])
    assert node["settings"]["network.host"] == "127.0.0.1"
    assert node["settings"]["http.port"] == str(b.ports.opensearch)
    assert {"-Xmx256m", "-Xms256m"} <= set(node["options"])
    assert node["settings"]["path.data"].startswith(str(b.data))


@pytest.fixture
def node(with_logs, monkeypatch):
    """What OpenSearch is started with, and a Java that is not there."""
    monkeypatch.setitem(sys.modules, "jpype", MagicMock())
    b = with_logs()
    return msgspec.json.decode(assembly.files(b)[b.run / "opensearch.json"], type=opensearch.Node)


def test_opensearch_starts_in_this_process_with_its_settings(node):
    java = sys.modules["jpype"]
    started = opensearch.start(node)
    started.start.assert_called_once_with()
    java.startJVM.assert_called_once_with(
        *node.options, jvmpath="/t/libjvm.so", classpath=["/t/opensearch/*"], convertStrings=False
    )
    put = java.JClass.return_value.builder.return_value.put
    assert {call.args for call in put.call_args_list} == set(node.settings.items())


def test_opensearch_runs_until_a_signal_and_is_closed(node, tmp_path, monkeypatch):
    running = MagicMock()

    def start(_):
        os.kill(os.getpid(), signal.SIGTERM)
        return running

    monkeypatch.setattr(opensearch, "start", start)
    file = tmp_path / "opensearch.json"
    file.write_bytes(msgspec.json.encode(node))
    assert opensearch.main(file) == 0
    running.close.assert_called_once_with()
    assert Path(node.config).is_dir()
