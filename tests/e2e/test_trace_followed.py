"""One transaction, followed: from the example of a latency to its line in the log, and over the topics."""

import http.client
import json
import secrets
from urllib.parse import urlencode

from confluent_kafka import Producer
from test_platform import EXAMPLE, read

SPAN = "00f067aa0ba902b7"


def lines(platform, door, **wanted):
    """The lines of all replicas' logs of one door that have these fields."""
    found = []
    for log in platform.home.glob(f"logs/replica-*{door}.log"):
        found += [json.loads(line) for line in log.read_bytes().splitlines() if line.startswith(b"{")]
    return [line for line in found if wanted.items() <= line.items()]


def exemplars(platform, metric):
    """What Prometheus kept of a histogram."""
    asked = urlencode({"query": f"{metric}_bucket", "start": "0", "end": "9999999999"})
    status, answer = platform.ask("GET", f"/api/v1/query_exemplars?{asked}", port=platform.ports.prometheus)
    assert status == 200, answer
    return [exemplar for series in answer["data"] for exemplar in series["exemplars"]]


def test_an_example_in_prometheus_leads_to_the_log_line_and_so_to_the_transaction(platform):
    trace_id, transaction_id = secrets.token_hex(16), f"traced-{secrets.token_hex(4)}"
    connection = http.client.HTTPConnection("127.0.0.1", platform.ports.entry, timeout=30)
    try:
        headers = {"content-type": "application/json", "traceparent": f"00-{trace_id}-{SPAN}-01"}
        connection.request(
            "POST", "/predict", json.dumps(EXAMPLE | {"transaction_id": transaction_id}), headers
        )
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    assert answer.status == 200
    assert answer.headers["traceparent"].split("-")[1] == trace_id

    for metric in ("http_request_duration_seconds", "ml_model_prediction_duration"):
        found = platform.wait(
            lambda metric=metric: [
                e for e in exemplars(platform, metric) if e["labels"]["trace_id"] == trace_id
            ],
            f"Prometheus has the example of {metric}",
        )
        assert float(found[0]["value"]) > 0
    (line,) = lines(platform, "serve", event="prediction_made", trace_id=found[0]["labels"]["trace_id"])
    assert line["transaction_id"] == transaction_id
    assert line["span_id"] == SPAN


def test_a_trace_goes_from_the_topic_to_its_score_and_its_dead_letter(platform):
    trace_id, key = secrets.token_hex(16), f"traced-{secrets.token_hex(4)}"
    traceparent = f"00-{trace_id}-{SPAN}-00"
    bootstrap = f"127.0.0.1:{platform.ports.kafka}"
    producer = Producer({"bootstrap.servers": bootstrap})
    for value in (json.dumps(EXAMPLE | {"transaction_id": key}), b"{broken"):
        producer.produce("transactions", value, key=key, headers={"traceparent": traceparent})
    assert producer.flush(30) == 0
    for topic in ("transactions.scored", "transactions.dead-letter"):
        (record,) = read(bootstrap, topic, lambda m: m.key() == key.encode(), 1)
        assert dict(record.headers())["traceparent"] == traceparent.encode(), topic
    (line,) = platform.wait(
        lambda: lines(platform, "stream", event="prediction_made", trace_id=trace_id), "the line is written"
    )
    assert line["transaction_id"] == key
