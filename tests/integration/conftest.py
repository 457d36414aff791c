"""Real components for the tests beside: started once per session, on ports of their own."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from fraudscale.config import KafkaMode, LocalSettings
from fraudscale.local.components import assembly, opensearch
from fraudscale.local.components import kafka as broker
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.debian import AMTOOL, PROMTOOL, Program
from fraudscale.local.install.download import (
    KafkaTools,
    OpenSearchTools,
    kafka_tools,
    opensearch_tools,
    program,
)
from fraudscale.local.install.ports import Ports, claim_block


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=4, help="faults of the randomised chaos test")
    parser.addoption("--requests", type=int, default=20_000, help="of the long run against all HTTP servers")
    parser.addoption("--seed", type=int, default=None, help="of the draws of both; printed if not given")


class KafkaServer:
    """An Apache Kafka that a test may stop and start: what `fraudscale up` runs, on ports of its own."""

    def __init__(self, tools: KafkaTools, ports: Ports, folder: Path, mode: KafkaMode = "kraft") -> None:
        self.ports = ports
        """The whole claimed block: tests may listen on the rest."""
        self.bootstrap = f"127.0.0.1:{ports.kafka}"
        self._tools = tools
        self._folder = folder
        self._mode = mode
        for path, content in broker.files(mode, ports, folder, folder / "data").items():
            assembly.write(path, content)
        self._zookeeper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def format(self) -> None:
        """Make what a first start needs: the broker's folder, or a ZooKeeper that runs until `close`."""
        if self._mode == "zookeeper":
            self._zookeeper = self._run(broker.ZOOKEEPER_MAIN, "zookeeper.cfg")
            return
        options = ["-t", broker.CLUSTER_ID, "-c", str(self._folder / "kafka.properties")]
        command = broker.java(
            self._mode, self._tools, self._folder, "kafka.tools.StorageTool", "format", *options
        )
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def start(self) -> None:
        deadline = time.monotonic() + 60
        self._process = self._run(broker.KAFKA_MAIN, "kafka.properties")
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "kafka.log").read_text()[-2000:]
            # ZooKeeper refuses it while the node of its killed predecessor lives: it ends, and a supervisor tries again
            if self._process.poll() is not None:
                self._process = self._run(broker.KAFKA_MAIN, "kafka.properties")

    def stop(self) -> None:
        self._process = _killed(self._process)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It runs and does nothing: its controller takes it for dead, as on a machine that has no time for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        self._zookeeper = _killed(self._zookeeper)

    def _run(self, main: str, file: str) -> subprocess.Popen[bytes]:
        command = broker.java(self._mode, self._tools, self._folder, main, str(self._folder / file))
        with (self._folder / "kafka.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def describe_group(self, group: str, topic: str) -> dict[int, tuple[int | None, int, int | None]]:
        """What `kafka-consumer-groups --describe` says, by partition: commit, end, lag; None where it prints "-"."""
        tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
        asked = ["--bootstrap-server", self.bootstrap, "--describe", "--offsets", "--group", group]
        command = broker.java(self._mode, self._tools, self._folder, tool, *asked)
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        rows = [line.split() for line in done.stdout.splitlines() if line.startswith(group)]
        assert rows, done.stdout + done.stderr
        return {
            int(partition): (number(commit), int(end), number(lag))
            for _, found, partition, commit, end, lag, *_ in rows
            if found == topic
        }

    def _answers(self) -> bool:
        try:
            return bool(
                AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(timeout=1)
            )
        except KafkaException:
            return False


def number(text: str) -> int | None:
    return None if text == "-" else int(text)


def _killed(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait(10)


@contextlib.contextmanager
def running_kafka(mode: KafkaMode, folder: Path) -> Iterator[KafkaServer]:
    tools = kafka_tools(LocalSettings.read(fraudscale_kafka=mode), print)
    with claim_block() as base:
        server = KafkaServer(tools, Ports.at(base), folder, mode)
        try:
            server.format()
            server.start()
            yield server
        finally:
            server.close()


@pytest.fixture(scope="session")
def kafka_with_kraft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with running_kafka("kraft", tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_with_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with running_kafka("zookeeper", tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> KafkaServer:
    """A running broker, of the mode that `KAFKA` or a parameter names; a test that stops it starts it again."""
    mode = getattr(request, "param", LocalSettings.read().kafka)
    return request.getfixturevalue(f"kafka_with_{mode}")


class MlflowServer:
    """A real MLflow server on SQLite; it keeps what it knows when it is stopped and started."""

    def __init__(self, folder, port):
        self.uri = f"http://127.0.0.1:{port}"
        self._folder, self._port, self._process = folder, port, None

    def start(self):
        quiet = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | quiet,
                start_new_session=True,
            )
        self._wait_until_ready()

    def stop(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def stopped(self):
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _wait_until_ready(self):
        deadline = time.monotonic() + 120
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "log").read_text()[-2000:]
                self.stop()
                pytest.fail(f"MLflow didn't start:\n{log}")
            time.sleep(0.2)

    def _is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """A running registry for all tests of the session: `uri`, `stopped()`; names of models keep tests apart."""
    with claim_block() as base:
        server = MlflowServer(tmp_path_factory.mktemp("mlflow"), Ports.at(base).mlflow)
        server.start()
        yield server
        server.stop()


class OpenSearchServer:
    """A real OpenSearch, as `up` runs it; it keeps what it knows when it is killed and started."""

    def __init__(self, tools: OpenSearchTools, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        for path, content in opensearch.files(tools, port, folder, folder / "data").items():
            assembly.write(path, content)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "fraudscale.local.components.opensearch",
            str(self._folder / "opensearch.json"),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not http_ok(f"{self.url}/_cluster/health"):
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def kill(self) -> None:
        self._process = _killed(self._process)


@pytest.fixture(scope="session")
def opensearch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSearchServer]:
    """A running OpenSearch; a test that kills it starts it again."""
    tools = opensearch_tools(LocalSettings.read(), print)
    with claim_block() as base:
        server = OpenSearchServer(tools, tmp_path_factory.mktemp("opensearch"), Ports.at(base).opensearch)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _runner(wanted: Program):
    path = program(LocalSettings.read(), wanted, print)

    def run(*arguments: str) -> tuple[int, str]:
        # A fifth of its work is collecting garbage, of which it makes little.
        frugal = os.environ | {"GOGC": "400"}
        done = subprocess.run(
            [path, *arguments], env=frugal, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def promtool():
    """`promtool(*arguments) -> (exit code, output)`."""
    return _runner(PROMTOOL)


@pytest.fixture(scope="session")
def amtool():
    """`amtool(*arguments) -> (exit code, output)`."""
    return _runner(AMTOOL)
