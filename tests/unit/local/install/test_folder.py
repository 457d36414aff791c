import os
import threading
import time

import pytest

from fraudscale.local.install import maven
from fraudscale.local.install.folder import DownloadFolder, MissingComponent


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path):
    tmp_path.chmod(0o500)
    downloads = DownloadFolder(tmp_path / "cache", print)
    with pytest.raises(MissingComponent, match="FRAUDSCALE_CACHE"):
        maven.jars(downloads, "http://127.0.0.1:1", maven.KAFKA_VERSIONS["kraft"])


def test_a_cache_that_is_a_file_names_the_setting(tmp_path):
    (tmp_path / "cache").touch()
    downloads = DownloadFolder(tmp_path / "cache", print)
    with pytest.raises(MissingComponent, match="FRAUDSCALE_CACHE"):
        maven.jars(downloads, "http://127.0.0.1:1", maven.KAFKA_VERSIONS["kraft"])


def test_who_comes_second_waits_and_finds_it_made(downloads):
    lines, begun, go = [], threading.Event(), threading.Event()
    first, second = downloads(), downloads(lines)

    def make(draft):
        begun.set()
        assert go.wait(10)
        return 1

    threads = [
        threading.Thread(target=folder.whole, args=(folder.path / "kafka", "Kafka", make))
        for folder in (first, second)
    ]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    deadline = time.monotonic() + 10
    while not lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join()
    assert lines == ["kafka: another process is downloading it; waiting"]
    assert (first.downloaded, second.downloaded) == (1, 0)
