import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fraudscale.config import (
    HttpSettings,
)
from fraudscale.local.components import assembly, haproxy
from fraudscale.local.install.ports import Ports
from fraudscale.telemetry.asgi import ProblemBody
from fraudscale.token_bucket import TokenBuckets


def haproxy_cfg(*, trusted="127.0.0.1", exports=True, **settings):
    http = HttpSettings(_env_file=None, **settings)
    return haproxy.cfg(
        Ports.at(21_000), Path("/e"), http, run_id="run", trusted_clients=trusted, exports=exports
    )


def test_haproxy_has_a_slot_for_every_replica_that_may_come(blueprint):
    cfg = haproxy_cfg()
    lines = [line.split() for line in cfg.splitlines() if line.startswith("    server ")]
    servers = [line[1:4] for line in lines]
    slots = [(f"replica-{i}", f"127.0.0.1:{21_010 + i}") for i in range(1, 7)]
    assert servers == [
        *([name, address, "check"] for name, address in slots),
        *([f"{name}-unchecked", address, "backup"] for name, address in slots[:4]),
    ]
    assert {line[-1] for line in lines} == {"disabled"}, "until the supervisor says so"
    assert [f"replicas/{line[1]}" for line in lines] == [name for _, name in haproxy.servers()]


class SlidingCounter:
    """HAProxy's rate over a period: this one's count, and of the one before it the component that is still in the window."""

    def __init__(self, seconds):
        self._seconds, self._period, self._now, self._before = seconds, 0, 0, 0

    def rate(self, at):
        period, within = divmod(at, self._seconds)
        if period != self._period:
            self._before = self._now if period == self._period + 1 else 0
            self._now, self._period = 0, period
        return self._now + self._before * (1 - within / self._seconds)

    def add(self):
        self._now += 1


@given(
    start=st.floats(0, 100),
    gaps=st.lists(st.sampled_from([0.0, 0.01, 0.019, 0.1, 0.7, 2.0, 9.0]), min_size=1, max_size=60),
)
@example(start=0.0, gaps=[0.1] * 70)
def test_the_balancer_refuses_nobody_whom_a_bucket_lets_through(start, gaps):
    cfg = haproxy_cfg(rate_limit_per_second=10, rate_limit_burst=8)
    windows = [int(ms) / 1000 for ms in re.findall(r"gpc[01]_rate\((\d+)ms\)", cfg)[:2]]
    most = [int(n) for n in re.findall(r"!probe \{ sc0_gpc[01]_rate gt (\d+) \}", cfg)]
    assert (len(windows), len(most)) == (2, 2)
    counters = [SlidingCounter(seconds) for seconds in windows]
    bucket, now = TokenBuckets(10, 8, 1), start
    for gap in gaps:
        now += gap
        while bucket.take("a", now) == 0:  # as fast as the bucket allows
            for counter, allowed in zip(counters, most, strict=True):
                assert counter.rate(now) <= allowed
                counter.add()


def test_unless_set_a_client_has_a_thousand_requests_a_second_and_a_burst_of_two():
    cfg = haproxy_cfg()
    assert "gpc0_rate(2000ms),gpc1_rate(8000ms)" in cfg
    assert "{ sc0_gpc0_rate gt 4000 } or !probe { sc0_gpc1_rate gt 10000 }" in cfg
    assert "more than 1000 requests a second" in ERROR_FILES["429.http"]
    assert HttpSettings(_env_file=None).burst(1000) == 2000
    assert HttpSettings(_env_file=None, rate_limit_burst=7).burst(1000) == 7
    assert HttpSettings(_env_file=None).burst(0.1) == 1


def test_an_haproxy_without_the_exporter_gets_a_configuration_without_it():
    cfg = haproxy_cfg(exports=False)
    assert "prometheus-exporter" not in cfg


ERROR_FILES = haproxy.error_files(HttpSettings(_env_file=None))


@pytest.mark.parametrize("name", ERROR_FILES)
def test_the_balancers_own_errors_have_the_shape_of_ours(name):
    head, _, body = ERROR_FILES[name].partition("\r\n\r\n")
    status = int(name[:3])
    problem = msgspec.json.decode(body, type=ProblemBody)
    assert problem.status == status
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "content-type: application/problem+json" in head
    assert f"content-length: {len(body)}" in head
    assert ("retry-after" in head) == (status in {429, 503, 504})


def test_every_file_that_haproxy_is_told_of_is_written(blueprint):
    written = assembly.files(blueprint())
    (cfg,) = [content for path, content in written.items() if path.name == "haproxy.cfg"]
    named = {Path(name) for name in re.findall(r'"([^"]+\.http)"', cfg)}
    assert named == {path for path in written if path.suffix == ".http"}


def test_a_slow_rate_is_told_by_the_balancer_too():
    files = haproxy.error_files(HttpSettings(_env_file=None, rate_limit_per_second=0.1))
    assert "retry-after: 10\r\n" in files["429.http"]


def test_nobody_is_trusted_where_nobody_is_named():
    assert "acl trusted always_false" in haproxy_cfg(trusted="")
