"""Templates, shipper and search against a real OpenSearch."""

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog

from fraudscale.central_logs import tail
from fraudscale.central_logs.documents import REASONS
from fraudscale.central_logs.fields import DEAD_LOGS, LOGS
from fraudscale.central_logs.search import Query, in_files, in_store
from fraudscale.central_logs.ship import Shipper
from fraudscale.central_logs.store import Store
from fraudscale.central_logs.tail import LogTail
from fraudscale.local.supervisor import machine
from fraudscale.metrics import LogShippingMetrics

TEMPLATES = Path(__file__).parents[2] / "logging/elasticsearch"


def ask(url, method, path, body=None):
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(
            method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"}
        )
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Run:
    """A folder of logs and a shipper of them; the indices are empty at its start."""

    def __init__(self, url, folder):
        self.url, self.logs = url, folder / "logs"
        self.logs.mkdir()
        self.store = Store(url)
        self.store.install(TEMPLATES)
        for index in self.store.sizes():
            self.store.delete(index.name)
        self.metrics = LogShippingMetrics(REASONS)
        self.said = structlog.testing.LogCapture()
        log = structlog.wrap_logger(None, processors=[self.said])
        self.stop = threading.Event()
        self.shipper = Shipper(
            self.store, self.metrics, log, lambda seconds: self.stop.wait(min(seconds, 0.5))
        )
        cluster = self.store.cluster()
        self.follower = LogTail(self.logs, folder / "positions.json", cluster, self.shipper.cut_unread)

    def write(self, part, *events):
        with (self.logs / f"{part}.log").open("a") as file:
            for event in events:
                text = event if isinstance(event, str) else json.dumps(event)
                file.write(f"{text}\n")

    def ship(self):
        while self.shipper.step(self.follower):
            pass
        ask(self.url, "POST", "/_refresh")

    def documents(self, index):
        found = ask(self.url, "POST", f"/{index}-*/_search", {"size": 10_000})
        return [hit["_source"] for hit in found["hits"]["hits"]]


@pytest.fixture
def run(opensearch_server, tmp_path):
    made = Run(opensearch_server.url, tmp_path)
    yield made
    made.store.close()


def event(name, **fields):
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"event": name, "level": "info", "timestamp": now, "process": "serve", **fields}


def test_the_templates_are_installed_again_and_again_and_give_the_types_of_the_table(run):
    run.store.install(TEMPLATES)
    run.write("a", event("prediction_made", is_fraud=True))
    run.ship()
    (mapping,) = ask(run.url, "GET", f"/{LOGS}-*/_mapping").values()
    assert mapping["mappings"]["dynamic"] == "strict"
    assert mapping["mappings"]["properties"]["fraud_probability"]["type"] == "double"
    assert mapping["mappings"]["properties"]["trace"]["properties"]["id"] == {
        "type": "alias",
        "path": "trace_id",
    }


def test_a_line_that_contradicts_the_mapping_goes_to_the_dead_letters_and_the_rest_arrives(run):
    run.write(
        "a",
        event("first_one", seconds=1.5),
        event("second_one", seconds="soon", transaction_id="tx-dead"),
        event("third_one", nobody_told=1),
        "INFO a line of text",
        event("last_one", seconds=2, error=None),
    )
    run.ship()
    assert sorted(one["event"] for one in run.documents(LOGS)) == ["first_one", "last_one"]
    dead = {one.get("event", ""): one for one in run.documents(DEAD_LOGS)}
    assert set(dead) == {"second_one", "third_one", ""}
    assert "seconds" in dead["second_one"]["reason"]
    assert "nobody_told" in dead["third_one"]["reason"]
    assert json.loads(dead["second_one"]["line"])["seconds"] == "soon"
    rejected = {reason: run.metrics.rejected.labels(reason).value for reason in REASONS}
    assert rejected == {"not_json": 1, "no_timestamp": 0, "mapping": 2}
    assert run.metrics.shipped.labels().value == 2


def test_a_transaction_is_found_with_its_trace_as_in_the_files(run):
    run.write("serve", event("request_begun", trace_id="t-1"), event("request_begun", trace_id="t-2"))
    run.write(
        "stream",
        event("prediction_made", transaction_id="tx-1", trace_id="t-1", is_fraud=False),
        event("prediction_made", transaction_id="tx-1", seconds="refused", trace_id="t-1"),
    )
    run.ship()
    by_transaction = in_store(run.store, Query(transaction="tx-1"))
    assert [line["event"] for line in by_transaction.lines] == [
        "request_begun",
        "prediction_made",
        "prediction_made",
    ]
    in_logs = in_files(run.logs, Query(transaction="tx-1"))
    assert [line["log"] for line in in_logs.lines] == [line["log"] for line in by_transaction.lines]
    # by the name that the Elastic Common Schema has for it
    assert in_store(run.store, Query(trace="t-2")).total == 1
    assert in_store(run.store, Query(events=("request_begun", "never_said"), limit=1)).total == 2


def test_thousands_of_lines_through_a_cut_and_a_new_shipper_are_there_once(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "BATCH_BYTES", 100_000)
    for begin in (0, 5_000):
        run.write("a", *(event("counted_one", count=i) for i in range(begin, begin + 5_000)))
        run.shipper.step(run.follower)  # a first batch; the rest is unread
        machine.rotate(run.logs, limit=1)
        run.ship()
    again = LogTail(
        run.logs, tmp_path / "positions.json", run.store.cluster(), lambda *_: pytest.fail("lost")
    )
    run.write("a", event("counted_one", count=10_000))
    run.shipper.step(again)
    ask(run.url, "POST", "/_refresh")
    found = ask(run.url, "POST", f"/{LOGS}-*/_search", COUNT)["aggregations"]
    assert (found["lines"]["value"], found["different"]["value"]) == (10_001, 10_001)
    assert run.metrics.repeated.labels().value == 0


COUNT = {
    "size": 0,
    "aggs": {
        "lines": {"value_count": {"field": "count"}},
        "different": {"cardinality": {"field": "count", "precision_threshold": 40_000}},
    },
}


def test_an_index_that_is_too_much_is_deleted_and_the_next_line_makes_a_new_one(run):
    run.write("a", event("first_one"))
    run.ship()
    (index,) = run.store.sizes()
    run.store.delete(index.name)
    assert run.store.sizes() == []
    run.write("a", event("second_one"))
    run.ship()
    assert [one["event"] for one in run.documents(LOGS)] == ["second_one"]


@pytest.mark.slow
def test_a_store_that_is_killed_and_comes_back_gets_every_line_once(run, opensearch_server):
    """Lines come all the while; the logs are cut while it is away."""
    writing, failed, lock = threading.Event(), [], threading.Lock()
    writing.set()
    written = Counter()

    def write():
        while writing.is_set():
            part = f"replica-{written.total() % 3}"
            with lock:
                run.write(part, event("counted_one", count=written.total(), process=part))
                written[part] += 1
            time.sleep(0.002)

    def ship():
        try:
            while not run.stop.is_set():
                if not run.shipper.step(run.follower):
                    run.stop.wait(0.05)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write), threading.Thread(target=ship)]
    for thread in threads:
        thread.start()
    try:
        wait(lambda: run.metrics.shipped.labels().value > 300)
        opensearch_server.kill()
        before = written.total()
        wait(lambda: run.metrics.failures.labels().value >= 2 and written.total() > before + 300)
        with lock:  # what is written in the middle of a cut is lost to the file itself
            machine.rotate(run.logs, limit=1)
        wait(lambda: written.total() > before + 600)
        opensearch_server.start()
        after = run.metrics.shipped.labels().value
        wait(
            lambda: failed or run.metrics.shipped.labels().value > after + 300,
            detail=lambda: f"{failed} {run.said.entries} {vars(run.metrics.shipped)} {written}",
        )
        writing.clear()
        threads[0].join()
        wait(lambda: run.follower.behind() == 0)
        wait(
            lambda: (
                run.metrics.shipped.labels().value + run.metrics.repeated.labels().value >= written.total()
            )
        )
    finally:
        writing.clear()
        run.stop.set()
        for thread in threads:
            thread.join(60)
    assert not failed
    ask(run.url, "POST", "/_refresh")
    found = ask(run.url, "POST", f"/{LOGS}-*/_search", COUNT)["aggregations"]
    assert (found["lines"]["value"], found["different"]["value"]) == (written.total(), written.total())
    assert run.documents(DEAD_LOGS) == []


def wait(condition, seconds=120, detail=str):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, detail()
        time.sleep(0.05)
