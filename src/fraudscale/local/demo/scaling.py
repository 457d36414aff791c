"""`fraudscale demo-scaling`: load drives the whole platform from the least replicas to the most, its end brings it back.

Counted is every request, every record, every step. Then the CPU that was measured is rehearsed: both must have gone the same way.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from rich.console import Console

from fraudscale.config import LocalSettings
from fraudscale.errors import FraudscaleError
from fraudscale.hpa import Hpa
from fraudscale.load.history import Points, series
from fraudscale.load.report import Report
from fraudscale.local import running
from fraudscale.local.demo import comparison as compared
from fraudscale.local.demo.comparison import Comparison, Sync
from fraudscale.local.scaling import manifests
from fraudscale.local.scaling.autoscaler import SYNC_SECONDS
from fraudscale.local.supervisor import state
from fraudscale.local.terminal import Terminal
from fraudscale.rehearsal.rehearse import rehearse
from fraudscale.rehearsal.report import clock
from fraudscale.stopping import interrupts

NAME: Final = "demo-scaling"
RATE: Final = 4000.0
"""Records per second over Kafka: on the machines that it was measured on, six replicas are needed for them."""
ALERT: Final = "ModelScaledToMax"
"""Must fire at the maximum."""
BESIDE_RATE: Final = 30.0
"""Transactions per second over HTTP, and as many over Kafka, from start to end: nothing may fail while replicas come and go."""
PEAK_SYNCS: Final = 5
"""Under load with the most replicas: longer than the minute that the alert waits."""
END_SYNCS: Final = 3
"""With the least replicas again, so that Prometheus sees it too."""
MOST_APART: Final = 1
"""Ticks that a step may lie beside its rehearsal."""
UP_SECONDS: Final = 600.0
"""A first start downloads components and trains a model."""
WAY_SECONDS: Final = 900.0
"""Of the autoscaler's clock, for a way up or down: the longer one takes 600 by `hpa.yaml`."""
STARTS_SECONDS: Final = 120.0
"""Real ones, for what starts on a way; it takes as long however fast that clock runs."""
STOP_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.2


class DemoFailed(FraudscaleError):
    """The demonstration could not be carried out; the message says why."""


class Sent(msgspec.Struct, frozen=True):
    """What became of the transactions of one sender."""

    sender: str
    rate: float
    sent: int
    ok: int
    errors: dict[str, int]
    missing: int
    duplicates: int

    @property
    def whole(self) -> bool:
        """Whether something was sent, and all of it was scored once."""
        return self.ok == self.sent > 0 and not (self.errors or self.missing or self.duplicates)


class Seen(msgspec.Struct, frozen=True):
    """What Prometheus saw; times are seconds of the autoscaler's clock since the first sync."""

    replicas: Points
    """The autoscaler's own number, which the alert reads."""
    alert: Points
    """1 where it fires."""
    scored: Points
    """Transactions per second over HTTP and Kafka together."""


class Outcome(msgspec.Struct, frozen=True):
    """The content of `run/demo-scaling.json`."""

    good: bool
    wrong: list[str]
    time_scale: float
    seconds: float
    """Real ones, from the first sync to the last."""
    comparison: Comparison
    prometheus: list[int]
    """Numbers of replicas that Prometheus saw, one after the other."""
    fired: tuple[float, float] | None
    """When `ModelScaledToMax` fired first and last, in seconds of the autoscaler's clock since the first sync."""
    sent: list[Sent]
    written: list[str]


def run(local: LocalSettings, rate: float, picture: Path | None, *, as_json: bool) -> int:
    """Start the platform, load it, stop it, compare; write `run/demo-scaling*`.

    Args:
        local: the platform's settings, with the time scale.
        rate: of the load that drives it, records per second.
        picture: where to draw to; None: `run/demo-scaling.png`.
        as_json: print the outcome as JSON.

    Returns:
        Exit code: 0 if it went up and back with nothing lost, and as rehearsed; else 1.

    Raises:
        AlreadyRuns: a platform runs already.
        DemoFailed: the platform or a load ended by itself.
        ManifestError: a manifest can't be used.
        OSError: a file can't be written.
    """
    from fraudscale.local.demo import picture as demo_picture  # noqa: PLC0415 - matplotlib takes a second to import

    scaling = manifests.read(local)
    terminal = Terminal(Console(stderr=True, highlight=False, soft_wrap=True))
    syncs, sent, seen = Demo(local, scaling.hpa, rate, terminal).run()
    trace = compared.trace(syncs, scaling)
    went = compared.ran(syncs)
    rehearsed = compared.rehearsed(rehearse(str(local.hpa_manifest), scaling.hpa, trace))
    comparison, prometheus = compared.compare(went, rehearsed), _way(seen.replicas)
    fired = (seen.alert.at[0], seen.alert.at[-1]) if seen.alert.at else None
    wrong = judge(scaling.hpa, comparison, prometheus, sent, alerted=fired is not None)
    folder = local.fraudscale_home / "run"
    report, traced, picture = (
        folder / f"{NAME}.json",
        folder / f"{NAME}-trace.json",
        picture or folder / f"{NAME}.png",
    )
    outcome = Outcome(
        good=not wrong,
        wrong=wrong,
        time_scale=local.time_scale,
        seconds=round(went[-1].t / local.time_scale, 1),
        comparison=comparison,
        prometheus=prometheus,
        fired=fired,
        sent=sent,
        written=[str(report), str(traced), str(picture)],
    )
    report.write_bytes(_pretty(outcome))
    traced.write_bytes(_pretty(trace))
    demo_picture.draw(picture, scaling, (went, rehearsed), seen.replicas, seen.scored, fired)
    print(_pretty(outcome).decode() if as_json else as_text(outcome))  # noqa: T201 - the outcome is what the command is for
    for line in wrong:
        terminal.say(f"fraudscale: {line}", "red")
    return 0 if outcome.good else 1


class Demo:
    """The platform, what is sent to it, and the syncs of its autoscaler meanwhile."""

    def __init__(self, local: LocalSettings, hpa: Hpa, rate: float, terminal: Terminal) -> None:
        self._local = local
        self._home = local.fraudscale_home
        self._scale = local.time_scale
        self._hpa = hpa
        self._rate = rate
        self._terminal = terminal
        self._running: list[Command] = []
        self._way_seconds = WAY_SECONDS / self._scale + STARTS_SECONDS
        # What the autoscaler wanted before the first sync of the comparison is then out of its window for the way up.
        window = (hpa.behavior.scale_up.window if hpa.behavior else None) or 0
        self._rest_syncs = int(window // SYNC_SECONDS) + 1

    def run(self) -> tuple[list[Sync], list[Sent], Seen]:
        """Go up and down; return the syncs from rest to rest, what was sent, and what Prometheus saw.

        Raises:
            AlreadyRuns: a platform runs already.
            DemoFailed: the platform or a load ended by itself, or it does not come to rest.
        """
        low, high = self._hpa.min_replicas, self._hpa.max_replicas
        with state.Lock(self._home):
            pass  # it is free for the platform that comes
        with interrupts(), ExitStack() as stack:  # what was started is stopped on the way out
            # What the sample traffic sends nobody would count.
            env = {"FRAUDSCALE_TRAFFIC": "0", "TIME_SCALE": str(self._scale)}
            self._start(stack, self._child("up", ("up",), None, env))
            if not self._until(lambda: running.examine(self._home).ready, UP_SECONDS):
                raise DemoFailed(f"the platform was not ready within {UP_SECONDS:.0f} s")
            self._say(f"waiting for {self._rest_syncs} quiet syncs")
            if not self._until(self._rests, self._way_seconds):
                raise DemoFailed(f"without load it does not rest at {low} replicas; see logs/autoscaler.log")
            first = len(self._syncs()) - self._rest_syncs
            with ExitStack() as all_the_time:
                beside = [
                    self._start(all_the_time, self._sender(f"{over}-beside", over, BESIDE_RATE))
                    for over in ("http", "kafka")
                ]
                with ExitStack() as on_the_way_up:
                    self._say(
                        f"load: {self._rate:g}/s over Kafka, and {BESIDE_RATE:g}/s each over HTTP and Kafka beside it"
                    )
                    driving = self._start(on_the_way_up, self._sender("kafka", "kafka", self._rate))
                    self._until(lambda: self._stays(high, PEAK_SYNCS), self._way_seconds)
                self._say("the load ended; the transactions beside it go on")
                self._until(lambda: self._stays(low, END_SYNCS), self._way_seconds)
            syncs = self._syncs()[first:]
            return syncs, [self._sent(child) for child in (driving, *beside)], self._seen(syncs)

    def _start(self, stack: ExitStack, child: "Command") -> "Command":
        stack.enter_context(child)
        self._running.append(child)
        stack.callback(self._running.remove, child)
        return child

    def _sender(self, name: str, over: str, rate: float) -> "Command":
        # More than both ways can take: it is stopped when they have been gone.
        seconds = 2 * (self._way_seconds + STOP_SECONDS)
        saved = self._saved(name)
        saved.unlink(missing_ok=True)
        order = (f"--over={over}", f"--rate={rate}", f"--seconds={seconds}", f"--save={saved}")
        return self._child(name, ("load", *order), self._home / "logs" / f"load-{name}.log", {})

    def _child(
        self, name: str, arguments: tuple[str, ...], log: Path | None, env: Mapping[str, str]
    ) -> "Command":
        return Command(name, arguments, log, {"FRAUDSCALE_HOME": str(self._home), **env})

    def _saved(self, name: str) -> Path:
        return self._home / "run" / f"{NAME}-{name}.json"

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds; False if it took too long.

        Raises:
            DemoFailed: something that was started ended by itself.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for child in self._running:
                child.check()
            if condition():
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def _syncs(self) -> list[Sync]:
        return compared.read(self._home / "logs" / "autoscaler.log")

    def _rests(self) -> bool:
        low = self._hpa.min_replicas
        last = self._syncs()[-self._rest_syncs :]
        return self._stays(low, self._rest_syncs) and all(
            sync.sampled == low and sync.want is not None and sync.want <= low for sync in last
        )

    def _stays(self, replicas: int, syncs: int) -> bool:
        last = self._syncs()[-syncs:]
        numbers = {n for sync in last for n in (sync.current_replicas, sync.target_replicas, sync.ready)}
        return len(last) == syncs and numbers == {replicas}

    def _sent(self, child: "Command") -> Sent:
        try:
            report = msgspec.json.decode(self._saved(child.name).read_bytes(), type=Report)
        except (OSError, msgspec.DecodeError) as error:
            raise DemoFailed(f"the load {child.name} left no report ({error}); see {child.log}") from error
        return Sent(
            child.name,
            report.achieved_rate,
            report.sent,
            report.ok,
            report.errors,
            report.missing,
            report.duplicates,
        )

    def _seen(self, syncs: Sequence[Sync]) -> Seen:
        prometheus = running.find(self._local).prometheus
        if prometheus is None:
            raise DemoFailed("the platform ended before Prometheus was asked")
        began, step = syncs[0].timestamp.timestamp(), SYNC_SECONDS / 3 / self._scale

        def ask(query: str) -> Points:
            at, values = series(prometheus, query, began, time.time(), step)
            return Points([self._scale * seconds for seconds in at], values)

        name = f'horizontalpodautoscaler="{self._hpa.name}"'
        window = f"{1000 * 2 * SYNC_SECONDS / self._scale:.0f}ms"
        return Seen(
            ask(f"max(kube_horizontalpodautoscaler_status_current_replicas{{{name}}})"),
            ask(f'max(ALERTS{{alertname="{ALERT}",alertstate="firing"}})'),
            ask(f"sum(rate(ml_model_predictions_total[{window}]))"),
        )

    def _say(self, text: str) -> None:
        self._terminal.stamped("demo", text)


class Command:
    """A `fraudscale` command that runs from enter to exit; then it is stopped as by Ctrl-C."""

    def __init__(
        self, name: str, arguments: tuple[str, ...], log: Path | None, env: Mapping[str, str]
    ) -> None:
        """Start nothing yet.

        Args:
            name: for messages.
            arguments: of `fraudscale`.
            log: where its output goes; None: to our stderr.
            env: beside ours.
        """
        self.name = name
        self.log = log
        self._arguments = arguments
        self._env = env

    def __enter__(self) -> Self:
        with self.log.open("wb") if self.log else open(os.dup(2), "wb") as output:  # noqa: PTH123 - a descriptor
            self._process = subprocess.Popen(
                (sys.executable, "-m", "fraudscale.cli", *self._arguments),
                env=os.environ | self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Else Ctrl-C would reach it twice: `up` takes the second for "at once".
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise if it ended by itself.

        Raises:
            DemoFailed: it did.
        """
        if self._process.poll() is not None:
            where = f"; see {self.log}" if self.log else ", as said above"
            raise DemoFailed(f"{self.name} ended by itself with exit code {self._process.returncode}{where}")


def judge(
    hpa: Hpa, comparison: Comparison, prometheus: Sequence[int], sent: Sequence[Sent], *, alerted: bool
) -> list[str]:
    """Say what was not as it should be, a line each; nothing where all was."""
    low, high = hpa.min_replicas, hpa.max_replicas
    expected = [*range(low, high + 1), *range(high - 1, low - 1, -1)]
    wrong = [
        f"{one.sender}: of {one.sent:,} sent {one.ok:,} were scored;"
        f" errors {one.errors or 'none'}, missing {one.missing}, scored twice {one.duplicates}"
        for one in sent
        if not one.whole
    ]
    if comparison.went != expected:
        more = "" if high in comparison.went else "; a higher --rate needs more replicas"
        wrong.append(f"it went {_arrows(comparison.went)} and not {_arrows(expected)}{more}")
    if prometheus != comparison.went:
        wrong.append(f"Prometheus saw {_arrows(prometheus)}, the autoscaler went {_arrows(comparison.went)}")
    if not alerted:
        wrong.append(f"the alert {ALERT} did not fire")
    if comparison.rehearsed != comparison.went:
        wrong.append(
            f"with the same CPU the rehearsal went {_arrows(comparison.rehearsed)}, the run {_arrows(comparison.went)}"
        )
    return wrong + [
        f"{step.current} → {step.target} came at {clock(step.t)}, and at {clock(step.rehearsed_t)} in the rehearsal:"
        f" {abs(step.ticks_apart)} ticks apart"
        for step in comparison.steps
        if abs(step.ticks_apart) > MOST_APART
    ]


def as_text(outcome: Outcome) -> str:
    """Tell a person."""
    its = outcome.comparison
    fast = (
        ""
        if outcome.time_scale == 1
        else f", the autoscaler's time running {outcome.time_scale:g} times as fast"
    )
    return "\n".join(
        [
            "",
            f"{_arrows(its.went)} replicas in {outcome.seconds:.0f} s{fast}; Prometheus saw {_arrows(outcome.prometheus)}",
            f"{ALERT} {_fired(outcome.fired)}",
            "",
            f"{'step':<10}{'run':>10}{'rehearsal':>12}   of the autoscaler's time",
            *(
                f"{f'{s.current} → {s.target}':<10}{clock(s.t):>10}{clock(s.rehearsed_t):>12}   {_apart(s.ticks_apart)}"
                for s in its.steps
            ),
            f"after {its.same_target} of {its.ticks} ticks both have as many replicas; at {its.same_want} the metrics want as many",
            "",
            f"{'sent':<14}{'rate':>10}{'sent':>10}{'ok':>10}{'errors':>8}{'missing':>9}{'twice':>7}",
            *(
                f"{s.sender:<14}{f'{s.rate:,.0f}/s':>10}{s.sent:>10,}{s.ok:>10,}"
                f"{sum(s.errors.values()):>8,}{s.missing:>9,}{s.duplicates:>7,}"
                for s in outcome.sent
            ),
            "",
            *(f"written: {path}" for path in outcome.written),
        ]
    )


def _fired(times: tuple[float, float] | None) -> str:
    return f"fired from {clock(times[0])} to {clock(times[1])}" if times else "did not fire"


def _apart(ticks: int) -> str:
    if not ticks:
        return "the same tick"
    return f"{abs(ticks)} tick{'s' if abs(ticks) > 1 else ''} {'later' if ticks > 0 else 'earlier'} in the rehearsal"


def _arrows(way: Sequence[int]) -> str:
    return " → ".join(map(str, way)) or "nothing"


def _way(points: Points) -> list[int]:
    return [int(value) for value, _ in groupby(points.values)]


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
