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

from fraudscale.config import LocalSettings
from fraudscale.local import components
from fraudscale.local.fetch import KafkaTools, kafka_tools
from fraudscale.local.ports import Ports, claim_block


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=4, help="faults of the randomised chaos test")
    parser.addoption("--seed", type=int, default=None, help="of its draws; printed if not given")


class KafkaServer:
    """An Apache Kafka that a test may stop and start."""

    def __init__(self, tools: KafkaTools, ports: Ports, folder: Path) -> None:
        self.ports = ports
        """The whole claimed block: tests may listen on the rest."""
        self.bootstrap = f"127.0.0.1:{ports.kafka}"
        self._folder = folder
        self._properties = folder / "kafka.properties"
        self._log4j = folder / "log4j2.properties"
        self._log4j.write_text(components.LOG4J2)
        self._properties.write_text(components.kafka_properties(ports, folder / "data"))
        self._java = [str(tools.java), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        self._java += [f"-Dlog4j2.configurationFile={self._log4j}", "-cp", tools.classpath]
        self._process: subprocess.Popen[bytes] | None = None

    def format(self) -> None:
        command = [
            "kafka.tools.StorageTool",
            "format",
            "-t",
            components.CLUSTER_ID,
            "-c",
            str(self._properties),
        ]
        subprocess.run([*self._java, *command], check=True, capture_output=True, timeout=60)

    def start(self) -> None:
        with (self._folder / "kafka.log").open("ab") as log:
            command = [*self._java, "kafka.Kafka", str(self._properties)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "kafka.log").read_text()[-2000:]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def describe_group(self, group: str, topic: str) -> dict[int, tuple[int | None, int, int | None]]:
        """What `kafka-consumer-groups --describe` says, by partition: commit, end, lag; None where it prints "-"."""
        tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
        asked = ["--bootstrap-server", self.bootstrap, "--describe", "--offsets", "--group", group]
        done = subprocess.run(
            [*self._java, tool, *asked], check=True, capture_output=True, text=True, timeout=120
        )
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


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A running broker; a test that stops it starts it again."""
    tools = kafka_tools(LocalSettings.read(), print)
    with claim_block() as base:
        server = KafkaServer(tools, Ports.at(base), tmp_path_factory.mktemp("kafka"))
        server.format()
        try:
            server.start()
            yield server
        finally:
            server.stop()


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
