"""The API of the store, spoken with a server that records what it is asked and says what a test told it to."""

import base64
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from fraudscale.central_logs.documents import LogLine, document
from fraudscale.central_logs.fields import DEAD_LOGS, LIFECYCLE, LOGS
from fraudscale.central_logs.search import Query, in_store
from fraudscale.central_logs.store import (
    BulkOutcome,
    IndexSize,
    RequestTooLong,
    Store,
    StoreRefused,
    StoreUnavailable,
    open_store,
)
from fraudscale.config import CentralLogSettings

TEMPLATES = Path(__file__).parents[3] / "logging/elasticsearch"
NOTHING_FOUND = {"hits": {"hits": [], "total": {"value": 0}}}


class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, unquote(self.path), body, self.headers))
        status, content = self.server.answers.pop(0) if self.server.answers else (200, {})
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


for verb in ("GET", "PUT", "POST", "DELETE"):
    setattr(Recorder, f"do_{verb}", Recorder.answer)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.daemon_threads = True
        server.asked, server.answers = [], []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store(server):
    store = Store(server.url, timeout=5)
    yield store
    store.close()


def requests(server):
    return [(method, path.partition("?")[0]) for method, path, _, _ in server.asked]


def test_templates_are_put_and_a_lifecycle_that_is_there_stays(store, server):
    store.install(TEMPLATES)
    assert requests(server) == [
        ("GET", f"/_component_template/{LIFECYCLE}"),
        ("PUT", f"/_index_template/{LOGS}"),
        ("PUT", f"/_index_template/{DEAD_LOGS}"),
    ]
    assert server.asked[1][2] == (TEMPLATES / f"{LOGS}.json").read_bytes()


def test_a_store_without_a_lifecycle_gets_an_empty_one(store, server):
    server.answers = [(404, {})]
    store.install(TEMPLATES)
    assert requests(server)[1] == ("PUT", f"/_component_template/{LIFECYCLE}")
    assert json.loads(server.asked[1][2]) == {"template": {}}


def test_credentials_are_sent_and_their_refusal_is_told_in_the_stores_words(server):
    settings = CentralLogSettings.read(opensearch_username="shipper", opensearch_password="a:b")
    store = open_store(server.url, settings)
    server.answers = [(403, {"error": {"reason": "no permissions"}})]
    with pytest.raises(StoreRefused, match="403: no permissions"):
        store.install(TEMPLATES)
    store.close()
    assert server.asked[0][3]["Authorization"] == f"Basic {base64.b64encode(b'shipper:a:b').decode()}"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "content", "raised", "message"),
    [
        (429, {"error": {"reason": "breaker"}}, StoreUnavailable, "429: breaker"),
        (503, b"<html>proxy", StoreUnavailable, "503: <html>proxy"),
        (400, {"error": "short"}, StoreRefused, "400: short"),
        (413, b"", RequestTooLong, "413: "),
    ],
)
def test_what_comes_again_later_is_told_from_what_is_wrong(store, server, status, content, raised, message):
    server.answers = [(status, content)]
    with pytest.raises(raised) as error:
        store.sizes()
    assert str(error.value) == message


def test_nobody_there_is_a_store_that_is_away(server):
    gone = Store("http://127.0.0.1:9", timeout=1)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        gone.cluster()


def test_a_bulk_creates_and_tells_of_each_document(store, server):
    now = datetime(2026, 11, 25, 8, tzinfo=UTC)
    lines = [LogLine(f"c-{n}", "a.log", n, b'{"timestamp":"2026-11-25T07:00:00Z"}') for n in range(3)]
    refused = {"type": "mapper_parsing_exception", "reason": "no number", "caused_by": {"reason": "soon"}}
    items = [{"status": 201}, {"status": 409, "error": {}}, {"status": 400, "error": refused}]
    server.answers = [(200, {"items": [{"create": item} for item in items]})]
    assert store.add([document(line, now) for line in lines]) == [
        BulkOutcome(201, ""),
        BulkOutcome(409, ""),
        BulkOutcome(400, "no number: soon", "mapper_parsing_exception"),
    ]
    sent = [json.loads(line) for line in server.asked[0][2].splitlines()]
    assert sent[::2] == [{"create": {"_index": f"{LOGS}-2026.11.25", "_id": f"c-{n}"}} for n in range(3)]
    assert server.asked[0][3]["Content-Type"] == "application/x-ndjson"


def test_indices_are_listed_with_their_bytes_and_deleted_by_name(store, server):
    rows = [
        {"index": f"{LOGS}-2026.11.25", "store.size": "123"},
        {"index": f"{LOGS}-new", "store.size": None},
    ]
    server.answers = [(200, rows)]
    assert store.sizes() == [IndexSize(f"{LOGS}-2026.11.25", 123), IndexSize(f"{LOGS}-new", 0)]
    store.delete(f"{LOGS}-2026.11.25")
    assert requests(server)[1] == ("DELETE", f"/{LOGS}-2026.11.25")


def test_a_transaction_is_asked_for_with_its_traces_in_the_order_of_time(store, server):
    line = {"event": "prediction_made", "trace_id": "t-1"}
    found = {"hits": {"hits": [{"_source": line}], "total": {"value": 7}}}
    server.answers = [(200, found), (200, found)]
    assert in_store(store, Query(transaction="tx-1", limit=1)) == ([line], 7)
    first, second = (json.loads(body) for _, _, body, _ in server.asked)
    assert first["query"]["bool"]["filter"][0] == {"term": {"transaction_id": "tx-1"}}
    (either,) = second["query"]["bool"]["filter"]
    assert either["bool"]["should"] == [
        {"term": {"transaction_id": "tx-1"}},
        {"terms": {"trace_id": ["t-1"]}},
    ]
    assert [next(iter(key)) for key in second["sort"]] == ["timestamp", "log.file", "log.offset"]
    assert second["size"] == 1


def test_a_trace_events_and_a_time_are_asked_for_together(store, server):
    server.answers = [(200, NOTHING_FOUND)]
    at = datetime(2026, 11, 25, 8, tzinfo=UTC)
    assert in_store(store, Query(trace="t-1", events=("a", "b"), since=at)) == ([], 0)
    (asked,) = server.asked
    assert asked[1].startswith(f"/{LOGS}-*,{DEAD_LOGS}-*/_search?")
    assert json.loads(asked[2])["query"]["bool"]["filter"] == [
        {"term": {"trace.id": "t-1"}},
        {"terms": {"event": ["a", "b"]}},
        {"range": {"timestamp": {"gte": "2026-11-25T08:00:00+00:00"}}},
    ]
