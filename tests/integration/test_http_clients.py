"""Clients that people have, through both HTTP endpoints: a replica, and the balancer in front of it."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fraudscale.config import HttpSettings, LocalSettings
from fraudscale.local.components import haproxy
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.debian import HAPROXY, Packages, found, library_path
from fraudscale.local.install.folder import DownloadFolder
from fraudscale.local.install.ports import Ports, claim_block
from fraudscale.scoring import model
from http_endpoint import GOOD, JSON, compose, serving

SOURCES = Path(__file__).parent / "clients"
TYPE = "content-type: application/json"


@pytest.fixture(scope="module")
def endpoints(make_artifact, tmp_path_factory):
    """Name → address."""
    folder = tmp_path_factory.mktemp("artifact")
    make_artifact(folder)
    files = {name: (folder / name).read_bytes() for name in model.SERVED_FILES}
    composed = compose()
    composed.scorer.install(
        model.build((folder / model.MANIFEST).read_bytes(), files, version="1", alias="champion")
    )
    with ExitStack() as running:
        ports = Ports.at(running.enter_context(claim_block()))
        running.enter_context(serving(composed, ports.serve[0]))
        running.enter_context(balanced(ports, tmp_path_factory.mktemp("haproxy")))
        yield {
            name: f"http://127.0.0.1:{port}"
            for name, port in (("replica", ports.serve[0]), ("entry", ports.entry))
        }


def balanced(ports, folder):
    """Start the balancer that `up` runs, and wait until it has found the replica."""
    settings = HttpSettings(_env_file=None)
    for name, content in haproxy.error_files(settings).items():
        (folder / name).write_text(content)
    config = haproxy.cfg(ports, folder, settings, run_id="run", trusted_clients="127.0.0.1", exports=False)
    # only the slot that is there, so that a busy machine tries no other; nobody is here to open it
    config = re.sub(r"(?m)^ +server replica-[2-6].*\n?", "", config).replace(" disabled", "")
    (folder / "haproxy.cfg").write_text(config)
    packages = Packages(DownloadFolder(LocalSettings.read().fraudscale_cache, print))
    program = packages.programs((HAPROXY,))[HAPROXY]
    libraries = "" if found(HAPROXY) else packages.libraries(HAPROXY.package)
    running = ExitStack()
    log = running.enter_context((folder / "log").open("wb"))
    process = subprocess.Popen(
        [program, "-db", "-f", folder / "haproxy.cfg"],
        env=os.environ | library_path(libraries),
        stdout=log,
        stderr=log,
    )
    running.callback(process.wait, 30)
    running.callback(process.kill)
    deadline = time.monotonic() + 60
    while not http_ok(f"http://127.0.0.1:{ports.entry}/readyz"):
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
    return running


def program(name):
    """A program of this machine."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on this machine")
    return path


def output(command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(url, body, _, *options):
    command = [
        program("curl"),
        "-sS",
        "-H",
        TYPE,
        "--data-binary",
        "@-",
        "-w",
        "\n%{http_code}",
        *options,
        url,
    ]
    content, _, status = output(command, input=body).rpartition("\n")
    return [f"{status} {content}"]


def curl_that_offers_http_2(*request):
    return curl(*request, "--http2")


def curl_that_waits_for_100(*request):
    return curl(*request, "-H", "expect: 100-continue")


def curl_in_chunks(*request):
    return curl(*request, "-H", "transfer-encoding: chunked")


def wget(url, body, _):
    # It ends with a code of its own for whatever is not 200.
    command = [program("wget"), "-qO-", f"--header={TYPE}", f"--post-data={body}", url]
    return [f"200 {output(command)}"]


def jdk(url, body, _):
    java = program("java")
    if "jdk.compiler" not in output([java, "--list-modules"]):
        pytest.skip("the java of this machine runs no source")
    return output([java, SOURCES / "Client.java", url, body]).splitlines()


def go(url, body, cache):
    built = cache / "client"
    if not built.exists():
        output(
            [program("go"), "build", "-o", built, SOURCES / "client.go"],
            env=os.environ | {"GOTOOLCHAIN": "local"},
        )
    return output([built, url, body]).splitlines()


def node(url, body, _):
    return output([program("node"), SOURCES / "client.mjs", url, body]).splitlines()


def requests(url, body, _):
    client = pytest.importorskip("requests")
    answers = [client.post(url, data, headers=JSON, timeout=30) for data in (body, iter([body.encode()]))]
    return [f"{answer.status_code} {answer.text}" for answer in answers]


def httpx(url, body, _):
    client = pytest.importorskip("httpx")
    answers = [
        client.post(url, content=data, headers=JSON, timeout=30) for data in (body, iter([body.encode()]))
    ]
    return [f"{answer.status_code} {answer.text}" for answer in answers]


def aiohttp(url, body, _):
    client = pytest.importorskip("aiohttp")

    async def post():
        async with client.ClientSession() as session:
            for waits in (False, True):
                async with session.post(url, data=body, headers=JSON, expect100=waits) as answer:
                    yield f"{answer.status} {await answer.text()}"

    async def posts():
        return [line async for line in post()]

    return asyncio.run(posts())


def as_dotnet(url, body, _):
    """HttpWebRequest: the body waits for 100, or for a third of a second."""
    host, _, path = url.removeprefix("http://").partition("/")
    head = f"POST /{path} HTTP/1.1\r\nHost: {host}\r\n{TYPE}\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=30) as connection:
        answers = connection.makefile("rb")
        connection.sendall(head.encode())
        assert (answers.readline(), answers.readline()) == (b"HTTP/1.1 100 Continue\r\n", b"\r\n")
        connection.sendall(body.encode())
        status, length = answers.readline().split()[1].decode(), 0
        while (line := answers.readline()) != b"\r\n":
            name, _, value = line.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        return [f"{status} {answers.read(length).decode()}"]


# Go compiles its standard library first, which takes minutes on a small machine.
SLOW = (pytest.mark.slow, pytest.mark.timeout(900))
CLIENTS = (
    *(curl, curl_that_offers_http_2, curl_that_waits_for_100, curl_in_chunks, wget, jdk),
    pytest.param(go, marks=SLOW),
    *(node, requests, httpx, aiohttp, as_dotnet),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where a client keeps what it was built into."""
    return tmp_path_factory.mktemp("clients")


@pytest.mark.parametrize(("endpoint", "path"), [("replica", "/predict"), ("entry", "/predict/batch")])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_client_gets_the_score_of_what_it_sent(endpoints, endpoint, client, path, cache):
    transaction = GOOD | {"transaction_id": f"€-{client.__name__}"}
    body = transaction if path == "/predict" else {"transactions": [transaction]}
    lines = client(endpoints[endpoint] + path, json.dumps(body), cache)
    assert lines
    for line in lines:
        status, _, content = line.partition(" ")
        assert status == "200", line
        answer = json.loads(content)
        prediction = answer if path == "/predict" else answer["predictions"][0]
        assert prediction["transaction_id"] == transaction["transaction_id"]
