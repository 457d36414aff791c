"""What Prometheus saw during a run: the queue and the replicas over time. Without a Prometheus there is none of it."""

from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from fraudscale import metrics
from fraudscale.net import NoAnswer, Server

STEP_SECONDS: Final = 5
"""As often as replicas are scraped."""
MAX_POINTS: Final = 1000
ASK_SECONDS: Final = 5.0


class Points(NamedTuple):
    """A series: seconds after the start, and values."""

    at: list[float]
    values: list[float]


class History(msgspec.Struct, frozen=True):
    """Series of the platform; empty where nothing is known."""

    queue: Points = Points([], [])
    """Transactions that wait on the topic."""
    replicas: Points = Points([], [])
    """Replicas whose HTTP endpoint answers."""


class _Series(msgspec.Struct):
    values: list[tuple[float, str]]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Data


def history(prometheus: str | None, began: float, ended: float, *, topic: str, group: str) -> History:
    """Ask for what happened between two instants (seconds since 1970)."""
    if prometheus is None:
        return History()
    step = max(STEP_SECONDS, (ended - began) / MAX_POINTS)
    waiting = f'max({metrics.QUEUE_LENGTH.name}{{topic="{topic}",group="{group}"}})'
    return History(
        series(prometheus, waiting, began, ended, step),
        series(prometheus, 'sum(up{job="ml-model",container="serve"})', began, ended, step),
    )


def series(prometheus: str, query: str, began: float, ended: float, step: float) -> Points:
    """Ask for one series, a point every `step` seconds; empty where nothing is known."""
    asked = {"query": query, "start": began, "end": ended, "step": step}
    try:
        with Server(prometheus, seconds=ASK_SECONDS) as server:
            answer = server.ask("GET", "/api/v1/query_range", query=asked)
        if answer.status != HTTPStatus.OK:
            return Points([], [])
        found = msgspec.json.decode(answer.body, type=_Answer).data.result
    except (NoAnswer, msgspec.DecodeError):  # a picture with a panel less, and no lost report
        return Points([], [])
    pairs = found[0].values if found else []
    return Points([round(at - began, 1) for at, _ in pairs], [float(value) for _, value in pairs])
