"""Examines this machine before anything is started: programs, ports, memory, disk. It starts and changes nothing."""

import json
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

from fraudscale.config import KafkaMode, KafkaSettings, LocalSettings, ModelSettings
from fraudscale.errors import FraudscaleError
from fraudscale.local.components.blueprint import external
from fraudscale.local.install import debian, java, maven, ports
from fraudscale.local.install.download import find_grafana
from fraudscale.local.install.folder import DownloadFolder

MEMORY_BYTES: Final = 4 * 1024**3
"""All components with four replicas use about 2.5 GB; training a first model beside them some more."""
DISK_BYTES: Final = 2 * 1024**3
OPEN_FILES: Final = 10_000
"""The balancer alone wants 8,216: two for each of its 4,096 connections, and some."""
WANTED_OPEN_FILES: Final = 65_536
FOLDERS: Final = {"home folder": "FRAUDSCALE_HOME", "download folder": "FRAUDSCALE_CACHE"}
"""Checks of folders, and the settings that name these."""
_ODD: Final = re.compile(r"[^A-Za-z0-9 ._/+@=~-]")
"""Means something to at least one component in whose configuration, class path or address a folder's path is written."""
JARS_SOURCE: Final[Mapping[KafkaMode, str]] = {"kraft": "Maven, 45 MB", "zookeeper": "Maven, 48 MB"}
CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Check:
    """What was looked at, and how it is."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    """What to do; "" where all is well."""


class NoRoom(FraudscaleError):
    """This machine has too little for the platform; the message says of what, and what to do."""


class UnusableFolder(NoRoom):
    """A folder that a setting names can't be used; the message says why, and what to do."""

    exit_code = 2


def examine(local: LocalSettings, model: ModelSettings, kafka: KafkaSettings) -> list[Check]:
    """Look at all that `fraudscale up` will need here."""
    downloads = DownloadFolder(local.fraudscale_cache, say=lambda _: None)
    packages = debian.Packages(downloads)
    used = external(local, model, kafka)
    unused = {*used, *(() if find_grafana() else ("grafana",))}
    return [
        _python(),
        _training(),
        *([] if "kafka" in used else [_java(downloads), _jars(downloads, local.kafka)]),
        *(_opensearch(downloads) if local.starts_opensearch else ()),
        *(_program(packages, p) for p in debian.PROGRAMS),
        _libgomp(packages),
        *_ports(ports.Ports.of(local).needed(unused, local.kafka, local.logs)),
        memory(_memory()),
        *_room(local),
    ]


def ensure_room(local: LocalSettings) -> None:
    """Refuse what would let the platform fail in the middle, before anything is written; let it open the files that it needs.

    Raises:
        UnusableFolder: the home folder or that of downloads can't be used.
        NoRoom: there are too few open files, or too little disk.
    """
    for check in _room(local):
        if not check.ok:
            kind = UnusableFolder if check.name in FOLDERS else NoRoom
            raise kind(f"{check.name}: {check.detail}; {check.remedy}")
    # The usual soft limit, 1024, is for programs that use select(); what we start inherits ours.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _room(local: LocalSettings) -> list[Check]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return [
        open_files(_limited(hard)),
        *_folder("home folder", local.fraudscale_home),
        *_folder("download folder", local.fraudscale_cache.expanduser()),
    ]


def _limited(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def open_files(limit: float) -> Check:
    """Judge the hard limit of open files of a process."""
    ok = limit >= OPEN_FILES
    remedy = "" if ok else f"{OPEN_FILES} are needed; raise the hard limit: `ulimit -Hn {OPEN_FILES}` as root"
    return Check("open files", ok, "unlimited" if limit == float("inf") else f"{limit:.0f}", remedy)


def as_json(checks: Sequence[Check]) -> str:
    """For scripts: an object with `ok` and the list of `checks`."""
    return json.dumps({"ok": all(c.ok for c in checks), "checks": [asdict(c) for c in checks]}, indent=2)


def as_text(checks: Sequence[Check]) -> str:
    """For a person: a line a check, what to do below it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'ok     ' if check.ok else 'PROBLEM'}  {check.name:{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"{'':{width + 9}}  → {check.remedy}")
    return "\n".join(lines)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, platform.python_version(), "" if ok else "install Python 3.11 or newer")


def _training() -> Check:
    missing = [name for name in ("lightgbm", "mlflow") if find_spec(name) is None]
    if not missing:
        return Check("training libraries", ok=True, detail="installed")
    return Check(
        "training libraries", ok=False, detail=f"without {', '.join(missing)}", remedy="run `make up`"
    )


def _java(downloads: DownloadFolder) -> Check:
    if (found := java.found()) is not None:
        return Check("Java", ok=True, detail=str(found))
    return _to_download("Java", java.folder(downloads), "PyPI, 108 MB")


def _jars(downloads: DownloadFolder, mode: KafkaMode) -> Check:
    version = maven.KAFKA_VERSIONS[mode]
    name = f"Kafka {version}" + (" and ZooKeeper" if mode == "zookeeper" else "")
    return _to_download(name, maven.folder(downloads, version), JARS_SOURCE[mode])


def _opensearch(downloads: DownloadFolder) -> Iterator[Check]:
    version = maven.OPENSEARCH_VERSION
    yield _to_download(
        f"OpenSearch {version}", maven.folder(downloads, version, "OpenSearch"), "Maven, 58 MB"
    )
    yield _to_download("Java for OpenSearch", java.folder(downloads), "PyPI, 108 MB")


def _program(packages: debian.Packages, wanted: debian.Program) -> Check:
    name = wanted.names[0]
    if (path := debian.found(wanted)) is not None:
        return Check(name, ok=True, detail=str(path))
    if wanted is debian.ALERTMANAGER and debian.has_apt() and not debian.has_namespaces():
        return Check(name, ok=True, detail="left out; nobody gets alerts", remedy=debian.NO_NAMESPACES)
    if debian.has_apt():
        return _to_download(name, packages.folder(wanted.package), f"Debian package {wanted.package}")
    return Check(name, ok=False, detail="not on PATH", remedy=f"install it: `brew install {wanted.formula}`")


def _libgomp(packages: debian.Packages) -> Check:
    if debian.has_libgomp():
        return Check("libgomp", ok=True, detail="installed, or not needed on this system")
    if debian.has_apt():
        return _to_download("libgomp", packages.folder(debian.LIBGOMP), f"Debian package {debian.LIBGOMP}")
    remedy = "install your system's package of GCC's OpenMP runtime"
    return Check("libgomp", ok=False, detail="missing", remedy=remedy)


def _to_download(name: str, folder: Path, source: str) -> Check:
    return Check(name, ok=True, detail=str(folder) if folder.is_dir() else f"will be downloaded ({source})")


def _ports(needed: dict[str, int]) -> Iterator[Check]:
    """One line for all that are free, one for each that is not."""
    busy = ports.taken(needed)
    for taken in busy:
        remedy = "stop that, or move all ports with FRAUDSCALE_PORT_BASE=21000"
        yield Check("port", ok=False, detail=str(taken), remedy=remedy)
    if not busy:
        yield Check(
            "ports",
            ok=True,
            detail=f"all {len(needed)} free, {min(needed.values())} to {max(needed.values())}",
        )


def memory(size: int) -> Check:
    """Judge the memory of this machine, bytes."""
    ok = size >= MEMORY_BYTES
    remedy = "" if ok else f"{_gigabytes(MEMORY_BYTES)} are needed; use a larger machine or container"
    return Check("memory", ok, _gigabytes(size), remedy)


def _memory() -> int:
    """Of this machine, or of the container it is."""
    total = psutil.virtual_memory().total
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else ""
    return min(total, int(limit)) if limit.isdigit() else total


def _folder(name: str, folder: Path) -> Iterator[Check]:
    setting = FOLDERS[name]
    there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    remedy = ""
    if odd := sorted(set(_ODD.findall(str(folder.resolve())))):
        characters = " ".join(map(repr, odd))
        remedy = f"its path may have letters, digits, spaces and ._/+@=~-, not {characters}; set {setting} to another folder"
    elif not os.access(there, os.W_OK):
        remedy = f"not writable; set {setting} to a folder of yours"
    yield Check(name, not remedy, str(folder), remedy)
    free = shutil.disk_usage(there).free
    ok = free >= DISK_BYTES
    remedy = "" if ok else f"{_gigabytes(DISK_BYTES)} are needed; free some, or set {setting}"
    yield Check(f"disk of {name}", ok, f"{_gigabytes(free)} free", remedy)


def _gigabytes(size: int) -> str:
    return f"{size / 1024**3:.1f} GB"
