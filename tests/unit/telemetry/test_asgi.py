"""What our HTTP servers share: bodies within a bound, problems, the socket."""

import asyncio
import json

import pytest

from fraudscale.config import SettingsError
from fraudscale.telemetry.asgi import (
    READ_ON,
    BodyTooLarge,
    ClientGone,
    FieldError,
    listen,
    problem_json,
    read_body,
    send_whole,
)


def read(*messages, limit=10):
    """Read a body that comes in these messages; return it, and how many were not asked for."""
    left = list(messages)

    async def receive():
        return left.pop(0)

    return asyncio.run(read_body(receive, limit)), len(left)


def piece(body, more_body=False):
    return {"type": "http.request", "body": body, "more_body": more_body}


def test_a_body_is_put_together_and_read_to_its_end_only():
    assert read(piece(b"ab", more_body=True), piece(b"", more_body=True), piece(b"cd"), piece(b"no")) == (
        b"abcd",
        1,
    )
    assert read({"type": "http.request"}) == (b"", 0)


def test_a_body_may_have_as_many_bytes_as_the_limit():
    assert read(piece(b"12345", more_body=True), piece(b"67890")) == (b"1234567890", 0)
    with pytest.raises(BodyTooLarge, match=r"^the body has 11 bytes, at most 10 are taken$"):
        read(piece(b"12345", more_body=True), piece(b"678901"))


def test_a_body_without_end_is_read_for_a_while_and_given_up():
    endless = [piece(b"1234567890", more_body=True)] * 100
    with pytest.raises(
        BodyTooLarge, match=rf"^the body has more than {10 * (READ_ON + 1)} bytes, at most 10"
    ):
        read(*endless)


def test_a_client_that_hangs_up_ends_the_reading():
    with pytest.raises(ClientGone):
        read(piece(b"12", more_body=True), {"type": "http.disconnect"})


def test_a_problem_has_the_titles_of_rfc_9110_and_errors_only_where_there_are_any():
    assert json.loads(problem_json(413, "too large")) == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": "too large",
    }
    errors = json.loads(problem_json(422, "bad", [FieldError("hour", "late")]))["errors"]
    assert errors == [{"field": "hour", "reason": "late"}]


def test_an_answer_in_one_piece_tells_its_length():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(send_whole(send, 200, [(b"a", b"b")], b"four"))
    start, body = sent
    assert (start["status"], start["headers"]) == (200, [(b"a", b"b"), (b"content-length", b"4")])
    assert (body["type"], body["body"]) == ("http.response.body", b"four")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_named_with_its_setting_while_another_has_it(host):
    try:
        listener = listen("SOME_PORT", host, 0)
    except SettingsError:
        pytest.skip("this machine has no IPv6")
    with listener as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=rf"^SOME_PORT={port}: can't listen on {host}:{port}: .*another$"
        ):
            listen("SOME_PORT", host, port)
    listen("SOME_PORT", host, port).close()


def test_an_address_that_is_not_of_this_machine_is_named():
    with pytest.raises(SettingsError, match="can't listen on 192\\.0\\.2\\.1:8000"):
        listen("SOME_PORT", "192.0.2.1", 8000)
