"""The real platform, started once for all tests of a session, on ports and in a folder of its own."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fraudscale.local.install.ports import Ports, claim_block
from fraudscale.local.supervisor.machine import MARK

ROOT = Path(__file__).parents[2]
UP_SECONDS = 300
"""Deadline of a start on a busy machine, downloads included; not what it takes."""


class Platform:
    """A `fraudscale up` in a folder of its own, and what a person would do with it."""

    def __init__(self, home: Path, base: int, **settings: str) -> None:
        self.home = home
        self.ports = Ports.at(base)
        self.env = os.environ | {
            "FRAUDSCALE_HOME": str(home),
            "FRAUDSCALE_PORT_BASE": str(base),
            **settings,
        }
        self._output = home.with_name(f"{home.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command("up"),
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.wait(lambda: self.status()["ready"], "the platform is ready", UP_SECONDS)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "fraudscale.cli", *arguments]

    def fraudscale(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def status(self) -> dict:
        assert self.process is None or self.process.poll() is None, self.output()[-3000:]
        return json.loads(self.fraudscale("status", "--json").stdout)

    def stop(self, which: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(which)
        code = self.process.wait(60)
        self.process = None
        return code

    def output(self) -> str:
        return self._output.read_text()

    def ask(self, method: str, path: str, body: object = None, port: int | None = None, retries: int = 0):
        """Return status and decoded body of one request to the entry, or to a port."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.ports.entry, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in answer.headers["content-type"] else text
        finally:
            connection.close()

    def query(self, expression: str) -> list[dict]:
        """Ask Prometheus for an instant vector."""
        from urllib.parse import quote

        status, answer = self.ask(
            "GET", f"/api/v1/query?query={quote(expression)}", port=self.ports.prometheus
        )
        assert status == 200, answer
        return answer["data"]["result"]

    def processes(self) -> list[psutil.Process]:
        """Every process that carries the mark of this platform."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.home.resolve()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @staticmethod
    def wait(condition: Callable[[], object], what: str, seconds: float = 60):
        """Wait until a condition holds, and return what it returned."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="session")
def new_platform(tmp_path_factory):
    """Make platforms that are not started yet; all of them are down at the end."""
    made = []
    blocks = []

    def make(**settings: str) -> Platform:
        block = claim_block()
        blocks.append(block)
        platform = Platform(tmp_path_factory.mktemp("platform"), block.__enter__(), **settings)
        made.append(platform)
        return platform

    yield make
    for platform in made:
        if platform.process is not None:
            platform.stop()
        platform.fraudscale("down")
    for block in blocks:
        block.__exit__(None, None, None)


@pytest.fixture(scope="session")
def platform(new_platform):
    """The platform that the tests of a session share; a test leaves it ready."""
    platform = new_platform()
    platform.start()
    return platform
