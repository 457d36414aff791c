"""A Maven repository and a Debian of this machine's own, and one that has nothing."""

import hashlib
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fraudscale.local.install import debian, maven
from fraudscale.local.install.folder import DownloadFolder

JARS = {"org/a/a-1.jar": b"first", "org/b/b-2.jar": b"second"}
APT_GET = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
  *--print-uris*) echo "'http://d/{package}_1_amd64.deb' {package}_1_amd64.deb 5 MD5Sum:1"
                  echo "'http://d/liblua_1_amd64.deb' liblua_1_amd64.deb 5 "
                  echo "'http://d/libc6_1_amd64.deb' libc6_1_amd64.deb 5 " ;;
  *download*) for name in "$@"; do case $name in haproxy|liblua|libc6|libgomp1) echo $name > "$name.deb" ;; esac; done ;;
esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/sbin" "$3/usr/lib/x86_64-linux-gnu"
case $(cat "$2") in
  haproxy) printf '#!/bin/sh\\necho "$LD_LIBRARY_PATH" > "$0.started"\\n{starts}\\n' > "$3/usr/sbin/haproxy"
           chmod +x "$3/usr/sbin/haproxy" ;;
  libgomp1) echo > "$3/usr/lib/x86_64-linux-gnu/libgomp.so.1" ;;
esac
"""


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
    monkeypatch.setattr(maven, "jar_list", lambda version, product="Kafka": digests)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def downloads(tmp_path):
    """Makes a folder of downloads that tells its lines to a list."""
    return lambda lines=None: DownloadFolder(tmp_path / "cache", ([] if lines is None else lines).append)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any of the programs, and without apt."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian, "SBIN", str(tmp_path))


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """A Debian whose packages are scripts: `apt(package)` returns the file with the calls of apt-get."""
    monkeypatch.setattr(debian, "found", lambda _: None)

    def install(package, starts="exit 0"):
        programs, log = tmp_path / "bin", tmp_path / "apt.log"
        programs.mkdir()
        for name, text in {
            "apt-get": APT_GET.format(log=log, package=package),
            "dpkg": DPKG.format(starts=starts),
            "dpkg-query": '#!/bin/sh\n[ "$3" = libc6 ] && printf installed\nexit 0\n',
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        return log

    return install
