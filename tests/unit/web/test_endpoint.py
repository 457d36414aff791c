"""The whole HTTP endpoint in this process, without a port: limits, answers, counts, traces."""

import asyncio
import dataclasses
import gzip
import json
import random
import re

import pytest

from fraudscale.scoring import model
from fraudscale.telemetry.tracing import Tracer
from fraudscale.web.app import UNLIMITED
from http_endpoint import GOOD, JSON, Exchange, Unanswered, ask, compose

STRANGER = "192.0.2.1"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = JSON | {"traceparent": f"00-{TRACE}-{SPAN}-01"}
OPEN_METRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture(scope="module")
def artifact(make_artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    make_artifact(folder)
    files = {name: (folder / name).read_bytes() for name in model.SERVED_FILES}
    return model.build((folder / model.MANIFEST).read_bytes(), files, version="1", alias="champion")


@pytest.fixture
def ready(artifact):
    """Compose an endpoint with a model."""

    def ready(**kwargs):
        composed = compose(**kwargs)
        composed.scorer.install(artifact)
        return composed

    return ready


@pytest.fixture
def endpoint(ready):
    return ready()


@pytest.fixture
def broken(artifact):
    """Compose an endpoint whose model raises."""

    def engine(_rows):
        raise RuntimeError("a secret of the engine")

    composed = compose()
    composed.scorer.install(dataclasses.replace(artifact, _engine=engine))
    return composed


def requests(composed, method, status, path):
    return composed.value("http_requests_total", method=method, status=str(status), endpoint=path)


def seconds(composed, what, path="/predict", method="POST"):
    return composed.value(f"http_request_duration_seconds_{what}", method=method, endpoint=path)


def test_a_transaction_is_scored_counted_and_timed(endpoint):
    status, headers, answer = ask(endpoint, "POST", "/predict", GOOD)
    assert (status, headers["content-type"], answer["transaction_id"]) == (200, "application/json", "tx-1")
    assert int(headers["content-length"]) > 100
    assert "traceparent" not in headers
    assert requests(endpoint, "POST", 200, "/predict") == 1
    assert seconds(endpoint, "count") == 1
    assert 0 < seconds(endpoint, "sum") < 60
    assert endpoint.value("http_errors_total", status_class="4xx") == 0
    assert endpoint.value("http_requests_in_progress") == 0


def test_a_batch_is_scored_and_counted_as_one_request(endpoint):
    batch = {"transactions": [GOOD | {"transaction_id": f"tx-{i}"} for i in range(3)]}
    status, _, answer = ask(endpoint, "POST", "/predict/batch", batch)
    assert status == 200
    assert [p["transaction_id"] for p in answer["predictions"]] == ["tx-0", "tx-1", "tx-2"]
    assert requests(endpoint, "POST", 200, "/predict/batch") == 1
    assert seconds(endpoint, "count", "/predict/batch") == 1
    assert 0 < seconds(endpoint, "sum", "/predict/batch") < 60


def test_the_requests_of_one_turn_are_scored_in_one_pass(ready, artifact):
    rows_of_passes = []
    engine = artifact._engine

    def recording(rows):
        rows_of_passes.append(len(rows))
        return engine(rows)

    composed = ready()
    composed.scorer.install(dataclasses.replace(artifact, _engine=recording))

    async def run():
        all_of_them = [Exchange(composed, "POST", "/predict", GOOD) for _ in range(5)]
        return [await each.answer() for each in all_of_them]

    assert {status for status, _, _ in asyncio.run(run())} == {200}
    assert rows_of_passes == [5]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("body", [b"", b"{", b'{"transactions":[{"hour": 99}]}', b"[]"])
def test_what_is_no_transaction_gets_422_with_the_field(endpoint, path, body):
    status, headers, problem = ask(endpoint, "POST", path, body)
    assert (status, headers["content-type"]) == (422, "application/problem+json")
    assert problem["errors"][0].keys() == {"field", "reason"}
    assert endpoint.value("ml_model_errors_total", error_type="validation") == 1
    assert requests(endpoint, "POST", 422, path) == 1
    assert endpoint.value("http_errors_total", status_class="4xx") == 1
    assert endpoint.value("http_errors_total", status_class="5xx") == 0


def test_the_slow_twin_of_the_fast_route_answers_alike(endpoint):
    """FastAPI has its own `/predict`, for the documentation; it must say the same."""
    twin = dataclasses.replace(endpoint, app=endpoint.app._app)
    times = ("prediction_time", "processing_time_ms")
    for body in (GOOD, {}, GOOD | {"hour": 99}):
        fast, slow = (ask(each, "POST", "/predict", body) for each in (endpoint, twin))
        assert fast[0] == slow[0]
        assert {k: v for k, v in fast[2].items() if k not in times} == {
            k: v for k, v in slow[2].items() if k not in times
        }


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_body_that_is_too_large_gets_413_and_the_connection_is_closed(ready, path):
    status, headers, problem = ask(ready(max_body_bytes=1024), "POST", path, b" " * 1025)
    assert (status, headers["connection"], problem["status"]) == (413, "close", 413)


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_what_is_not_json_gets_415(endpoint, path):
    assert ask(endpoint, "POST", path, GOOD, {"content-type": "text/plain"})[0] == 415
    headers = {"accept": "text/plain", "content-type": "Application/JSON; charset=utf-8"}
    assert ask(endpoint, "POST", path, b"{}", headers)[0] == 422
    assert ask(endpoint, "POST", path, b"{}", {"accept": "text/plain"})[0] == 422


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("encoding", ["gzip", "BR", "identity, zstd", "x"])
def test_a_body_in_an_encoding_gets_415_whatever_is_in_it(endpoint, path, encoding):
    for body in (GOOD, gzip.compress(b"{}")):
        status, headers, problem = ask(endpoint, "POST", path, body, JSON | {"content-encoding": encoding})
        assert (status, headers["accept-encoding"]) == (415, "identity")
        assert encoding in problem["detail"]


@pytest.mark.parametrize("encoding", ["identity", "Identity ", ""])
def test_a_body_that_is_said_to_be_as_it_is_is_read(endpoint, encoding):
    assert ask(endpoint, "POST", "/predict", GOOD, JSON | {"content-encoding": encoding})[0] == 200


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_body_that_does_not_come_gets_408(ready, path):
    status, headers, problem = ask(ready(body_timeout_seconds=0.02), "POST", path, None)
    assert (status, headers["connection"]) == (408, "close")
    assert "0.02 s" in problem["detail"]


def test_a_body_in_pieces_is_put_together(endpoint):
    content = json.dumps(GOOD).encode()

    async def run():
        upload = Exchange(endpoint, "POST", "/predict", None)
        for piece in (content[:9], content[9:20]):
            upload.send(piece, more_body=True)
            await asyncio.sleep(0)
        upload.send(content[20:])
        return await upload.answer()

    assert asyncio.run(run())[0] == 200


def test_a_client_above_its_rate_gets_429_and_a_time_to_come_back(ready):
    composed = ready(rate_limit_per_second=0.01, rate_limit_burst=1)
    statuses = []
    for _ in range(3):
        status, headers, problem = ask(composed, "POST", "/predict", GOOD, client=STRANGER)
        statuses.append(status)
    assert statuses == [200, 429, 429]
    assert headers["retry-after"] == "100"
    assert STRANGER in problem["detail"]
    assert requests(composed, "POST", 429, "/predict") == 2
    assert composed.value("http_errors_total", status_class="4xx") == 2
    assert seconds(composed, "count") == 1, "a flood of refusals would hide how slow the answers are"
    assert composed.logged == [
        {"event": "client_refused", "log_level": "warning", "client": STRANGER, "refused": 1}
    ]
    assert ask(composed, "POST", "/predict", GOOD)[0] == 200, "a trusted client has no limit"
    for path in UNLIMITED:
        assert ask(composed, "GET", path, client=STRANGER)[0] == 200
    assert ask(composed, "GET", "/nothing", client=STRANGER)[0] == 429
    assert requests(composed, "GET", 429, "unmatched") == 1
    assert composed.value("http_requests_in_progress") == 0


def test_without_a_setting_no_client_has_a_rate(ready):
    composed = ready(trusted_clients="")
    assert {ask(composed, "POST", "/predict", GOOD, client=STRANGER)[0] for _ in range(300)} == {200}


def test_under_overload_who_has_most_in_flight_is_refused_and_named(ready):
    composed = ready(max_in_flight=4)

    async def run():
        flood = [Exchange(composed, "POST", "/predict", GOOD, client=STRANGER) for _ in range(8)]
        good = [Exchange(composed, "POST", "/predict", GOOD, client="192.0.2.9") for _ in range(2)]
        return [await each.answer() for each in flood], [await each.answer() for each in good]

    flood, good = asyncio.run(run())
    assert [status for status, *_ in good] == [200, 200]
    statuses = [status for status, *_ in flood]
    assert (statuses.count(200), statuses.count(503)) == (2, 6)
    _, headers, problem = flood[-1]
    assert headers["retry-after"] == "1"
    assert STRANGER in problem["detail"]
    assert composed.value("ml_model_failed_predictions_total") == 6
    assert composed.value("ml_model_active_requests") == 0
    assert composed.logged == [
        {"event": "client_refused", "log_level": "warning", "client": STRANGER, "refused": 1}
    ]


def test_when_too_much_waits_the_next_gets_503(ready):
    composed = ready(max_in_flight=1)

    async def run():
        both = [Exchange(composed, "POST", "/predict", GOOD) for _ in range(2)]
        return [await each.answer() for each in both]

    (first, _, _), (second, headers, problem) = asyncio.run(run())
    assert (first, second, headers["retry-after"]) == (200, 503, "1")
    assert "MAX_IN_FLIGHT" in problem["detail"]
    assert composed.value("http_errors_total", status_class="5xx") == 1
    assert composed.value("ml_model_failed_predictions_total") == 1, "a valid transaction got no score"


@pytest.mark.parametrize(("path", "body"), [("/predict", GOOD), ("/predict/batch", {"transactions": [GOOD]})])
def test_a_model_that_breaks_is_answered_without_its_secrets_and_logged(broken, path, body):
    status, _, problem = ask(broken, "POST", path, body, SAMPLED)
    assert (status, problem["detail"]) == (
        500,
        "the model failed on this transaction; the log of the replica says why",
    )
    (line,) = broken.logged
    assert (line["event"], line["endpoint"], line["trace_id"]) == ("request_failed", path, TRACE)
    assert "secret" in str(line["exc_info"])
    assert requests(broken, "POST", 500, path) == 1
    assert broken.value("http_errors_total", status_class="5xx") == 1


def test_without_a_model_the_replica_is_alive_and_not_ready():
    composed = compose()
    assert ask(composed, "GET", "/livez")[2] == {"status": "alive"}
    for method, path, body in [
        ("GET", "/readyz", b""),
        ("GET", "/model", b""),
        ("POST", "/predict", GOOD),
        ("POST", "/predict/batch", {"transactions": [GOOD]}),
    ]:
        status, headers, problem = ask(composed, method, path, body)
        assert (status, problem["status"], headers["retry-after"]) == (503, 503, "3"), path
    assert composed.logged == []
    assert composed.value("http_errors_total", status_class="5xx") == 3, "a probe that is told no is no error"
    assert requests(composed, "GET", 503, "/readyz") == 1


def test_a_draining_replica_says_so_and_still_scores(endpoint):
    _, headers, body = ask(endpoint, "GET", "/readyz")
    assert (body, headers["fraudscale-replica"]) == ({"status": "ready"}, "replica-1@run")
    endpoint.drain.begin()
    status, headers, problem = ask(endpoint, "GET", "/readyz")
    assert (status, headers["retry-after"], problem["detail"]) == (503, "3", "the replica is stopping")
    assert ask(endpoint, "GET", "/livez")[0] == 200
    assert ask(endpoint, "POST", "/predict", GOOD)[0] == 200


def test_model_tells_what_scores_and_what_should(endpoint):
    status, _, answer = ask(endpoint, "GET", "/model")
    assert (status, answer["version"], answer["alias"], answer["threshold"]) == (200, "1", "champion", 0.5)
    assert answer["wanted"] == {"version": "2", "alias": "champion"}
    assert answer["loaded_at"].endswith("Z")
    assert requests(endpoint, "GET", 200, "/model") == 1


def test_the_bodies_are_documented_from_the_one_definition(endpoint):
    _, _, schema = ask(endpoint, "GET", "/openapi.json")
    assert set(schema["components"]["schemas"]["Transaction"]["required"]) == set(GOOD)
    described = schema["paths"]["/predict"]["post"]["responses"]
    assert {"200", "408", "413", "415", "422", "429", "503"} <= described.keys()
    assert ask(endpoint, "GET", "/openapi.json")[2] == schema
    assert ask(endpoint, "GET", "/docs")[0] == 200
    assert requests(endpoint, "GET", 200, "/docs") == 1


def test_the_page_of_docs_loads_only_what_is_served_here(endpoint):
    page = ask(endpoint, "GET", "/docs")[2].decode()
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(loaded) == 3
    for path in loaded:
        assert path.startswith("/docs/static/")
        assert ask(endpoint, "GET", path)[0] == 200, path
    assert "//" not in page.replace("//#", ""), "no address of another host"
    assert ask(endpoint, "GET", "/redoc")[0] == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods_get_405_with_what_is_allowed(endpoint, method):
    status, headers, problem = ask(endpoint, method, "/predict")
    assert (status, headers["allow"]) == (405, "POST")
    assert "/predict takes POST, not " in problem["detail"]
    assert requests(endpoint, method, 405, "/predict") == 1
    assert ask(endpoint, "POST", "/model")[1]["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/model", "/docs", "/openapi.json"])
def test_head_is_answered_as_get_and_counted_as_itself(endpoint, path):
    status, headers, _ = ask(endpoint, "HEAD", path)
    assert status == 200
    assert headers["content-type"] == ask(endpoint, "GET", path)[1]["content-type"]
    assert requests(endpoint, "HEAD", 200, path) == requests(endpoint, "GET", 200, path) == 1


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/livez", "/model", "/docs"])
@pytest.mark.parametrize("host", ["evil.example", "[::1", "a/b@c:x"])
def test_a_slash_at_the_end_leads_nowhere(endpoint, path, host):
    """A redirect would lead to the host that the client names."""
    for method in ("GET", "POST"):
        status, headers, problem = ask(endpoint, method, f"{path}/", GOOD, JSON | {"host": host})
        assert (status, "location" in headers) == (404, False)
        assert problem["detail"] == f"there is nothing at {path}/; see /docs"


def test_methods_and_paths_of_a_client_make_no_series(endpoint):
    for method in ("BREW", "GET", "BEND"):
        assert ask(endpoint, method, "/nothing")[2]["detail"] == "there is nothing at /nothing; see /docs"
    assert requests(endpoint, "OTHER", 404, "unmatched") == 2
    assert requests(endpoint, "GET", 404, "unmatched") == 1
    assert endpoint.value("http_errors_total", status_class="4xx") == 3


def test_metrics_come_in_the_format_that_is_asked_for(endpoint):
    status, headers, body = ask(endpoint, "GET", "/metrics")
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert b"http_requests_in_progress 0.0" in body, "a scrape does not count itself"
    _, headers, body = ask(endpoint, "GET", "/metrics", headers=OPEN_METRICS)
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("path", "body"), [("/predict", GOOD), ("/predict", {}), ("/predict/batch", {"transactions": [GOOD]})]
)
@pytest.mark.parametrize(("flags", "shown"), [("00", 0), ("01", 1)])
def test_a_sampled_request_is_an_exemplar_of_its_bucket(endpoint, path, body, flags, shown):
    ask(endpoint, "POST", path, body, JSON | {"traceparent": f"00-{TRACE}-{SPAN}-{flags}"})
    _, _, text = ask(endpoint, "GET", "/metrics", headers=OPEN_METRICS)
    series = f'http_request_duration_seconds_bucket{{endpoint="{path}",'
    examples = [
        line
        for line in text.decode().splitlines()
        if line.startswith(series) and f'trace_id="{TRACE}"' in line
    ]
    assert len(examples) == shown


@pytest.mark.parametrize("flags", ["00", "01"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/predict", GOOD), ("POST", "/predict", {}), ("GET", "/model", b""), ("GET", "/nothing", b"")],
)
def test_an_answer_names_the_trace_of_its_request(endpoint, method, path, body, flags):
    parent = f"00-{TRACE}-{SPAN}-{flags}"
    _, headers, _ = ask(endpoint, method, path, body, JSON | {"traceparent": parent})
    assert headers["traceparent"] == parent


def test_spans_tell_what_was_asked_and_how_it_ended(ready, broken):
    spans = []
    tracer = Tracer(1.0, 50, spans.extend, random.Random(1))
    composed = ready(tracer=tracer)
    ask(composed, "POST", "/predict", GOOD)
    (root, *stages) = spans
    assert (root.name, root.kind, root.failed) == ("POST /predict", "server", False)
    assert [stage.name for stage in stages] == ["decode", "model"]
    assert root.attributes == {
        "fraudscale.transaction_id": "tx-1",
        "fraudscale.model_version": "1",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/predict",
    }
    assert all(root.started <= stage.started <= stage.ended <= root.ended for stage in stages)
    for path, count in (("/nothing", 1), ("/livez", 0)):
        spans.clear()
        ask(composed, "GET", path)
        assert len(spans) == count, path
    spans.clear()
    composed.scorer.install(broken.scorer.lineup.champion)
    ask(composed, "POST", "/predict", GOOD)
    assert (spans[0].failed, spans[0].attributes["http.response.status_code"]) == (True, 500)


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_client_that_is_gone_is_neither_answered_nor_counted(endpoint, path):
    async def run():
        upload = Exchange(endpoint, "POST", path, None)
        upload.send(b"{", more_body=True)
        await asyncio.sleep(0)
        assert endpoint.value("http_requests_in_progress") == 1
        upload.hang_up()
        await upload.done

    asyncio.run(run())
    assert endpoint.value("http_requests_in_progress") == 0
    assert endpoint.logged == []
    for status in (200, 422, 500):
        assert requests(endpoint, "POST", status, path) == 0


def test_a_route_that_breaks_before_its_answer_gets_one():
    async def breaks(scope, receive, send):
        raise RuntimeError("a secret of the route")

    composed = compose(api=breaks)
    status, _, problem = ask(composed, "GET", "/model")
    assert (status, problem["detail"]) == (500, "an unexpected error; the log of the replica says which")
    assert requests(composed, "GET", 500, "/model") == 1
    assert composed.logged[0]["event"] == "request_failed"


def test_a_route_without_an_answer_is_not_counted():
    async def silent(scope, receive, send):
        pass

    composed = compose(api=silent)
    with pytest.raises(Unanswered):
        ask(composed, "GET", "/model")
    assert requests(composed, "GET", 0, "/model") is None
    assert composed.value("http_requests_in_progress") == 0


def test_what_is_not_http_is_handed_on():
    seen = []

    async def api(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(compose(api=api).app({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
