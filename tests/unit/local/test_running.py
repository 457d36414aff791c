"""What commands learn of a platform from outside: JSON of its components, and the model in use."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fraudscale.local import running
from fraudscale.local.supervisor.state import ModelInUse


@pytest.fixture
def entry():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            self.send_response(server.status)
            self.end_headers()
            self.wfile.write(server.body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.status, server.body, server.asked = 200, b"{}", []
        server.at = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ({"version": "3", "alias": "champion"}, ModelInUse("3", "champion")),
        ({"version": "3"}, ModelInUse("3", None)),
        ({"detail": "no model"}, None),
        ([], None),
    ],
)
def test_the_entry_tells_the_model_in_use(entry, said, model):
    entry.body = json.dumps(said).encode()
    assert running.model_at(f"http://{entry.at}") == model


def test_without_an_entry_nothing_is_asked():
    assert running.model_at("") is None


@pytest.mark.parametrize(("status", "body"), [(503, b"{}"), (200, b"<html>")])
def test_what_is_no_good_answer_is_none(entry, status, body):
    entry.status, entry.body = status, body
    assert running.get_json(entry.at, "/api", {"query": "a b"}) is None
    assert entry.asked == ["/api?query=a+b"]
