"""Bodies: what is taken, and of those that take their time, who gets a place and who gets none."""

import asyncio
import time

import pytest

from fraudscale.config import HttpSettings
from fraudscale.config_values import networks
from fraudscale.telemetry.asgi import BodyTooLarge, ClientGone
from fraudscale.web import bodies
from fraudscale.web.bodies import Bodies
from fraudscale.web.clients import Clients
from fraudscale.web.problems import BodyTimeout, Overloaded, UnsupportedMediaType

NEVER = 3600.0


class Upload:
    """The body of one request, sent in pieces when the test says so."""

    def __init__(self, reader, client="192.0.2.1", headers=((b"content-type", b"application/json"),)):
        self._messages = asyncio.Queue()
        scope = {"headers": headers, "client": (client, 1)}
        self.read = asyncio.ensure_future(reader.read_json(scope, self._messages.get))

    def send(self, piece, more_body=False):
        self._messages.put_nowait({"type": "http.request", "body": piece, "more_body": more_body})
        return self

    def hang_up(self):
        self._messages.put_nowait({"type": "http.disconnect"})


@pytest.fixture
def reader(monkeypatch):
    def make(*, grace=0.0, **settings):
        monkeypatch.setattr(bodies, "GRACE_SECONDS", grace)
        http = HttpSettings(_env_file=None, **settings)
        return Bodies(http, Clients((), networks("172.16.0.1")))

    return make


async def slow(reader, client="192.0.2.1"):
    """Begin a body, and wait until it is counted as slow."""
    before = reader.slow
    upload = Upload(reader, client).send(b"{", more_body=True)
    async with asyncio.timeout(30):
        while reader.slow == before and not upload.read.done():  # noqa: ASYNC110 - a timer changes it
            await asyncio.sleep(0)
    return upload


def test_a_body_that_is_here_needs_no_place(reader):
    async def run():
        made = reader(slow_bodies=1)
        held = await slow(made)
        for _ in range(3):
            assert await Upload(made).send(b"{}").read == b"{}"
        held.send(b"}")
        return await held.read

    assert asyncio.run(run()) == b"{}"


def test_a_body_just_behind_its_head_needs_no_place(reader):
    async def run():
        made = reader(slow_bodies=1)
        held = await slow(made)
        bodies.GRACE_SECONDS = NEVER
        late = [Upload(made) for _ in range(5)]
        await asyncio.sleep(0)
        for upload in late:
            upload.send(b"[", more_body=True).send(b"]")
        assert await asyncio.gather(*(upload.read for upload in late)) == [b"[]"] * 5
        assert made.slow == 1
        held.send(b"}")
        await held.read
        assert made.slow == 0

    asyncio.run(run())


def test_one_client_may_have_all_places_until_another_needs_one(reader):
    """A gateway is one client, and its bodies may all be slow."""

    async def run():
        made = reader(slow_bodies=4)
        held = [await slow(made, "192.0.2.1") for _ in range(4)]
        with pytest.raises(Overloaded, match=r"4 bodies arrive slowly already, and 192\.0\.2\.1 has most"):
            await (await slow(made, "192.0.2.1")).read
        others = []
        for client in ("172.16.0.1", "192.0.2.2"):
            others.append(Upload(made, client).send(b"{", more_body=True))
            with pytest.raises(Overloaded, match=r"192\.0\.2\.1 has most") as refused:
                await held.pop().read
            assert refused.value.close
        with pytest.raises(Overloaded, match=r"192\.0\.2\.2 has most"):
            await (await slow(made, "192.0.2.2")).read
        assert made.slow == 4
        for upload in (*held, *others):
            upload.send(b"}")
            assert await upload.read == b"{}"
        assert made.slow == 0

    asyncio.run(run())


def test_a_place_is_free_again_whatever_ends_the_body(reader):
    async def run():
        made = reader(slow_bodies=1)
        gone = await slow(made)
        gone.hang_up()
        with pytest.raises(ClientGone):
            await gone.read
        cancelled = await slow(made)
        cancelled.read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled.read
        assert made.slow == 0

    asyncio.run(run())


def test_a_body_that_never_ends_is_given_up_and_its_place_with_it(reader):
    async def run():
        made = reader(slow_bodies=1, body_timeout_seconds=0.05)
        with pytest.raises(BodyTimeout, match=r"within 0\.05 s"):
            await (await slow(made)).read
        assert made.slow == 0

    asyncio.run(run())


def test_a_client_without_a_slow_body_is_forgotten(reader):
    async def run():
        made = reader(slow_bodies=16)
        held = [await slow(made, client) for client in ("192.0.2.1", "192.0.2.1", "172.16.0.1")]
        held[0].send(b"}")
        await held[0].read
        assert [made._slow._shares.of(client) for client in ("192.0.2.1", "172.16.0.1")] == [1, 1]
        for upload in held[1:]:
            upload.send(b"}")
            await upload.read
        assert made._slow._shares._places == {}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ([], True),
        ([(b"accept", b"text/plain")], True),
        ([(b"content-type", b"Application/JSON ; charset=utf-8")], True),
        ([(b"content-type", b"text/plain")], False),
        ([(b"content-type", b"application/json-patch+json")], False),
        ([(b"content-type", b"")], False),
    ],
)
def test_only_a_content_type_other_than_json_is_refused(reader, headers, taken):
    async def run():
        upload = Upload(reader(), headers=headers).send(b"{}")
        if taken:
            assert await upload.read == b"{}"
        else:
            with pytest.raises(UnsupportedMediaType, match="send application/json"):
                await upload.read

    asyncio.run(run())


def test_a_body_may_be_as_long_as_allowed(reader):
    async def run():
        made = reader(max_body_bytes=1024)
        assert len(await Upload(made).send(b" " * 1024).read) == 1024
        with pytest.raises(BodyTooLarge, match=r"^the body has 1025 bytes, at most 1024 are taken$"):
            await Upload(made).send(b" " * 1025).read

    asyncio.run(run())


def test_a_process_that_did_not_run_for_a_while_calls_no_body_slow(reader):
    """All timers are due then, and the bytes that came meanwhile are not read yet."""

    async def run():
        made = reader(grace=0.1, slow_bodies=1)
        held = await slow(made)
        late = Upload(made)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()

        def come_in_two_pieces():
            late.send(b"{", more_body=True)
            loop.call_soon(late.send, b"}")

        loop.call_later(0.01, come_in_two_pieces)
        time.sleep(0.2)  # noqa: ASYNC251 - the process does not run
        assert await late.read == b"{}"
        assert made.slow == 1
        held.send(b"}")
        await held.read

    asyncio.run(run())
