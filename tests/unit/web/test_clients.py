"""Who asks, and how often they may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudscale.config_values import networks
from fraudscale.token_bucket import TokenBuckets
from fraudscale.web.clients import HOPS, Clients

FORWARDED = b"x-forwarded-for"


def test_a_full_bucket_holds_the_burst_and_gains_the_rate():
    buckets = TokenBuckets(rate=50, burst=100, most=10)
    assert sum(buckets.take("a", 1e6) == 0 for _ in range(200)) == 100
    assert buckets.take("a", 1e6) == pytest.approx(0.02, abs=1e-5)
    assert sum(buckets.take("a", 1e6 + 1) == 0 for _ in range(200)) == 50
    assert sum(buckets.take("a", 1e6 + 60) == 0 for _ in range(200)) == 100


def test_the_wait_that_is_told_is_enough_and_not_too_long():
    buckets = TokenBuckets(rate=10, burst=3, most=10)
    for _ in range(3):
        assert buckets.take("a", 0.0) == 0
    wait = buckets.take("a", 0.0)
    assert buckets.take("a", 0.9 * wait) > 0
    assert buckets.take("a", wait) == 0


def test_one_client_does_not_empty_the_bucket_of_another():
    buckets = TokenBuckets(rate=1, burst=1, most=10)
    assert (buckets.take("a", 0.0), buckets.take("b", 0.0)) == (0, 0)
    assert buckets.take("a", 0.5) > 0
    assert buckets.take("b", 0.5) > 0


gaps = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 0.05), st.floats(0, 5), st.floats(0, 1e4)), min_size=1, max_size=150
)


@given(rate=st.floats(0.01, 1000), burst=st.integers(1, 50), start=st.floats(0, 1e7), gaps=gaps)
def test_in_no_window_a_client_gets_more_than_burst_and_rate(rate, burst, start, gaps):
    buckets = TokenBuckets(rate, burst, most=2)
    now, taken = start, []
    for gap in gaps:
        now += gap
        if buckets.take("a", now) == 0:
            taken.append(now)
    for i, first in enumerate(taken):
        for j, last in enumerate(taken[i:], 1):
            assert j <= burst + rate * (last - first) + 0.01  # of rounding, at these instants


@given(rate=st.floats(0.01, 1000), burst=st.integers(1, 50), gaps=gaps)
def test_who_keeps_to_the_rate_is_never_refused(rate, burst, gaps):
    buckets = TokenBuckets(rate, burst, most=2)
    now = 0.0
    for gap in gaps:
        now += gap + 1 / rate
        assert buckets.take("a", now) == 0


@given(clients=st.lists(st.integers(0, 30), max_size=300), most=st.integers(1, 20))
def test_the_table_is_bounded_and_forgets_the_idlest(clients, most):
    buckets = TokenBuckets(rate=0.001, burst=1, most=most)
    latest: dict[int, None] = {}
    for now, client in enumerate(clients):
        remembered = client in list(latest)[-most:]
        assert (buckets.take(str(client), now / 1e3) > 0) == remembered
        assert len(buckets) <= most
        latest.pop(client, None)
        latest[client] = None


CASES = {
    "the peer, if it is no proxy of ours": ("192.0.2.7", [], "192.0.2.7"),
    "a stranger's header is not believed": ("192.0.2.7", [b"198.51.100.1"], "192.0.2.7"),
    "a stranger can't claim to be trusted": ("192.0.2.7", [b"172.16.0.1"], "192.0.2.7"),
    "whom our proxy names": ("10.0.0.1", [b"192.0.2.7"], "192.0.2.7"),
    "not what that one claims": ("10.0.0.1", [b"172.16.0.1, 192.0.2.7"], "192.0.2.7"),
    "nor in a header of its own": ("10.0.0.1", [b"172.16.0.1", b"192.0.2.7"], "192.0.2.7"),
    "behind two proxies of ours": ("10.0.0.1", [b"198.51.100.1,192.0.2.7,10.0.0.2"], "192.0.2.7"),
    "a claim to come from our proxy": ("10.0.0.1", [b"10.0.0.9, 192.0.2.7"], "192.0.2.7"),
    "nobody but proxies: the farthest": ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    "a proxy's own request": ("10.0.0.1", [], "10.0.0.1"),
    "a proxy that hides whom it speaks for": ("10.0.0.1", [b"unknown"], "10.0.0.1"),
    "an empty header": ("10.0.0.1", [b""], "10.0.0.1"),
    "trusted": ("172.16.0.1", [], None),
    "trusted, through a proxy": ("10.0.0.1", [b"192.0.2.7, 172.16.0.1"], None),
    "with a port": ("10.0.0.1", [b"192.0.2.7:4711"], "192.0.2.7"),
    "IPv6 with a port": ("10.0.0.1", [b"[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
    "all of an IPv6 customer's addresses": ("2001:db8:1:2::ffff", [], "2001:db8:1:2::/64"),
    "IPv4 on a socket for both": ("::ffff:192.0.2.7", [], "192.0.2.7"),
    "a trusted one there": ("::ffff:172.16.0.1", [], None),
    "no address, as with a Unix socket": ("", [b"192.0.2.7"], ""),
    "more proxies than can be": ("10.0.0.1", [b",".join([b"192.0.2.7", *[b"10.0.0.2"] * 99])], "10.0.0.2"),
    "a very long claim": ("10.0.0.1", [b"x" * 9000 + b",192.0.2.7"], "192.0.2.7"),
    "a very long claim alone": ("10.0.0.1", [b"x" * 9000], "10.0.0.1"),
    "bytes that are no text": ("10.0.0.1", [b"\xff\xfe"], "10.0.0.1"),
}


@pytest.mark.parametrize(("peer", "forwarded", "client"), CASES.values(), ids=CASES)
def test_the_client_is(peer, forwarded, client):
    clients = Clients(networks("10.0.0.0/8"), networks("172.16.0.1"))
    headers = [(b"host", b"192.0.2.99"), *((FORWARDED, value) for value in forwarded)]
    assert clients.limited(peer, headers) == client
    scope = {"client": (peer, 1) if peer else None, "headers": headers}
    assert clients.name(scope) == (client if client is not None else "172.16.0.1")


@given(claim=st.binary(max_size=200), hops=st.integers(0, HOPS - 1))
def test_whatever_a_client_writes_in_front_changes_nothing(claim, hops):
    clients = Clients(networks("10.0.0.0/8"), networks("172.16.0.1"))
    ours = [b"192.0.2.7", *[b"10.0.0.2"] * hops]
    assert clients.limited("10.0.0.1", [(FORWARDED, b",".join([claim, *ours]))]) == "192.0.2.7"


@pytest.mark.parametrize("text", ["localhost", "10.0.0.0/99", "10.0.0.1/8", "1.2.3.4;5.6.7.8"])
def test_what_is_no_network_is_refused(text):
    with pytest.raises(ValueError, match=text.partition(";")[0]):
        networks(text)
