"""The shipper against a store whose answers are scripted; the real one is met in tests/integration."""

import json
import os
import signal
import threading
import time
import types
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog

from fraudscale.central_logs import retention, ship
from fraudscale.central_logs.documents import REASONS
from fraudscale.central_logs.ship import Shipper, Stopping
from fraudscale.central_logs.store import IndexSize, Store, StoreUnavailable
from fraudscale.central_logs.tail import LogTail
from fraudscale.config import CentralLogSettings, LogSettings, MetricsSettings
from fraudscale.metrics import LogShippingMetrics
from fraudscale.net import Answer

TEMPLATES = Path(__file__).parents[3] / "logging/elasticsearch"
TODAY = datetime.now(UTC).isoformat()


class Script(BaseHTTPRequestHandler):
    """Keeps what it gets, unless the next answers of the script say otherwise: a status of all, or of each document."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        lines = self.rfile.read(int(self.headers["Content-Length"])).split(b"\n")
        pairs = [(json.loads(a), json.loads(b)) for a, b in zip(lines[::2], lines[1::2], strict=False) if a]
        server = self.server
        server.requests.append(len(pairs))
        answer = server.script.pop(0) if server.script else 201
        if isinstance(answer, int) and answer != 201:
            return self._send(answer, {"error": {"reason": "not now"}})
        statuses = [201] * len(pairs) if answer == 201 else answer
        items = [self._item(*pair, status) for pair, status in zip(pairs, statuses, strict=True)]
        return self._send(200, {"items": items})

    def do_GET(self):
        indices = [{"index": name, "store.size": "1"} for name in self.server.indices]
        self._send(200, indices if self.path.startswith("/_cat") else {"cluster_uuid": "c1"})

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.installed.append(self.path)
        self._send(200, {})

    def do_DELETE(self):
        self.server.indices.remove(self.path.strip("/").partition("?")[0])
        self._send(200, {})

    def _item(self, action, body, answer):
        status, kind = answer if isinstance(answer, tuple) else (answer, "strict_dynamic_mapping_exception")
        key = action["create"]["_id"]
        if status == 201 and key in self.server.kept:
            status = 409
        if status == 201:
            self.server.kept[key] = (action["create"]["_index"], body)
        error = {"error": {"type": kind, "reason": f"refused {status}"}} if status >= 400 else {}
        return {"create": {"status": status, **error}}

    def _send(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        server.daemon_threads = True
        server.kept, server.script, server.requests, server.indices, server.installed = {}, [], [], [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Run:
    """A shipper, what it waited for, and what it said."""

    def __init__(self, server, folder):
        self.folder = folder / "logs"
        self.folder.mkdir(exist_ok=True)
        self.waited, self.stop_after = [], 20
        self.said = structlog.testing.LogCapture()
        log = structlog.wrap_logger(None, processors=[self.said])
        self.metrics = LogShippingMetrics(REASONS)
        self.store = Store(f"http://127.0.0.1:{server.server_port}", timeout=5)
        self.shipper = Shipper(self.store, self.metrics, log, self._wait)
        self.follower = LogTail(self.folder, folder / "positions.json", "c1", self.shipper.cut_unread)

    def _wait(self, seconds):
        self.waited.append(seconds)
        return len(self.waited) >= self.stop_after

    def write(self, *lines):
        with (self.folder / "a.log").open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def events(self, count):
        self.write(*(json.dumps({"event": "a_b", "timestamp": TODAY, "count": i}) for i in range(count)))

    def ship(self):
        while self.shipper.step(self.follower):
            pass

    def counts(self):
        m = self.metrics
        rejected = {reason: m.rejected.labels(reason).value for reason in REASONS}
        one = {
            name: getattr(m, name).labels().value for name in ("shipped", "repeated", "dropped", "failures")
        }
        return one | {k: v for k, v in rejected.items() if v}

    def names(self):
        return [entry["event"] for entry in self.said.entries]


@pytest.fixture
def run(server, tmp_path):
    made = Run(server, tmp_path)
    yield made
    made.store.close()


def test_a_busy_store_is_asked_again_later_and_later_and_nothing_is_lost(run, server):
    run.events(3)
    server.script = [429, 503, 500, 201]
    run.ship()
    assert sorted(body["count"] for _, body in server.kept.values()) == [0, 1, 2]
    assert run.waited == [0.5, 1.0, 2.0]
    assert run.counts() == {"shipped": 3, "repeated": 0, "dropped": 0, "failures": 3}
    assert run.names() == ["log_store_unavailable", "log_store_back"]


def test_only_the_documents_that_the_store_was_too_busy_for_are_sent_again(run, server):
    run.events(3)
    server.script = [[201, 429, 201], 201]
    run.ship()
    assert server.requests == [3, 1]
    assert len(server.kept) == 3
    assert run.counts() == {"shipped": 3, "repeated": 0, "dropped": 0, "failures": 1}


def test_a_refused_document_goes_to_the_dead_letters_with_the_reason_and_the_others_arrive(run, server):
    run.events(2)
    run.write("Started GET /")
    server.script = [[201, 400, 201], 201]
    run.ship()
    kept = [(index.rpartition("-")[0], body.get("reason")) for index, body in server.kept.values()]
    assert sorted(kept, key=str) == [
        ("fraudscale-dead-logs", "refused 400"),
        ("fraudscale-dead-logs", "the line is no JSON object"),
        ("fraudscale-logs", None),
    ]
    counted = {"shipped": 1, "repeated": 0, "dropped": 0, "failures": 0, "not_json": 1, "mapping": 1}
    assert run.counts() == counted
    assert run.names() == ["log_lines_refused"]


def test_a_line_that_not_even_the_dead_letters_take_is_told_and_stops_nothing(run, server):
    run.events(1)
    server.script = [[400], [400]]
    run.ship()
    assert run.counts()["dropped"] == 1
    assert run.names() == ["log_line_dropped"]


def test_a_400_that_is_the_clusters_fault_is_asked_again_and_nothing_is_lost(run, server):
    run.events(1)
    server.script = [[(400, "validation_exception")], 201]  # no room for the shards of a new day
    run.ship()
    assert run.counts() == {"shipped": 1, "repeated": 0, "dropped": 0, "failures": 1}


def test_a_line_of_a_day_that_is_closed_to_writes_is_a_dead_letter_of_today_and_stops_nothing(run, server):
    run.events(2)
    server.script = [[(403, "cluster_block_exception"), 201], [(403, "cluster_block_exception")], 201]
    run.ship()
    assert run.counts() == {"shipped": 1, "repeated": 0, "dropped": 0, "failures": 1, "mapping": 1}


def test_a_body_that_is_too_long_is_sent_in_halves(run, server):
    run.events(4)
    server.script = [413, 413, 201, 201, 201]
    run.ship()
    assert server.requests == [4, 2, 1, 1, 2]
    assert len(server.kept) == 4


def test_a_line_that_alone_is_too_long_is_a_dead_letter(run, server):
    run.events(1)
    server.script = [413, 201]
    run.ship()
    assert run.counts()["mapping"] == 1


def test_credentials_that_are_refused_stop_the_reading_and_lose_nothing(run, server):
    run.events(1)
    server.script = [401, 201]
    run.ship()
    assert (len(server.kept), run.counts()["failures"]) == (1, 1)


def test_what_was_sent_before_a_crash_is_there_once(run, server, tmp_path):
    run.events(2)
    batch = run.follower.read()
    run.store.add([ship.document(line, datetime.now(UTC)) for line in batch.lines])  # and then it dies
    again = Run(server, tmp_path)
    again.ship()
    again.store.close()
    assert len(server.kept) == 2
    assert again.counts() == {"shipped": 0, "repeated": 2, "dropped": 0, "failures": 0}


def test_a_signal_ends_the_waiting_and_the_batch_is_sent_at_the_next_start(run, server, tmp_path):
    run.events(1)
    run.stop_after = 2
    server.script = [503, 503]
    with pytest.raises(Stopping):
        run.ship()
    again = Run(server, tmp_path)
    again.ship()
    again.store.close()
    assert len(server.kept) == 1


def test_a_store_that_is_gone_makes_the_shipper_unready_after_a_while(run, server, monkeypatch):
    assert "not reached" in run.shipper.not_ready()
    run.events(1)
    run.ship()
    assert run.shipper.not_ready() is None
    monkeypatch.setattr(ship, "UNREADY_SECONDS", -1)
    monkeypatch.setattr(run.shipper, "_away_since", 0.0)
    assert "away" in run.shipper.not_ready()


def test_what_answers_and_is_no_store_is_not_taken_for_one(run, monkeypatch):
    monkeypatch.setattr(run.store, "_ask", lambda *_: Answer(200, {}, b"<html>"))
    with pytest.raises(StoreUnavailable, match="is that the address of the store"):
        run.store.cluster()


MB = 1024**2


@pytest.mark.parametrize(
    ("days", "size", "deleted"),
    [
        (3, 1000, ["fraudscale-logs-2026.11.20"]),
        (30, 1000, []),
        (30, 150, ["fraudscale-logs-2026.11.20"]),
        (
            30,
            50,
            ["fraudscale-logs-2026.11.20", "fraudscale-dead-logs-2026.11.24", "fraudscale-logs-2026.11.25"],
        ),
        (0, 50, []),
    ],
    ids=["too old", "young and small", "too large", "today alone too large", "never"],
)
def test_the_oldest_indices_go_when_they_are_too_old_or_all_too_large(days, size, deleted):
    indices = [
        IndexSize("fraudscale-logs-2026.11.25", 100 * MB),
        IndexSize("fraudscale-dead-logs-2026.11.24", 1 * MB),
        IndexSize("fraudscale-logs-2026.11.20", 50 * MB),
        IndexSize("fraudscale-logs-2026.11.20-reindexed", 50 * MB),
    ]
    found = retention.surplus(indices, date(2026, 11, 25), days, size * MB)
    assert [name for name, _ in found] == deleted


def test_indices_that_are_too_old_are_deleted_and_told_and_a_store_that_is_away_stops_nothing(run, server):
    server.indices = ["fraudscale-logs-2026.11.20", "fraudscale-logs-2026.11.25"]
    run.shipper.tidy(3, 1000 * MB, date(2026, 11, 25))
    assert server.indices == ["fraudscale-logs-2026.11.25"]
    run.store = run.shipper._store = Store("http://127.0.0.1:9", timeout=1)
    for _ in range(2):
        run.shipper.tidy(3, 1000 * MB, date(2026, 11, 25))
    assert run.names() == ["log_index_deleted", "log_indices_not_tidied"]


def test_a_disk_that_takes_no_positions_is_tried_again_and_told(run, server, tmp_path):
    run.events(1)
    (tmp_path / "positions.json").mkdir()
    run.stop_after = 2
    with pytest.raises(Stopping):
        run.ship()
    assert server.requests == []
    (tmp_path / "positions.json").rmdir()
    run.stop_after = 9
    run.ship()
    assert (run.waited, len(server.kept)) == ([5.0, 5.0], 1)
    assert run.names() == ["log_positions_not_written"]


def test_a_log_that_was_cut_unread_is_counted_and_told(run):
    run.shipper.cut_unread("kafka", 17)
    assert run.metrics.cut_unread.labels().value == 1
    assert run.said.entries == [
        {"event": "log_cut_unread", "log_level": "warning", "part": "kafka", "offset": 17}
    ]


@pytest.fixture
def process(server, tmp_path, monkeypatch):
    """`ship.run` in this process, and what it said."""
    said = structlog.testing.LogCapture()
    monkeypatch.setattr(ship.logs, "set_up", lambda *_, **__: structlog.wrap_logger(None, processors=[said]))
    monkeypatch.setattr(ship, "OpsServer", lambda *_: types.SimpleNamespace(start=str, stop=str))
    (tmp_path / "logs").mkdir()

    def ship_until(condition, address=None):
        def watch():
            deadline = time.monotonic() + 20
            while not condition() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        watcher = threading.Thread(target=watch)
        watcher.start()
        address = address or f"http://127.0.0.1:{server.server_port}"
        settings = CentralLogSettings.read(log_templates=TEMPLATES)
        code = ship.run(address, tmp_path, settings, MetricsSettings.read(), LogSettings.read(), own=True)
        watcher.join()
        return code, [entry["event"] for entry in said.entries]

    return ship_until


def test_the_process_ships_what_is_there_and_ends_at_a_signal(process, server, tmp_path):
    (tmp_path / "logs/a.log").write_text(json.dumps({"event": "a_b", "timestamp": TODAY}) + "\n")
    server.indices = ["fraudscale-logs-2020.01.01"]
    positions = tmp_path / "data/log-positions.json"
    code, said = process(lambda: positions.exists() and '"offset":0' not in positions.read_text())
    assert (code, len(server.kept), server.indices) == (0, 1, [])
    assert said == ["log_shipping_started", "log_index_deleted", "log_shipping_stopped"]
    assert server.installed == ["/_index_template/fraudscale-logs", "/_index_template/fraudscale-dead-logs"]
    assert process(lambda: len(server.installed) == 4)[0] == 0
    assert len(server.requests) == 1, "the positions were kept"


def test_a_process_whose_store_never_answers_ends_at_a_signal_too(process):
    began = time.monotonic()
    code, said = process(lambda: time.monotonic() > began + 0.3, "http://127.0.0.1:9")
    assert (code, said) == (0, ["log_store_unavailable", "log_shipping_stopped"])
    assert time.monotonic() < began + 10
