"""Jars of Kafka and OpenSearch from a Maven repository, by committed lists of paths and sha256."""

import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fraudscale.config import KafkaMode
from fraudscale.local.install.folder import DownloadFolder, MissingComponent, megabytes
from fraudscale.net import NoAnswer, Server

KAFKA_VERSIONS: Final[Mapping[KafkaMode, str]] = {"kraft": "4.3.1", "zookeeper": "3.9.2"}
"""3.9 is the last line of Kafka that runs with ZooKeeper; the list of its jars brings ZooKeeper too."""
OPENSEARCH_VERSION: Final = "3.3.2"
SILENT_SECONDS: Final = 60
"""A repository that sends nothing for so long is gone."""
ATTEMPTS: Final = 3
PROGRESS_SECONDS: Final = 2.0


def jar_list(version: str, product: str = "Kafka") -> dict[str, str]:
    """Path in a Maven repository → sha256, for the class path of a version of Kafka or OpenSearch."""
    lines = Path(__file__).with_name(f"{product.lower()}-{version}.txt").read_text("utf-8").splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    return {path: digest for digest, path in rows}


def folder(downloads: DownloadFolder, version: str, product: str = "Kafka") -> Path:
    # Named by what is in it too: the folder of a list that was shorter isn't taken for this one.
    digest = hashlib.sha256("".join(jar_list(version, product).values()).encode()).hexdigest()
    return downloads.path / f"{product.lower()}-{version}-{digest[:8]}"


def jars(downloads: DownloadFolder, repository: str, version: str, product: str = "Kafka") -> Path:
    """Bring the class path of a version of Kafka or OpenSearch; return the folder.

    Raises:
        MissingComponent: it can't be had from this repository.
    """
    title = f"{product} {version}"
    return downloads.whole(
        folder(downloads, version, product),
        title,
        lambda draft: _download_all(downloads, title, repository, jar_list(version, product), draft),
    )


def _download_all(
    downloads: DownloadFolder, title: str, repository: str, wanted: Mapping[str, str], draft: Path
) -> int:
    done = size = 0
    reported = time.monotonic()
    with (
        Server(repository, seconds=SILENT_SECONDS, proxies=True) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        jobs = [pool.submit(_download, server, path, draft, digest) for path, digest in wanted.items()]
        for job in as_completed(jobs):
            done, size = done + 1, size + job.result()
            if time.monotonic() - reported > PROGRESS_SECONDS:
                downloads.say(f"{title}: {done} of {len(jobs)} files, {megabytes(size)}")
                reported = time.monotonic()
    return size


def _download(server: Server, path: str, draft: Path, digest: str) -> int:
    """Download one file, checked by its sha256; 0 bytes if an earlier run has done so."""
    target = draft / path.rpartition("/")[2]
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest:
        return 0
    content = _get(server, path)
    if (got := hashlib.sha256(content).hexdigest()) != digest:
        raise MissingComponent(
            f"{server.address}/{path}",
            f"its sha256 is {got} and not {digest}: is a proxy or mirror changing it?",
        )
    target.write_bytes(content)
    return len(content)


def _get(server: Server, path: str) -> bytes:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with server.stream("GET", f"/{path}") as answer:
                content = b"".join(answer.chunks)
            if answer.status == HTTPStatus.OK:
                return content
            cause = f"the answer is {answer.status}"
            if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                break
        except NoAnswer as error:
            cause = str(error)
        if attempt < ATTEMPTS:
            time.sleep(1)
    remedy = f"can't download it ({cause}); check the network, or set MAVEN_REPOSITORY to a mirror"
    raise MissingComponent(f"{server.address}/{path}", remedy)
