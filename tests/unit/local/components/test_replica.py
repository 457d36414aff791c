from blueprints import named

from fraudscale.config import ReplicaSettings
from fraudscale.local.components import assembly, replica
from fraudscale.local.install.ports import Ports


def test_a_first_start_waits_for_the_first_model(blueprint):
    components = named(blueprint())
    assert components["first-model"].needs == ("mlflow",)
    assert components["first-model"].once
    assert "first-model" in components["replica-1/serve"].needs


def test_a_later_start_does_not_wait_for_the_registry(blueprint, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "current.json").touch()
    components = named(blueprint())
    assert components["replica-1/serve"].needs == ()
    assert components["replica-1/stream"].needs == ("topics",)


def test_processes_are_told_the_moved_addresses(blueprint):
    env = named(blueprint())["replica-2/serve"].env
    assert env["REPLICA_ID"] == "replica-2"
    assert env["HTTP_PORT"] == "21012"
    assert env["KAFKA_BOOTSTRAP_SERVERS"] == f"127.0.0.1:{Ports.at(21_000).kafka}"


def test_both_processes_of_a_replica_and_the_balancer_know_the_run(blueprint):
    b = blueprint()
    assert {c.env["FRAUDSCALE_RUN"] for c in replica.components(b, 2)} == {b.run_id}
    (cfg,) = [text for path, text in assembly.files(b).items() if path.name == "haproxy.cfg"]
    assert f"%[srv_name]@{b.run_id}" in cfg
    assert (
        ReplicaSettings(replica_id="replica-2", fraudscale_run=b.run_id).identity == f"replica-2@{b.run_id}"
    )
    assert b.run_id != blueprint().run_id


def test_a_replica_is_told_whom_to_trust(blueprint):
    def trust(**http):
        env = replica.components(blueprint(http=http), 1)[0].env
        return env["TRUSTED_PROXIES"], env["TRUSTED_CLIENTS"]

    assert trust() == ("127.0.0.1", "127.0.0.1")
    assert trust(trusted_clients="") == ("127.0.0.1", "")
    assert trust(trusted_proxies="10.0.0.0/8", trusted_clients="10.1.0.0/16") == (
        "127.0.0.1,10.0.0.0/8",
        "10.1.0.0/16",
    )


def test_each_process_is_told_the_request_of_its_container(blueprint):
    b = blueprint()
    for half in ("serve", "stream"):
        told = named(b)[f"replica-1/{half}"].env["CPU_REQUEST_MILLICORES"]
        assert int(told) == b.scaling.requests[half]["cpu"]
