"""The console's server: what it gives, to whom, and what of Prometheus it lets through."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog

from fraudscale.config import ConsoleSettings, LocalSettings, LogSettings, SettingsError
from fraudscale.console import server, upstream
from fraudscale.console.upstream import Prometheus

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "monitoring/dashboards/ml-model-dashboard.json"


@contextmanager
def serving(made):
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()


@pytest.fixture(scope="module")
def in_its_place():
    """A server in the place of Prometheus."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length", 0))
            self.server.asked.append((self.command, self.path, self.rfile.read(length), dict(self.headers)))
            status, kind, body = self.server.answers
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815  the base class looks for them

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(made):
        yield made


@pytest.fixture
def recorder(in_its_place):
    """Prometheus, which tells what it was asked in this test."""
    in_its_place.asked = []
    in_its_place.answers = 200, "application/json", b'{"status":"success"}'
    return in_its_place


@pytest.fixture(scope="module")
def console(in_its_place, tmp_path_factory):
    """`console(method, path, body, **headers)` → status, headers, body."""
    prometheus = Prometheus(f"http://127.0.0.1:{in_its_place.server_port}", timeout=2)
    with started(tmp_path_factory.mktemp("home"), prometheus) as port:
        yield lambda *request, **headers: ask(port, *request, **headers)


def made(home, prometheus, port=0):
    content = server.Console(server.pages(ROOT / "docs/runbooks"), DASHBOARD, home, prometheus)
    return server.create_server(port, content)


@contextmanager
def started(home, prometheus):
    running = made(home, prometheus)
    running.start()
    try:
        yield running.port
    finally:
        running.stop()


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


FORM = {"Content_Type": upstream.FORM}


def test_a_query_is_passed_on_and_its_answer_back(console, recorder):
    status, headers, body = console("GET", "/api/v1/query?query=up%7Ba%3D%22b%22%7D&time=1")
    assert (status, headers["Content-Type"], body) == (200, "application/json", b'{"status":"success"}')
    ((method, path, _, _),) = recorder.asked
    assert (method, path) == ("GET", "/api/v1/query?query=up%7Ba%3D%22b%22%7D&time=1")


def test_a_form_is_passed_on_without_what_else_the_browser_sent(console, recorder):
    console("POST", "/api/v1/query_range", "query=up", Cookie="secret=1", Authorization="Basic x", **FORM)
    ((method, path, form, headers),) = recorder.asked
    assert (method, path, form) == ("POST", "/api/v1/query_range", b"query=up")
    assert not {"Cookie", "Authorization"} & headers.keys()


def test_a_path_of_prometheus_address_comes_before_all_others(recorder, tmp_path):
    prometheus = Prometheus(f"http://127.0.0.1:{recorder.server_port}/prefix/", timeout=2)
    with started(tmp_path, prometheus) as port:
        assert ask(port, "GET", "/api/v1/query?query=up")[0] == 200
    assert recorder.asked[0][:2] == ("GET", "/prefix/api/v1/query?query=up")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/admin/tsdb/delete_series?match[]=up",
        "/api/v1/write",
        "/api/v1/query/../admin/tsdb/snapshot",
        "/api/v1/query%2F..%2Fadmin",
        "/api/v1/label/a/b/values",
        "/api/v1/status/config",
        "/api/v1/targets",
        "/-/reload",
        "/-/quit",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_else_reaches_prometheus(console, recorder, method, path):
    status, _, body = console(method, path, "" if method == "POST" else None, **FORM)
    assert status in {404, 405}
    assert json.loads(body)["status"] == status
    assert recorder.asked == []


def test_a_form_in_an_encoding_is_refused(console, recorder):
    status, headers, _ = console("POST", "/api/v1/query", "query=up", Content_Encoding="gzip", **FORM)
    assert (status, headers["Accept-Encoding"], recorder.asked) == (415, "identity", [])
    assert console("POST", "/api/v1/query", "query=up", Content_Encoding="identity", **FORM)[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(console, recorder, method):
    assert console(method, "/api/v1/query?query=up")[0] == 405
    assert recorder.asked == []


def test_an_error_of_prometheus_is_told(console, recorder):
    recorder.answers = 400, "application/json", b'{"status":"error","error":"parse error"}'
    status, _, body = console("GET", "/api/v1/query?query=(")
    assert (status, json.loads(body)["error"]) == (400, "parse error")


def test_what_is_no_json_is_not_passed_on(console, recorder):
    recorder.answers = 200, "text/html", b"<script>alert(1)</script>"
    status, headers, body = console("GET", "/api/v1/query?query=up")
    assert (status, headers["Content-Type"]) == (502, "application/problem+json")
    assert b"script" not in body


def test_an_answer_that_is_too_large_is_refused_with_the_remedy(console, recorder):
    recorder.answers = 200, "application/json", b"1" * (upstream.ANSWER_BYTES + 1)
    status, _, body = console("GET", "/api/v1/query_range?query=up")
    assert status == 502
    assert "ask for less" in json.loads(body)["detail"]


def test_a_form_has_a_bound(console, recorder):
    status, headers, _ = console("POST", "/api/v1/query", "q" * (server.FORM_BYTES + 1), **FORM)
    assert (status, headers["Connection"]) == (413, "close")
    assert recorder.asked == []


def test_only_a_form_may_be_posted(console, recorder):
    assert console("POST", "/api/v1/query", "{}", Content_Type="application/json")[0] == 415
    assert recorder.asked == []


def test_a_prometheus_that_is_down_is_told_and_the_page_still_comes(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with started(tmp_path, Prometheus(address)) as port:
        status, _, body = ask(port, "GET", "/api/v1/alerts")
        assert (status, json.loads(body)["title"]) == (502, "Bad Gateway")
        assert address in json.loads(body)["detail"]
        assert ask(port, "GET", "/")[0] == 200
        assert ask(port, "GET", "/readyz")[0] == 200


def test_a_prometheus_that_hangs_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        prometheus = Prometheus(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
        with started(tmp_path, prometheus) as port:
            assert ask(port, "GET", "/api/v1/alerts")[0] == 504


def test_questions_that_do_not_get_their_turn_are_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        busy = Prometheus(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3, at_once=1)
        with started(tmp_path, busy) as port:
            answers = []
            threads = [
                threading.Thread(target=lambda: answers.append(ask(port, "GET", "/api/v1/alerts")[0]))
                for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert set(answers) == {503, 504}


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:12345", "localhost"])
def test_it_answers_by_this_machines_names_at_any_port(console, host):
    assert console("GET", "/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8080", "evil.example", "127.0.0.1.evil.example:80", "localhost.evil:8080", ""]
)
@pytest.mark.parametrize("path", ["/", "/api/overview", "/api/v1/query?query=up", "/dashboard.json"])
def test_a_name_that_was_bound_anew_to_this_machine_gets_nothing(console, recorder, host, path):
    assert console("GET", path, Host=host)[0] == 421
    assert recorder.asked == []


def test_a_page_of_another_site_may_link_here_and_not_ask(console, recorder):
    assert console("GET", "/", Sec_Fetch_Site="cross-site")[0] == 200
    for site in ("cross-site", "same-site"):
        assert console("GET", "/api/v1/query?query=up", Sec_Fetch_Site=site)[0] == 403
        assert console("POST", "/api/v1/query", "query=up", Sec_Fetch_Site=site, **FORM)[0] == 403
    assert recorder.asked == []
    assert console("GET", "/api/v1/query?query=up", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "//etc/passwd",
        "/docs/runbooks/../../SECURITY.md",
        "/docs/runbooks/",
        "/static/",
        "/static/index.html",
        "/etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_pages(console, path):
    assert console("GET", path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/static/console.js", "/dashboard.json", "/nothing", "/api/overview"])
def test_every_answer_forbids_scripts_of_others_and_frames(console, path):
    _, headers, _ = console("GET", path)
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_the_page_loads_only_what_is_served_here_and_holds_no_script(console):
    _, _, body = console("GET", "/")
    page = body.decode()
    loaded = [
        word.split('"')[1] for word in page.split() if word.startswith(("src=", "href=")) and "#" not in word
    ]
    assert len(loaded) > 4
    for path in loaded:
        assert console("GET", path)[0] == 200, path
    assert "style=" not in page
    assert "onclick" not in page
    assert "<script>" not in page


def test_the_dashboard_is_the_file_and_the_runbooks_are_the_checkouts(console):
    assert console("GET", "/dashboard.json")[2] == DASHBOARD.read_bytes()
    status, headers, body = console("GET", "/docs/runbooks/HighErrorRate.md")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert body == (ROOT / "docs/runbooks/HighErrorRate.md").read_bytes()


def test_a_head_request_gets_no_body(console):
    status, headers, body = console("HEAD", "/")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


def test_it_listens_on_this_machine_only(tmp_path):
    # Every address of 127.0.0.0/8 is this machine's; a server on all addresses would answer at 127.0.0.2 too.
    with started(tmp_path, Prometheus("http://127.0.0.1:1")) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), 5)


def test_a_port_that_is_taken_is_named_with_the_remedy(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"CONSOLE_PORT={port}: can't listen"):
            made(tmp_path, Prometheus("http://127.0.0.1:1"), port)


@pytest.fixture
def _restore_logging():
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restore_logging")
def test_the_console_answers_until_a_signal_and_closes_its_port(tmp_path, capfdbinary):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answered = []

    def ask_and_signal():
        # Only once it answers: before, the signal's handler may be the one that ends the process.
        while not answered:
            try:
                answered.append(ask(port, "GET", "/livez")[0])
            except OSError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_and_signal, daemon=True)
    asking.start()
    settings = ConsoleSettings(_env_file=None)
    local = LocalSettings(_env_file=None, fraudscale_home=tmp_path, console_port=port)
    assert server.run(settings, local, LogSettings(_env_file=None, log_format="json")) == 0
    asking.join()
    assert answered == [200]
    (line,) = capfdbinary.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "console_started"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_a_dashboard_that_is_missing_is_named_with_its_setting(tmp_path):
    missing = tmp_path / "missing.json"
    content = server.Console({}, missing, tmp_path, Prometheus("http://127.0.0.1:1"))
    running = server.create_server(0, content)
    running.start()
    status, _, body = ask(running.port, "GET", "/dashboard.json")
    running.stop()
    assert (status, f"DASHBOARD_FILE='{missing}'" in json.loads(body)["detail"]) == (500, True)
