"""Brings what one machine lacks: Java, Kafka's and OpenSearch's jars, Prometheus and its companions, HAProxy, libgomp.

What is on PATH is used; the rest is downloaded once into the user's cache, without root and without system services.
"""

import shutil
import sys
from ctypes import CDLL, RTLD_GLOBAL
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fraudscale.config import LocalSettings
from fraudscale.local.install import java, maven
from fraudscale.local.install.debian import (
    ALERTMANAGER,
    HAPROXY,
    NO_NAMESPACES,
    NODE_EXPORTER,
    PROGRAMS,
    PROMETHEUS,
    Packages,
    Program,
    found,
    has_namespaces,
    library_path,
    own_share,
)
from fraudscale.local.install.folder import DownloadFolder, Say, megabytes, run


@dataclass(frozen=True)
class KafkaTools:
    """What runs a broker."""

    java: Path
    classpath: str
    """For `java -cp`: every jar of one folder."""


@dataclass(frozen=True)
class OpenSearchTools:
    """What runs OpenSearch inside a Python process."""

    jvm: Path
    """The library of the Java runtime that we bring: OpenSearch 3 wants a newer one than many systems have."""
    classpath: str


class Grafana(NamedTuple):
    """An installed one; none is downloaded."""

    program: Path
    home: Path
    """Where its pages and defaults are."""


@dataclass(frozen=True)
class Tools:
    """Where everything is that one machine needs beside Python."""

    kafka: KafkaTools
    prometheus: Path
    alertmanager: Path | None
    """None where it can't be started; then the console shows alerts, and nobody gets them."""
    node_exporter: Path
    haproxy: Path
    haproxy_libraries: str
    """`LD_LIBRARY_PATH` of HAProxy; "" where the system has all it needs."""
    haproxy_exports: bool
    """Whether this HAProxy was built with the Prometheus exporter."""
    opensearch: OpenSearchTools | None = None
    """None where central logs are off, or kept by an OpenSearch of yours."""
    grafana: Grafana | None = None
    """Only if it is here anyway."""


def fetch_all(settings: LocalSettings, say: Say) -> Tools:
    """Find or download everything; a line each for what took time, and one in the end.

    Raises:
        MissingComponent: something can't be had here; the message says how to install it.
    """
    downloads = DownloadFolder(settings.fraudscale_cache, say)
    packages = Packages(downloads)
    kafka = _kafka(settings, downloads)
    paths = packages.programs(PROGRAMS)
    libraries = "" if found(HAPROXY) else packages.libraries(HAPROXY.package)
    tools = Tools(
        kafka=kafka,
        prometheus=paths[PROMETHEUS],
        alertmanager=_alertmanager(paths[ALERTMANAGER], say),
        node_exporter=paths[NODE_EXPORTER],
        haproxy=paths[HAPROXY],
        haproxy_libraries=libraries,
        haproxy_exports=_exports(paths[HAPROXY], libraries),
        opensearch=_opensearch(settings, downloads) if settings.starts_opensearch else None,
        grafana=find_grafana(),
    )
    packages.libgomp()
    if downloads.downloaded:
        say(f"downloaded {megabytes(downloads.downloaded)} in {downloads.seconds:.1f} s to {downloads.path}")
    return tools


def kafka_tools(settings: LocalSettings, say: Say) -> KafkaTools:
    """Find or download only Java and the jars of the Kafka that the settings name.

    Raises:
        MissingComponent: they can't be had here.
    """
    return _kafka(settings, DownloadFolder(settings.fraudscale_cache, say))


def opensearch_tools(settings: LocalSettings, say: Say) -> OpenSearchTools:
    """Find or download only what OpenSearch needs.

    Raises:
        MissingComponent: it can't be had here.
    """
    return _opensearch(settings, DownloadFolder(settings.fraudscale_cache, say))


def load_libgomp(settings: LocalSettings, say: Say) -> None:
    """Make LightGBM importable in this process, where the system lacks libgomp: bring it and load it.

    The linker takes a library that is loaded already for one of the same name, so no `LD_LIBRARY_PATH` is needed.

    Raises:
        MissingComponent: it can't be had here.
    """
    packages = Packages(DownloadFolder(settings.fraudscale_cache, say))
    if (library := packages.libgomp()) is not None:
        CDLL(str(library), mode=RTLD_GLOBAL)


def program(settings: LocalSettings, wanted: Program, say: Say) -> Path:
    """Find or download one program, such as `PROMTOOL`.

    Raises:
        MissingComponent: it can't be had here.
    """
    return Packages(DownloadFolder(settings.fraudscale_cache, say)).programs((wanted,))[wanted]


def find_grafana() -> Grafana | None:
    """Look for a Grafana on PATH; None where there is none, or it can't be told where its files are."""
    path = shutil.which("grafana")
    if path is None:
        return None
    prefix = Path(path).resolve().parents[1]
    homes = (prefix, prefix / "share" / "grafana", Path("/usr/share/grafana"))
    home = next((home for home in homes if (home / "conf" / "defaults.ini").is_file()), None)
    return Grafana(Path(path), home) if home else None


def _kafka(settings: LocalSettings, downloads: DownloadFolder) -> KafkaTools:
    program = java.found() or java.runtime(downloads) / "bin/java"
    version = maven.KAFKA_VERSIONS[settings.kafka]
    return KafkaTools(program, f"{maven.jars(downloads, settings.maven_repository, version)}/*")


def _opensearch(settings: LocalSettings, downloads: DownloadFolder) -> OpenSearchTools:
    library = "libjvm.dylib" if sys.platform == "darwin" else "libjvm.so"
    jars = maven.jars(downloads, settings.maven_repository, maven.OPENSEARCH_VERSION, "OpenSearch")
    return OpenSearchTools(java.runtime(downloads) / "lib/server" / library, f"{jars}/*")


def _alertmanager(program: Path, say: Say) -> Path | None:
    if not own_share(program) or has_namespaces():
        return program
    say(f"alertmanager: left out; nobody gets alerts; {NO_NAMESPACES}")
    return None


def _exports(haproxy: Path, libraries: str) -> bool:
    return "prometheus-exporter" in run([str(haproxy), "-vv"], "haproxy", env=library_path(libraries))
