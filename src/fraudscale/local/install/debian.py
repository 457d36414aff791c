"""Programs that a package manager has: the one on PATH, else a Debian package, unpacked without root."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fraudscale.local.install.folder import DownloadFolder, MissingComponent, machine, run

SBIN: Final = "/usr/local/sbin:/usr/sbin"
SHARE: Final = Path("/usr/share")


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
ALERTMANAGER_TEMPLATES: Final = "prometheus/alertmanager"
"""Below its `share`; builds that are not Debian's carry them inside."""
NO_NAMESPACES: Final = (
    "Debian's build reads its templates from /usr/share, and this system allows no user namespaces; "
    "install it with `apt-get install prometheus-alertmanager`"
)
LIBGOMP: Final = "libgomp1"
BESIDE: Final = {"prometheus": ("libjs-jquery",)}
"""What a package's links must find in the same tree, even if the system has it too."""


def found(wanted: Program) -> Path | None:
    """The program on PATH, or where administrators' programs are that a person's PATH often lacks."""
    paths = (shutil.which(name) or shutil.which(name, path=SBIN) for name in wanted.names)
    return next((Path(path) for path in paths if path), None)


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


class Packages:
    """Debian packages, each unpacked into a tree of its own below the folder of downloads."""

    def __init__(self, downloads: DownloadFolder) -> None:
        self._downloads = downloads
        self._lists_fresh = False

    def folder(self, package: str) -> Path:
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            release = {}
        system = f"packages-{release.get('ID', 'linux')}-{release.get('VERSION_ID', '0')}-{machine()}"
        return self._downloads.path / system / package

    def programs(self, wanted: Sequence[Program]) -> dict[Program, Path]:
        """Find or download programs.

        Raises:
            MissingComponent: with all that can't be had here.
        """
        paths = {p: path for p in wanted if (path := found(p)) is not None}
        missing = [p for p in wanted if p not in paths]
        if missing and not has_apt():
            formulas = " ".join(sorted({p.formula for p in missing}))
            raise MissingComponent(
                ", ".join(p.names[0] for p in missing),
                f"install it so that it is on PATH, for example with `brew install {formulas}`",
            )
        return paths | {p: self._tree(p.package) / p.file for p in missing}

    def libraries(self, package: str) -> str:
        """`LD_LIBRARY_PATH` for programs of a package that we unpacked; "" if we did not."""
        return _libraries(self.folder(package))

    def libgomp(self) -> Path | None:
        """Our copy of the library; None where the system has it.

        Raises:
            MissingComponent: it can't be had here.
        """
        if has_libgomp():
            return None
        if not has_apt():
            raise MissingComponent("libgomp.so.1", "install your system's package of GCC's OpenMP runtime")
        return next(self._tree(LIBGOMP).glob("usr/lib/*-linux-gnu*/libgomp.so.1"))

    def _tree(self, package: str) -> Path:
        title = f"Debian package {package}"
        return self._downloads.whole(self.folder(package), title, lambda draft: self._unpack(package, draft))

    def _unpack(self, package: str, draft: Path) -> int:
        """Download a package and what it needs and this system lacks; unpack all into one tree."""
        apt = self._apt()
        planned = run(
            [*apt, "install", "--print-uris", "-qq", "--yes", "--no-install-recommends", package], package
        )
        wanted = {package, *BESIDE.get(package, ()), *packages_in(planned)}
        run([*apt, "download", "-qq", *wanted], package, cwd=draft)
        size = 0
        for deb in draft.glob("*.deb"):
            size += deb.stat().st_size
            run(["dpkg", "-x", str(deb), str(draft)], package)
            deb.unlink()
        _check(package, draft)
        return size

    def _apt(self) -> list[str]:
        """`apt-get` on lists of our own, of the system's sources: no root, no fresh system lists needed."""
        folder = self._downloads.path / "apt"
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


def _check(package: str, tree: Path) -> None:
    """Start each program once: a library that is missing shows here and not in the middle of a start."""
    for p in PROGRAMS:
        if p.package == package:
            run([str(tree / p.file), p.version_flag], package, env=library_path(_libraries(tree)))


def _libraries(tree: Path) -> str:
    return os.pathsep.join(str(folder) for folder in sorted(tree.glob("usr/lib/*-linux-gnu*")))


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


def own_share(program: Path) -> tuple[str, ...]:
    """What stands before the command of a program from a tree of ours that opens files below /usr/share; nothing for others.

    Debian's Alertmanager opens its templates there, and has no flag for another place.
    """
    share = program.parents[1] / "share"
    return () if share == SHARE or not (share / ALERTMANAGER_TEMPLATES).is_dir() else _with_share(share)


def has_namespaces() -> bool:
    """Whether a program can be given a `/usr/share` of its own; many containers and some kernels don't allow it."""
    command = (*_with_share(SHARE), "true")
    try:
        return (
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
            == 0
        )
    except OSError:
        return False


def _with_share(share: Path) -> tuple[str, ...]:
    # The user namespace is what lets anybody make a mount namespace. Each `exec` keeps the process: number, signals, exit code.
    script = f'mount --bind "$0" {SHARE} && exec "$@"'
    return ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(share))


def library_path(folders: str) -> dict[str, str]:
    """What to add to the environment of a program whose libraries lie in these folders; nothing for none."""
    return {"LD_LIBRARY_PATH": folders} if folders else {}


def packages_in(planned: str) -> list[str]:
    """New packages among what `apt-get install --print-uris` would download.

    An upgrade of an installed one is left out: a second C library on a library path breaks the program.
    """
    names: list[str] = re.findall(r"^'[^']+' ([^_\s]+)_\S+\.deb ", planned, flags=re.MULTILINE)
    return [name for name in names if not _installed(name)]


def _installed(package: str) -> bool:
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "installed"
