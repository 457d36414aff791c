"""A load test from its options to its report: what is sent, how, and what is written about it."""

import asyncio
import ipaddress
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
import uvloop

from fraudscale import files
from fraudscale.clock import rfc3339
from fraudscale.config import KafkaSettings
from fraudscale.errors import InputError
from fraudscale.load import report as reporting
from fraudscale.load.arrivals import Schedule, Shape, ShapedArrivals, instants
from fraudscale.load.history import history
from fraudscale.load.measure import Item, Items, Measures, StopRequest
from fraudscale.load.over_http import HttpLoad, HttpTarget
from fraudscale.load.over_kafka import KafkaLoad
from fraudscale.load.progress import Live
from fraudscale.load.transactions import Recording, encoded, generated
from fraudscale.stopping import StopSignals

SECONDS: Final = 60.0
RATE: Final = 100.0
MAX_RATE: Final = 1e6
MAX_SECONDS: Final = 30 * 86400.0
PICTURES: Final = (".png", ".svg")


class InvalidLoadTest(InputError):
    """The test can't be carried out as it stands; the message says what to change."""


@dataclass(frozen=True)
class LoadTest:
    """What a person asks for; None where nothing was said."""

    over: Literal["http", "kafka"]
    target: HttpTarget
    """For HTTP."""
    rate: float | None = None
    """Transactions per second; `arrivals` says what a shape makes of it."""
    shape: Shape | None = None
    seconds: float | None = None
    even: bool = False
    replay: Path | None = None
    speed: float = 1.0
    picture: Path | None = None
    saved: Path | None = None
    """Where the JSON is written to."""

    def check(self) -> None:
        """Check what is cheap to check.

        Raises:
            InvalidLoadTest: says what is wrong.
        """
        for wrong, message in self._wrongs():
            if wrong:
                raise InvalidLoadTest(message)

    def _wrongs(self) -> Iterator[tuple[bool, str]]:
        recorded = self.shape is Shape.RECORDED
        yield recorded and self.replay is None, "--shape recorded needs a file: --replay FILE"
        yield (
            self.replay is not None and self.shape not in {None, Shape.RECORDED},
            f"--replay keeps the gaps of the file, so it can't have --shape {self.shape}; leave one of the two out",
        )
        yield (
            self.replay is not None and self.rate is not None,
            "--replay keeps the gaps of the file, so it can't have a --rate; --speed makes it faster",
        )
        yield (
            self.replay is None and self.speed != 1,
            "--speed is for --replay FILE; a generated load has a --rate",
        )
        yield (
            self.rate is not None and not 0 < self.rate <= MAX_RATE,
            f"--rate {self.rate}: must be above 0 and at most {MAX_RATE:,.0f}",
        )
        yield (
            self.seconds is not None and not 0 < self.seconds <= MAX_SECONDS,
            f"--seconds {self.seconds}: must be above 0 and at most 30 days",
        )
        yield not 0 < self.speed <= 1e6, f"--speed {self.speed}: must be above 0"
        yield self.target.connections < 1, f"--connections {self.target.connections}: must be at least 1"
        yield self.target.timeout <= 0, f"--timeout {self.target.timeout}: must be above 0"
        yield (
            self.over == "http" and not is_plain_http(self.target.url),
            f"--url {self.target.url}: must be http://HOST[:PORT], such as http://127.0.0.1:8000",
        )
        yield (
            self.target.source is not None and not _is_address(self.target.source),
            f"--source {self.target.source}: must be an address of this machine, such as 127.0.0.2",
        )
        for option, path in (("--picture", self.picture), ("--save", self.saved)):
            reason = files.unwritable(path) if path else ""
            yield bool(reason), f"{option} {path}: can't be written: {reason}"
        yield (
            self.picture is not None and self.picture.suffix.lower() not in PICTURES,
            f"--picture {self.picture}: the name must end in .png or .svg",
        )


def is_plain_http(url: str) -> bool:
    """Tell whether load can be sent to an address: `http://HOST[:PORT]`."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def run(
    test: LoadTest,
    kafka: KafkaSettings,
    prometheus: str | None,
    *,
    as_json: bool,
) -> int:
    """Send the load; write table or JSON to stdout, and the files that were asked for.

    Ctrl-C ends the sending, and the report is about what was done; a second one doesn't wait for answers.

    With `as_json`, JSON goes to stdout and the table to stderr.

    Returns:
        Exit code: 0 for a run that was what it promised, 1 where the rate was not kept, nothing was scored, or scores
        are missing or doubled.

    Raises:
        InvalidLoadTest, DataError: the user's input is the cause.
        Unreachable, BrokerUnavailable: nothing answers there.
        OSError: a file can't be written.
    """
    test.check()
    schedule, items = _plan(test, seed=time.time_ns() % 2**32)
    measures, stop = Measures(schedule.seconds), StopRequest()
    began = datetime.now(UTC)
    with StopSignals(stop.ask, again=stop.ask), Live(measures, schedule.seconds) as live:
        _send(test, kafka, schedule, items, measures, stop, live.started)
    past = history(
        prometheus, began.timestamp(), time.time(), topic=kafka.kafka_topic, group=kafka.kafka_group
    )
    described = _describe(test, kafka, schedule, began)
    result = reporting.build(described, schedule, measures, stop.at, past)
    _write(test, result, as_json=as_json)
    return 0 if result.good else 1


def _plan(test: LoadTest, seed: int) -> tuple[Schedule, Items]:
    if test.replay is not None:
        recording = Recording(test.replay)
        schedule: Schedule = recording.schedule(test.speed, test.seconds)
        transactions = recording.transactions()
    else:
        shape = test.shape or Shape.CONSTANT
        schedule = ShapedArrivals(shape, test.rate or RATE, test.seconds or SECONDS, test.even, seed)
        transactions = generated(seed)
    sent = zip(instants(schedule), encoded(transactions), strict=False)
    return schedule, (Item(due, key, body) for due, (key, body) in sent)


def _send(
    test: LoadTest,
    kafka: KafkaSettings,
    schedule: Schedule,
    items: Items,
    measures: Measures,
    stop: StopRequest,
    started: Callable[[float], None],
) -> None:
    if test.over == "kafka":
        KafkaLoad(kafka, items, measures, stop).run(started)
        return
    sender = HttpLoad(test.target, items, schedule.seconds, measures, stop)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(sender.run(started))


def _describe(test: LoadTest, kafka: KafkaSettings, schedule: Schedule, began: datetime) -> reporting.Run:
    recorded = test.replay is not None
    topic = f"{kafka.kafka_topic} at {kafka.kafka_bootstrap_servers}"
    return reporting.Run(
        over=test.over,
        target=topic if test.over == "kafka" else test.target.url,
        shape=Shape.RECORDED if recorded else test.shape or Shape.CONSTANT,
        arrivals="recorded" if recorded else "even" if test.even else "Poisson",
        seconds=round(schedule.seconds, 3),
        started_at=rfc3339(began, "seconds"),
    )


def _write(test: LoadTest, result: reporting.Report, *, as_json: bool) -> None:
    text = reporting.table(result)
    content = msgspec.json.format(msgspec.json.encode(result))
    print(text, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(content.decode())  # noqa: T201 - the report is what the command is for
    if test.saved is not None:
        test.saved.write_bytes(content + b"\n")
    if test.picture is not None:
        from fraudscale.load import picture  # noqa: PLC0415 - matplotlib takes a second to import

        picture.draw(result, test.picture)
    for path in (test.saved, test.picture):
        if path is not None:
            print(f"written: {path}", file=sys.stderr)  # noqa: T201
