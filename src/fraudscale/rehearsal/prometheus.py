"""What really happened, asked of Prometheus: CPU, memory and replicas of the job `ml-model` as a trace."""

import math
from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from fraudscale.errors import FraudscaleError
from fraudscale.net import NoAnswer, Server
from fraudscale.rehearsal.trace import LoadTrace, Segment, Setup, TraceError, of_load

ASK_SECONDS: Final = 30.0
MAX_POINTS: Final = 10_000
"""Of one question: Prometheus refuses more than 11,000."""

CPU: Final = '1000 * sum(rate(process_cpu_seconds_total{job="ml-model"}[1m]))'
"""Milli-cores of all processes of all replicas."""
# Only `serve` exports http_*, one process a replica.
REPLICAS: Final = 'count(http_requests_in_progress{job="ml-model"})'
MEMORY: Final = f'sum(process_resident_memory_bytes{{job="ml-model"}}) / 1048576 / {REPLICAS}'
"""MiB of a replica."""


class PrometheusUnavailable(FraudscaleError):
    """Prometheus did not answer the question; the message says why."""


class _Series(msgspec.Struct):
    values: list[tuple[float, str]]


class _Data(msgspec.Struct):
    result: Annotated[list[_Series], Meta(max_length=1)]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


def trace(url: str, window_s: float, now: float, setup: Setup) -> LoadTrace:
    """Read the last `window_s` seconds before `now` (seconds since 1970), in steps of one sync period.

    The load of a moment without an answer is that of the moment before. Replicas start as many as there were.

    Raises:
        PrometheusUnavailable: it is down, slow, or refuses the question.
        TraceError: it knows nothing of the job in that window, or a request is not given.
    """
    step = setup.period
    start = math.floor((now - window_s) / step) * step
    cpu = _ask(url, CPU, start, now, step)
    if len(cpu) < 2:
        raise TraceError(url, 'job="ml-model"', f"no CPU was measured in the {window_s:g} s before now")
    memory, replicas = _ask(url, MEMORY, start, now, step), _ask(url, REPLICAS, start, now, step)
    times = sorted(cpu)
    ends = [*times[1:], times[-1] + step]
    load, used = [], memory.get(times[0], next(iter(memory.values()), 0.0))
    for begin, end in zip(times, ends, strict=True):
        used = memory.get(begin, used)
        load.append(Segment(end - times[0], cpu[begin], used))
    if setup.initial_replicas is None and times[0] in replicas:
        setup = msgspec.structs.replace(setup, initial_replicas=int(replicas[times[0]]))
    return of_load(url, load, setup)


def _ask(url: str, query: str, start: float, end: float, step: float) -> dict[float, float]:
    values: dict[float, float] = {}
    while start < end:
        last = min(end, start + (MAX_POINTS - 1) * step)
        asked = {"query": query, "start": start, "end": last, "step": step}
        answer = _get(url, asked)
        for series in answer.result:
            values |= {t: float(v) for t, v in series.values if math.isfinite(float(v))}
        start = last + step
    return values


def _get(url: str, query: Mapping[str, object]) -> _Data:
    try:
        address = urlsplit(url)
        good = address.scheme in {"http", "https"} and bool(address.hostname) and address.port != 0
    except ValueError:
        good = False
    if not good:
        raise TraceError("--from-prometheus", url, "is not an address such as http://127.0.0.1:9090")
    try:
        with Server(url, seconds=ASK_SECONDS) as server:
            answer = server.ask("GET", "/api/v1/query_range", query=query)
        said = msgspec.json.decode(answer.body, type=_Answer)
    except (NoAnswer, msgspec.DecodeError) as error:
        raise PrometheusUnavailable(f"{url} gave no answer: {error}; is Prometheus there?") from error
    if said.data is None:
        raise PrometheusUnavailable(f"{url} refused the query: {said.error}")
    return said.data
