"""Real platforms, each on ports and in a folder of its own: one that tests look at, and one that they harm.

Both are started by the first test that asks, once a session, with the settings that tests of this session ask for by
`mark.platform` and `mark.harmed`. `TIME_SCALE` is one of them: scrapes, rules and the autoscaler's windows are what most
tests would wait for.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
import pytest
import yaml

from fraudscale.local import running
from fraudscale.local.install.ports import Ports, claim_block
from fraudscale.local.supervisor.machine import MARK
from sinks import MailServer, Webhook, serving

ROOT = Path(__file__).parents[2]
UP_SECONDS = 300
"""Deadline of a start on a busy machine, downloads included; not what it takes."""
FOUR = [(f"replica-{slot}", "ready") for slot in (1, 2, 3, 4)]


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
        """What `fraudscale status --json` prints, without a process for each look: looks come five times a second."""
        assert self.process is None or self.process.poll() is None, self.output()[-3000:]
        return msgspec.to_builtins(running.examine(self.home))

    def is_whole(self) -> bool:
        """Whether all is ready, with as many replicas as a start makes."""
        status = self.status()
        return status["ready"] and [(r["id"], r["state"]) for r in status["replicas"]] == FOUR

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
    running_ones = [platform for platform in made if platform.process is not None]
    for platform in running_ones:
        platform.process.send_signal(signal.SIGINT)
    for platform in running_ones:
        platform.process.wait(60)
    for platform in made:
        platform.fraudscale("down")  # what a crash left
    for block in blocks:
        block.__exit__(None, None, None)


@pytest.fixture(scope="session")
def still_fleet(tmp_path_factory) -> Path:
    """An HPA that no load reaches: a platform that is tested hard still has its four replicas for the next test."""
    hpa = yaml.safe_load((ROOT / "argocd/manifests/hpa.yaml").read_text())
    for metric in hpa["spec"]["metrics"]:
        metric["resource"]["target"]["averageUtilization"] = 10_000
    file = tmp_path_factory.mktemp("hpa") / "hpa.yaml"
    file.write_text(yaml.safe_dump(hpa))
    return file


def asked(request, mark) -> dict[str, str]:
    """The settings that marks of this name ask for, of all tests of this session."""
    found = {}
    for item in request.session.items:
        for each in item.iter_markers(mark):
            found |= each.kwargs
    return found


@pytest.fixture(scope="session")
def platform(request, new_platform, still_fleet):
    """The platform that tests look at and send transactions to."""
    platform = new_platform(TIME_SCALE="5", HPA_MANIFEST=str(still_fleet), **asked(request, "platform"))
    platform.start()
    return platform


@dataclass
class Sinks:
    """Where the alerts of the platform that tests harm go."""

    webhook: Webhook
    mail: MailServer
    at_start: list[str] = field(default_factory=list)
    """Titles of what came before the platform was ready."""

    def clear(self) -> None:
        self.webhook.messages.clear()
        self.mail.mails.clear()


@pytest.fixture(scope="session")
def sinks():
    with serving(Webhook()) as webhook, serving(MailServer()) as mail:
        yield Sinks(webhook, mail)


@pytest.fixture(scope="session")
def fragile(request, new_platform, still_fleet, sinks):
    platform = new_platform(
        HPA_MANIFEST=str(still_fleet),
        FRAUDSCALE_TRAFFIC="0",
        ALERT_WEBHOOK_URL=sinks.webhook.address,
        SMTP_SERVER=sinks.mail.address,
        ALERT_EMAIL="oncall@example.org",
        SMTP_TLS="false",
        **asked(request, "harmed"),
    )
    platform.start()
    sinks.at_start += sinks.webhook.titles
    return platform


@pytest.fixture
def harmed(fragile):
    """A platform for tests that kill, flood and scale: each gets it whole, and waits until it is whole again."""
    fragile.wait(fragile.is_whole, "the platform is whole before the test", 120)
    yield fragile
    fragile.wait(fragile.is_whole, "the platform is whole after the test", 120)
