"""The HTTP client against real small servers: addresses, redirects, limits of size and time, what an error says."""

import contextlib
import ipaddress
import json
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import proxy_bypass

import pytest

from fraudscale import net
from fraudscale.net import Answer, AnswerTooLarge, NoAnswer, Server, TooLate, basic_auth


class Peer(ThreadingHTTPServer):
    """Answers with what it got as JSON; `paths` has functions of the handler for other answers."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, host="127.0.0.1"):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.paths, self.seen, self.clients = {}, [], set()
        self.at = f"[{host}]:{self.server_port}" if ":" in host else f"{host}:{self.server_port}"

    def handle_error(self, *_):
        pass  # a client that went away in the middle is what some tests want


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.clients.add(self.client_address)
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        self.server.paths.get(self.path.partition("?")[0], Handler.echo)(self)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the library's names

    def echo(self):
        said = {"method": self.command, "path": self.path}
        self.say(200, json.dumps(said).encode())

    def say(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def peer(host="127.0.0.1"):
    with Peer(host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def one():
    with peer() as server:
        yield server


@contextlib.contextmanager
def raw(*answers, pause=0.0, drip=0):
    """A listener that reads a request on each connection, sends one of the answers, and closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        for answer in answers:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    for at in range(0, len(answer), drip or len(answer)):
                        connection.sendall(answer[at : at + (drip or len(answer))])
                        time.sleep(pause)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def ask(address, path="/", method="GET", seconds=5.0, **kwargs):
    with Server(address, seconds=seconds) as server:
        return server.ask(method, path, **kwargs)


@pytest.mark.parametrize("form", ["{}", "http://{}", "http://{}/", "http://ann:secret@{}"])
def test_an_address_is_host_and_port_or_a_url(one, form):
    assert ask(form.format(one.at), "/x").json() == {"method": "GET", "path": "/x"}
    assert "Authorization" not in one.seen[0][2]


def test_an_address_may_be_ipv6():
    try:
        with peer("::1") as server:
            assert ask(server.at, "/x").status == 200
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize("form", ["{}/behind/a/proxy", "http://{}/behind/a/proxy/"])
def test_a_path_of_the_address_comes_before_all_paths(one, form):
    assert ask(form.format(one.at), "/x").json()["path"] == "/behind/a/proxy/x"


def test_a_query_is_encoded_and_a_list_gives_a_name_twice(one):
    answer = ask(one.at, "/q", query={"match[]": ["a b", "c&d"], "n": 1})
    assert answer.json()["path"] == "/q?match%5B%5D=a+b&match%5B%5D=c%26d&n=1"


def test_method_body_and_headers_arrive(one):
    with Server(one.at, seconds=5, headers={"X-All": "1"}) as server:
        server.ask("PUT", "/", body=b"content", headers={"X-One": "2"})
    method, _, headers, body = one.seen[0]
    assert (method, headers["X-All"], headers["X-One"], body) == ("PUT", "1", "2", b"content")


@pytest.mark.parametrize("status", [204, 404, 500, 503])
def test_any_status_is_an_answer(one, status):
    one.paths["/"] = lambda handler: handler.say(status, b"", Retry_After="1", X_Header="y")
    answer = ask(one.at)
    assert (answer.status, answer.headers["x-header"]) == (status, "y")
    assert len(one.seen) == 1


def test_connections_are_kept_open(one):
    with Server(one.at, seconds=5) as server:
        for _ in range(3):
            server.ask("POST", "/", body=b"x")
    assert len(one.clients) == 1


def test_several_threads_may_ask_at_once(one):
    with Server(one.at, seconds=5) as server:
        threads = [threading.Thread(target=server.ask, args=("GET", f"/{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {path for _, path, *_ in one.seen} == {f"/{n}" for n in range(8)}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_kept_connection_that_the_server_has_closed_is_made_anew(method):
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with raw(whole, whole) as address, Server(address, seconds=5) as server:
        for _ in range(2):
            assert server.ask(method, "/", body=b"x").body == b"ok"
            time.sleep(0.05)


def test_what_has_no_answer_is_not_sent_again(one):
    def hang_up(handler):
        handler.close_connection = True

    one.paths["/"] = hang_up
    for method in ("GET", "POST"):
        with pytest.raises(NoAnswer, match="doesn't answer: Remote end closed connection without response"):
            ask(one.at, method=method)
    assert len(one.seen) == 2


def test_a_redirect_is_followed(one):
    one.paths["/old"] = lambda handler: handler.say(302, b"", Location="/new?a=1")
    assert ask(one.at, "/old").json()["path"] == "/new?a=1"


def test_redirects_without_end_are_given_up(one):
    one.paths["/"] = lambda handler: handler.say(302, b"", Location="/")
    with pytest.raises(NoAnswer, match="too many redirects"):
        ask(one.at)
    assert len(one.seen) == 6


def test_a_redirect_to_another_host_takes_no_credentials_with_it(one):
    with peer() as other:
        one.paths["/"] = lambda handler: handler.say(302, b"", Location=f"http://{other.at}/x")
        one.paths["/here"] = lambda handler: handler.say(302, b"", Location="/x")
        with Server(one.at, seconds=5, headers={"Authorization": "Basic x", "X-Token": "y"}) as server:
            server.ask("GET", "/")
            server.ask("GET", "/here")
    sent = [{"Authorization", "X-Token"} & seen[2].keys() for seen in (other.seen[0], one.seen[-1])]
    assert sent == [set(), {"Authorization", "X-Token"}]


def test_redirects_have_no_time_of_their_own(one):
    def slow(handler):
        time.sleep(0.2)
        handler.say(302, b"", Location="/")

    one.paths["/"] = slow
    with pytest.raises(TooLate):
        ask(one.at, seconds=0.5)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_given_up(one, chunked):
    def endless(handler):
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n" if chunked else b"x" * 1000)

    one.paths["/"] = endless
    with (
        Server(one.at, seconds=5, most=100_000) as server,
        pytest.raises(AnswerTooLarge, match=f"http://{one.at} answers more than 100000 bytes to /"),
    ):
        server.ask("GET", "/")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000,
    ],
    ids=["body", "chunks", "headers", "until closed"],
)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(answer):
    with (
        raw(answer, pause=0.02, drip=2) as address,
        pytest.raises(TooLate, match=f"http://{address} doesn't answer: timed out"),
    ):
        ask(address, seconds=0.4)


def test_a_server_that_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TooLate, match="timed out"):
        ask(f"127.0.0.1:{silent.getsockname()[1]}", seconds=0.2)


def test_one_question_may_have_a_limit_of_its_own(one):
    one.paths["/"] = lambda _: time.sleep(0.5)
    with Server(one.at, seconds=30) as server, pytest.raises(TooLate):
        server.ask("GET", "/", seconds=0.1)


def test_nobody_listening_is_said_plainly():
    with pytest.raises(NoAnswer) as caught:
        ask("127.0.0.1:1")
    assert str(caught.value) == "http://127.0.0.1:1 doesn't answer: Connection refused"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nosuch.invalid", "http://nosuch.invalid doesn't answer: "),
        ("http://bad host", "invalid character"),
        ("ftp://127.0.0.1", "Not supported URL scheme ftp"),
    ],
)
def test_an_address_that_is_none_is_said_plainly(address, reason):
    with pytest.raises(NoAnswer, match=reason) as caught:
        ask(address)
    assert " object at " not in str(caught.value)


def test_the_cause_is_not_what_the_caller_was_handling():
    try:
        {}["unrelated"]
    except KeyError:
        with pytest.raises(NoAnswer, match="Connection refused"):
            ask("127.0.0.1:1")


@pytest.fixture
def certificate(tmp_path):
    """A certificate of 127.0.0.1 that vouches for itself, and its key, in one file."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "peer.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def secure(one, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    one.socket = context.wrap_socket(one.socket, server_side=True)
    return one


def test_tls_is_spoken_with_a_server_that_the_system_knows(secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secure.paths["/slow"] = lambda _: time.sleep(1)
    with Server(f"https://{secure.at}", seconds=5) as server:
        assert server.ask("POST", "/x", body=b"y").json() == {"method": "POST", "path": "/x"}
        assert server.ask("GET", "/x").status == 200
        with pytest.raises(TooLate):
            server.ask("GET", "/slow", seconds=0.2)


def test_a_certificate_that_nobody_vouches_for_is_refused(secure):
    with pytest.raises(NoAnswer, match="certificate verify failed"):
        ask(f"https://{secure.at}")
    assert secure.seen == []


def test_tls_to_a_plain_port_is_said_plainly(one):
    with pytest.raises(NoAnswer, match=r"https://[\d.:]+ doesn't answer: .*SSL"):
        ask(f"https://{one.at}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "IncompleteRead"),
    ],
)
def test_an_answer_that_is_no_http_or_breaks_off(answer, reason):
    with raw(answer) as address, pytest.raises(NoAnswer, match=reason):
        ask(address)


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_shown(body):
    with pytest.raises(NoAnswer, match="answers 200 with a body that is not JSON") as caught:
        Answer(200, {}, body).json()
    assert len(str(caught.value)) < 200


def test_proxies_of_the_environment_are_not_used(one, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(one.at).status == 200


@pytest.mark.parametrize(("without", "through"), [("", 1), ("127.0.0.1", 0)])
def test_proxies_of_the_environment_are_used_where_it_is_asked_for(one, monkeypatch, without, through):
    with peer() as proxy:
        monkeypatch.setenv("http_proxy", f"http://ann:se%3Acret@{proxy.at}")
        monkeypatch.setenv("no_proxy", without)
        with Server(one.at, seconds=5, proxies=True) as server:
            assert server.ask("GET", "/x").status == 200
    assert [seen[1] for seen in proxy.seen] == [f"http://{one.at}/x"] * through
    assert len(one.seen) == 1 - through
    sent = [seen[2].get("Proxy-Authorization") for seen in proxy.seen]
    assert sent == [basic_auth("ann", "se:cret")] * through


def test_a_stream_gives_chunks_as_they_come_and_has_time_for_each():
    whole = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 60
    with (
        raw(whole, pause=0.05, drip=len(whole) // 8) as address,
        Server(address, seconds=0.3) as server,
        server.stream("GET", "/") as answer,
    ):
        chunks = list(answer.chunks)
    assert answer.status == 200
    assert b"".join(chunks) == b"x" * 60
    assert len(chunks) > 2


def test_a_stream_that_stops_coming_is_given_up():
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\nxx"
    with (
        raw(whole, pause=1) as address,
        Server(address, seconds=0.2) as server,
        server.stream("GET", "/") as answer,
    ):
        assert next(answer.chunks) == b"xx"
        with pytest.raises(TooLate):
            next(answer.chunks)


def test_what_goes_wrong_with_the_chunks_is_not_the_server_s_fault(one):
    with Server(one.at, seconds=5) as server, pytest.raises(OSError, match="disk"), server.stream("GET", "/"):
        raise OSError("the disk is full")


def test_a_stream_that_is_not_read_to_its_end_spoils_no_other_answer(one):
    def large(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    one.paths["/large"] = large
    with Server(one.at, seconds=5) as server:
        with server.stream("GET", "/large") as answer:
            next(answer.chunks)
        assert server.ask("GET", "/x").json()["path"] == "/x"


def test_a_body_stays_as_it_was_sent(one):
    one.paths["/"] = lambda handler: handler.say(200, b"\x1f\x8bnot really", Content_Encoding="gzip")
    assert ask(one.at).body == b"\x1f\x8bnot really"


def test_name_and_password_become_a_header():
    assert basic_auth("ann", "se:cret") == "Basic YW5uOnNlOmNyZXQ="


def test_libraries_ask_loopback_and_the_registry_without_a_proxy(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    net.keep_from_proxies("http://mlflow.internal:5000")
    for host in ("127.0.0.1", "localhost", "mlflow.internal", "example.org"):
        assert proxy_bypass(host), host
    assert not proxy_bypass("example.com")
