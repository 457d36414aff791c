import json

from blueprints import named

from fraudscale.local.components import assembly, prometheus


def test_no_log_leaves_its_file_where_that_is_not_wanted(blueprint):
    assert not {"opensearch", "log-shipper"} & named(blueprint()).keys()
    assert "log-shipper" not in prometheus.yml(blueprint())


def test_the_shipper_waits_for_opensearch_stops_before_it_and_is_watched(with_logs):
    b = with_logs()
    components = named(b)
    shipper, store = components["log-shipper"], components["opensearch"]
    assert shipper.needs == ("opensearch",)
    assert shipper.env["OPENSEARCH_ENDPOINT"] == store.address
    assert shipper.stop_phase < store.stop_phase
    assert shipper.address in prometheus.yml(b)


def test_an_opensearch_of_yours_is_used_and_not_started(with_logs):
    b = with_logs("https://logs.example:9200")
    components = named(b)
    assert "opensearch" not in components
    assert (components["log-shipper"].needs, b.external["opensearch"]) == ((), "https://logs.example:9200")
    assert components["log-shipper"].env["OPENSEARCH_ENDPOINT"] == "https://logs.example:9200"
    assert not any("opensearch" in path.name for path in assembly.files(b))


def test_opensearch_listens_on_this_machine_only_and_its_heap_is_bounded(with_logs):
    b = with_logs()
    node = json.loads(assembly.files(b)[b.run / "opensearch.json"])
    assert node["settings"]["network.host"] == "127.0.0.1"
    assert node["settings"]["http.port"] == str(b.ports.opensearch)
    assert {"-Xmx256m", "-Xms256m"} <= set(node["options"])
    assert node["settings"]["path.data"].startswith(str(b.data))
