"""What a benchmark starts is ended so that the next candidate meets a calm broker."""

import subprocess
import sys
from pathlib import Path

import pytest
from chaos import Flow, Observer
from test_stream_kafka import wait_for

from fraudscale.config import KafkaSettings
from fraudscale.kafka.topics import create_topics

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kafka_stream.py"


@pytest.mark.parametrize("kafka", ["kraft"], indirect=True)
def test_the_bare_transactional_loop_leaves_no_transaction_open(kafka):
    settings = KafkaSettings(kafka_bootstrap_servers=kafka.bootstrap, kafka_topic="calm")
    create_topics(settings)
    observer, flow = Observer(settings), Flow(settings)
    command = [sys.executable, str(BENCHMARK), "--bare-transactional", kafka.bootstrap]
    flow.run(2_000)
    try:
        for number in range(3):
            candidate = subprocess.Popen([*command, f"bare-{number}"])
            try:
                wait_for(observer.transaction_is_open, 60)
                candidate.terminate()
                assert candidate.wait(60) == 0
            finally:
                candidate.kill()
                candidate.wait(10)
            # A killed one would hold readers of committed records up for a minute.
            assert observer.uncommitted() == 0
    finally:
        flow.end()
