import json
import socket
import subprocess
import sys

import pytest

from fraudscale.config import KafkaSettings, LocalSettings, ModelSettings
from fraudscale.local.install import debian, doctor, ports
from fraudscale.local.install.ports import claim_block


@pytest.fixture
def examine(tmp_path):
    def run(*, kafka=None, kafka_mode="kraft", **local):
        settings = {"fraudscale_cache": tmp_path / "cache", "fraudscale_home": tmp_path / "home", **local}
        settings["fraudscale_kafka"] = kafka_mode
        checks = doctor.examine(LocalSettings(**settings), ModelSettings(), KafkaSettings(**kafka or {}))
        return {check.name: check for check in checks}

    return run


def test_examining_leaves_no_trace(examine, tmp_path):
    examine()
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_a_problem_with_a_remedy(examine):
    with claim_block() as base, socket.create_server(("127.0.0.1", base)):
        check = examine(fraudscale_port_base=base)["port"]
    assert not check.ok
    assert f"port {base} (entry) is held by" in check.detail
    assert "FRAUDSCALE_PORT_BASE" in check.remedy


def test_free_ports_are_one_line(examine):
    with claim_block() as base:
        assert examine(fraudscale_port_base=base)["ports"].ok


def test_what_can_be_downloaded_is_no_problem(examine, monkeypatch):
    monkeypatch.setattr(debian, "found", lambda wanted: None)
    monkeypatch.setattr(debian, "has_apt", lambda: True)
    check = examine()["haproxy"]
    assert check.ok
    assert check.detail == "will be downloaded (Debian package haproxy)"


def test_what_cannot_be_had_is_a_problem_with_the_command_that_installs_it(examine, monkeypatch):
    monkeypatch.setattr(debian, "found", lambda wanted: None)
    monkeypatch.setattr(debian, "has_apt", lambda: False)
    check = examine()["haproxy"]
    assert not check.ok
    assert "brew install haproxy" in check.remedy


def test_an_alertmanager_that_will_be_left_out_is_no_problem_but_said(examine, monkeypatch):
    monkeypatch.setattr(debian, "found", lambda wanted: None)
    monkeypatch.setattr(debian, "has_apt", lambda: True)
    monkeypatch.setattr(debian, "has_namespaces", lambda: False)
    check = examine()["alertmanager"]
    assert (check.ok, check.detail) == (True, "left out; nobody gets alerts")
    assert "apt-get install prometheus-alertmanager" in check.remedy
    monkeypatch.setattr(debian, "has_namespaces", lambda: True)
    assert "Debian package" in examine()["alertmanager"].detail


def test_grafanas_port_is_wanted_only_where_there_is_a_grafana(examine, monkeypatch):
    with claim_block() as base:
        port = ports.Ports.at(base).grafana
        with socket.create_server(("127.0.0.1", port)):
            monkeypatch.setattr("fraudscale.local.install.doctor.find_grafana", lambda: None)
            assert examine(fraudscale_port_base=base)["ports"].ok
            monkeypatch.setattr("fraudscale.local.install.doctor.find_grafana", object)
            assert f"port {port} (grafana)" in examine(fraudscale_port_base=base)["port"].detail


def test_the_consoles_port_is_the_one_that_is_set(examine):
    with claim_block() as base, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert (
            f"port {port} (console)" in examine(fraudscale_port_base=base, console_port=port)["port"].detail
        )


def test_a_kafka_of_somebody_else_needs_no_java(examine):
    assert "Java" in examine()
    assert "Java" not in examine(kafka={"kafka_bootstrap_servers": "broker:9092"})


def test_kafka_with_zookeeper_is_told_with_its_download_and_its_port(examine):
    assert "Kafka 4.3.1" in examine()
    with claim_block() as base:
        port = ports.Ports.at(base).zookeeper
        with socket.create_server(("127.0.0.1", port)):
            checks = examine(kafka_mode="zookeeper", fraudscale_port_base=base)
            assert "ports" in examine(fraudscale_port_base=base), "KRaft needs no such port"
    assert checks["Kafka 3.9.2 and ZooKeeper"].detail == "will be downloaded (Maven, 48 MB)"
    assert "Kafka 4.3.1" not in checks
    assert f"port {port} (zookeeper) is held by" in checks["port"].detail


def test_too_little_memory_is_a_problem():
    assert not doctor.memory(doctor.MEMORY_BYTES - 1).ok
    assert doctor.memory(doctor.MEMORY_BYTES).ok


def test_the_limit_of_a_container_counts_as_its_memory(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    monkeypatch.setattr(doctor, "CGROUP_LIMIT", limit)
    assert doctor._memory() == 1024**3
    limit.write_text("max\n")
    assert doctor._memory() > 1024**3


def test_a_full_disk_is_a_problem(examine, monkeypatch):
    usage = type("Usage", (), {"free": 1024**3})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    check = examine()["disk of home folder"]
    assert not check.ok
    assert check.detail == "1.0 GB free"


@pytest.mark.parametrize("setting", ["fraudscale_home", "fraudscale_cache"])
def test_a_path_that_some_component_would_read_otherwise_is_refused(tmp_path, setting):
    name = {"fraudscale_home": "home folder", "fraudscale_cache": "download folder"}[setting]
    for character in [*",:;%#?*[]{}$&'\"`\\|<>()!", "é"]:
        folders = {"fraudscale_home": tmp_path, "fraudscale_cache": tmp_path}
        local = LocalSettings(**folders | {setting: tmp_path / f"a{character}b"})
        with pytest.raises(doctor.UnusableFolder) as caught:
            doctor.ensure_room(local)
        said = str(caught.value)
        assert said.startswith(f"{name}: ")
        assert f"not {character!r}; set {setting.upper()} to another folder" in said
        assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_spaces_is_fine(examine, tmp_path):
    assert examine(fraudscale_home=tmp_path / "My Files/v1.0_a-b+c@d=e~f")["home folder"].ok


def test_too_few_open_files_are_a_problem():
    assert not doctor.open_files(doctor.OPEN_FILES - 1).ok
    assert doctor.open_files(doctor.OPEN_FILES).ok
    assert doctor.open_files(float("inf")).detail == "unlimited"


def limited(limits, program, tmp_path):
    """A program of ours under limits of open files that a shell sets first."""
    head = (
        "import resource, pathlib, sys; from fraudscale.config import LocalSettings; from fraudscale.local.install import doctor;"
        "home = pathlib.Path(sys.argv[1]); local = LocalSettings(fraudscale_home=home, fraudscale_cache=home);"
    )
    command = ["sh", "-c", f'{limits}; exec "$@"', "sh", sys.executable, "-c", head + program, tmp_path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_soft_limit_of_open_files_is_raised_for_all_that_is_started(tmp_path):
    program = "doctor.ensure_room(local); print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    done = limited("ulimit -Sn 1024 && ulimit -Hn 12000", program, tmp_path)
    assert (done.stdout.split(), done.stderr) == (["12000", "12000"], "")


def test_a_hard_limit_of_open_files_that_is_too_low_is_said_by_the_doctor(tmp_path):
    done = limited("ulimit -n 256", "print(*doctor._room(local), sep='\\n')", tmp_path)
    assert "name='open files', ok=False, detail='256'" in done.stdout


def test_the_table_shows_problems_and_remedies_and_json_says_the_same():
    checks = [
        doctor.Check("a", ok=True, detail="fine"),
        doctor.Check("bb", ok=False, detail="bad", remedy="do it"),
    ]
    text = doctor.as_text(checks)
    assert text.splitlines() == ["ok       a   fine", "PROBLEM  bb  bad", "             → do it"]
    assert json.loads(doctor.as_json(checks))["ok"] is False
