import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fraudscale.config import LocalSettings
from fraudscale.local.install import debian, download, java, maven
from fraudscale.local.install.debian import PROGRAMS, Packages
from fraudscale.local.install.download import kafka_tools


@pytest.mark.parametrize(
    ("logs", "endpoint", "brought"),
    [("none", None, False), ("opensearch", None, True), ("opensearch", "http://logs:9200", False)],
)
def test_opensearch_is_brought_where_it_is_wanted_and_there_is_none_of_yours(logs, endpoint, brought):
    assert LocalSettings(fraudscale_logs=logs, opensearch_endpoint=endpoint).starts_opensearch is brought


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_the_kafka_that_the_settings_name_is_brought(tmp_path, repository, monkeypatch, mode):
    asked = []
    jars = maven.jar_list("any")
    monkeypatch.setattr(maven, "jar_list", lambda version, _: asked.append(version) or jars)
    monkeypatch.setattr(java, "found", lambda: Path("/java"))
    settings = LocalSettings(
        fraudscale_cache=tmp_path / "cache", maven_repository=repository[1], fraudscale_kafka=mode
    )
    version = maven.KAFKA_VERSIONS[mode]
    assert kafka_tools(settings, print).classpath.startswith(f"{tmp_path / 'cache'}/kafka-{version}-")
    assert set(asked) == {version}


def test_opensearch_gets_a_java_of_ours_whatever_is_on_path(tmp_path, repository, monkeypatch):
    monkeypatch.setattr(java, "runtime", lambda _: Path("/ours"))
    settings = LocalSettings(fraudscale_cache=tmp_path / "cache", maven_repository=repository[1])
    monkeypatch.setattr(sys, "platform", "linux")
    tools = download.opensearch_tools(settings, print)
    assert tools.jvm == Path("/ours/lib/server/libjvm.so")
    assert tools.classpath.startswith(f"{tmp_path / 'cache'}/opensearch-")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert download.opensearch_tools(settings, print).jvm == Path("/ours/lib/server/libjvm.dylib")


@pytest.fixture
def machine(tmp_path, repository, monkeypatch):
    """A machine with all programs on PATH; returns what fetches for it, with lines."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for wanted in PROGRAMS:
        path = programs / wanted.names[0]
        path.write_text("#!/bin/sh\necho with prometheus-exporter\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/bin")
    monkeypatch.setattr(java, "found", lambda: Path("/java"))
    monkeypatch.setattr(debian, "has_libgomp", lambda: True)
    settings = LocalSettings(fraudscale_cache=tmp_path / "cache", maven_repository=repository[1])

    def fetch():
        lines = []
        return download.fetch_all(settings, lines.append), lines

    return SimpleNamespace(fetch=fetch, programs=programs)


def test_what_is_here_is_used_and_the_end_tells_how_much_came(machine, tmp_path):
    tools, lines = machine.fetch()
    assert tools.kafka.java == Path("/java")
    assert tools.prometheus == machine.programs / "prometheus"
    assert tools.alertmanager == machine.programs / "alertmanager"
    assert (tools.haproxy_exports, tools.haproxy_libraries, tools.opensearch, tools.grafana) == (
        True,
        "",
        None,
        None,
    )
    assert lines[-1].startswith("downloaded 0.0 MB in ")
    assert lines[-1].endswith(f" to {tmp_path / 'cache'}")
    assert machine.fetch()[1] == []


def test_an_alertmanager_that_cannot_find_its_templates_is_left_out_and_it_is_said(machine, monkeypatch):
    monkeypatch.setattr(download, "own_share", lambda _: ("unshare",))
    monkeypatch.setattr(download, "has_namespaces", lambda: False)
    tools, lines = machine.fetch()
    assert tools.alertmanager is None
    assert [line for line in lines if line.startswith("alertmanager: left out; nobody gets alerts;")]
    monkeypatch.setattr(download, "has_namespaces", lambda: True)
    assert machine.fetch()[0].alertmanager is not None


def test_libgomp_of_ours_is_loaded_and_a_systems_is_left_alone(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(download, "CDLL", lambda path, mode: loaded.append(path))
    settings = LocalSettings(fraudscale_cache=tmp_path / "cache")
    monkeypatch.setattr(Packages, "libgomp", lambda _: None)
    download.load_libgomp(settings, print)
    assert loaded == []
    monkeypatch.setattr(Packages, "libgomp", lambda _: Path("/ours/libgomp.so.1"))
    download.load_libgomp(settings, print)
    assert loaded == ["/ours/libgomp.so.1"]
