import http.server
import json
import subprocess
import sys
import threading

import pytest

from fraudscale.config import ModelSettings
from fraudscale.registry import mlflow as registry
from fraudscale.registry.mlflow import Locator, ModelUnknown, NoChampion, RegistryUnavailable
from fraudscale.scoring.model import Version

DIGEST = "ab" * 32
MODEL = {"registered_model": {"name": "fraud-detector", "aliases": [{"alias": "champion", "version": "3"}]}}
TAGGED = {"model_version": {"version": "3", "tags": [{"key": "digest", "value": DIGEST}]}}
MISSING = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model not found"}


class Server:
    """A registry that says what it is told to: status and body for each route."""

    def __init__(self):
        self.answers, self.requests = {}, []
        self.released = threading.Event()

    def answer(self, route, status, body):
        self.answers[route] = status, body if isinstance(body, bytes) else json.dumps(body).encode()

    def handler(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                length = int(self.headers.get("content-length", 0))
                server.requests.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                route = self.path.partition("?")[0].rpartition("/mlflow/")[2]
                if route not in server.answers:
                    server.released.wait(30)
                    return
                status, body = server.answers[route]
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the library's name

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def server():
    server = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), server.handler()) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.address = f"http://127.0.0.1:{listener.server_port}"
        server.answer("registered-models/get", 200, MODEL)
        server.answer("model-versions/get", 200, TAGGED)
        yield server
        server.released.set()
        listener.shutdown()
        thread.join()


@pytest.fixture
def settings(server):
    return lambda **kwargs: ModelSettings(**({"mlflow_tracking_uri": server.address} | kwargs))


def test_the_alias_leads_to_a_version_and_its_digest(server, settings):
    assert Locator(settings()).locate() == Version("3", "champion", DIGEST)
    assert [path for _, path, _, _ in server.requests] == [
        "/api/2.0/mlflow/registered-models/get?name=fraud-detector",
        "/api/2.0/mlflow/model-versions/get?name=fraud-detector&version=3",
    ]


def test_a_poll_without_news_costs_one_call(server, settings):
    locator = Locator(settings())
    for _ in range(3):
        locator.locate()
    assert len(server.requests) == 4


def test_a_given_version_needs_no_alias(server, settings):
    assert Locator(settings()).locate("3") == Version("3", "champion", DIGEST)
    assert len(server.requests) == 1


def test_the_address_may_have_a_path(server, settings):
    Locator(settings(mlflow_tracking_uri=f"{server.address}/mlflow-behind-a-proxy/")).locate()
    assert server.requests[0][1].startswith("/mlflow-behind-a-proxy/api/2.0/mlflow/")


def test_a_missing_alias_names_what_sets_it(server, settings):
    server.answer("registered-models/get", 200, {"registered_model": {"name": "fraud-detector"}})
    with pytest.raises(
        NoChampion, match='has the alias "champion"; `fraudscale train --promote` registers one'
    ):
        Locator(settings()).locate()


def test_a_missing_model_names_what_registers_one(server, settings):
    server.answer("registered-models/get", 404, MISSING)
    with pytest.raises(ModelUnknown, match="not found; `fraudscale train` registers"):
        Locator(settings()).locate()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([], "not registered by `fraudscale train`"),
        ([{"key": "a", "value": DIGEST}], "not registered by `fraudscale train`"),
        ([{"key": "digest", "value": "../../etc"}], "'../../etc', which is no sha256; register"),
        ([{"key": "digest"}], "which is no sha256"),
    ],
)
def test_a_version_without_a_digest_was_not_ours_and_is_named(server, settings, tags, message):
    server.answer("model-versions/get", 200, {"model_version": {"version": "3", "tags": tags}})
    with pytest.raises(ModelUnknown, match=message) as caught:
        Locator(settings()).locate()
    assert caught.value.version == "3"


def test_an_alias_to_a_version_that_is_gone_names_it(server, settings):
    server.answer("model-versions/get", 404, MISSING)
    with pytest.raises(ModelUnknown) as caught:
        Locator(settings()).locate()
    assert caught.value.version == "3"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, {"error_code": "INTERNAL_ERROR", "message": "database is locked"}, "500.*database is locked"),
        (503, b"upstream connect error", "503.*upstream connect error; is MLFLOW_TRACKING_URI an MLflow"),
        (404, b"<h1>Not Found</h1>", "404.*is MLFLOW_TRACKING_URI an MLflow server"),
        (401, b"who are you?", "401.*set MLFLOW_TRACKING_USERNAME"),
        (200, b"<html>", "answers 200.*is MLFLOW_TRACKING_URI an MLflow server"),
        (200, [], "answers 200"),
        (200, {"something": "else"}, "without registered_model; is it MLflow"),
        (302, b"", "answers 302"),
        (500, b"\xff\xfe", "answers 500"),
    ],
)
def test_any_other_answer_is_no_registry_for_now(server, settings, status, body, message):
    server.answer("registered-models/get", status, body)
    with pytest.raises(RegistryUnavailable, match=message):
        Locator(settings()).locate()


def test_a_registry_that_is_down_says_which_address(settings):
    with pytest.raises(RegistryUnavailable, match=r"http://127.0.0.1:1 doesn't answer.*is MLflow up"):
        Locator(settings(mlflow_tracking_uri="http://127.0.0.1:1")).locate()


def test_a_registry_that_hangs_is_given_up(server, settings, monkeypatch):
    monkeypatch.setattr(registry, "TIMEOUT_SECONDS", 0.1)
    del server.answers["registered-models/get"]
    with pytest.raises(RegistryUnavailable, match="doesn't answer: timed out"):
        Locator(settings()).locate()


def test_name_and_password_are_sent(server, settings):
    Locator(settings(mlflow_tracking_username="ann", mlflow_tracking_password="secret")).locate()
    assert server.requests[0][2]["Authorization"] == "Basic YW5uOnNlY3JldA=="


def test_a_token_is_sent(server, settings):
    Locator(settings(mlflow_tracking_token="secret")).locate()
    assert server.requests[0][2]["Authorization"] == "Bearer secret"


def test_without_credentials_none_are_sent(server, settings):
    Locator(settings()).locate()
    assert "Authorization" not in server.requests[0][2]


def test_an_error_tells_no_secret(server, settings):
    server.answer("registered-models/get", 401, b"no")
    with pytest.raises(RegistryUnavailable) as caught:
        Locator(settings(mlflow_tracking_username="ann", mlflow_tracking_password="secret")).locate()
    assert "secret" not in str(caught.value)


def test_setting_an_alias_posts_it(server, settings):
    server.answer("registered-models/alias", 200, {})
    registry.set_alias(settings(), "4", "champion")
    method, _, _, body = server.requests[0]
    assert method == "POST"
    assert json.loads(body) == {"name": "fraud-detector", "alias": "champion", "version": "4"}


def test_all_aliases_come_in_one_call(settings):
    assert registry.aliases(settings()) == {"champion": "3"}


def test_what_a_serving_process_imports_has_no_mlflow():
    program = "import sys, fraudscale.model_loader; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    modules = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "mlflow" not in modules
    assert "onnxruntime" in modules
