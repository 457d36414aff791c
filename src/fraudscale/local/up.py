"""`fraudscale up`: the whole platform on one machine, from the lock to the last process gone."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Final

import msgspec

from fraudscale import clock
from fraudscale.alerting import rules
from fraudscale.config import AlertSettings, HttpSettings, KafkaSettings, LocalSettings, ModelSettings
from fraudscale.errors import FraudscaleError
from fraudscale.local import running
from fraudscale.local.banner import banner
from fraudscale.local.components import assembly, haproxy, replica
from fraudscale.local.components.blueprint import Blueprint, external
from fraudscale.local.down import clean
from fraudscale.local.install import doctor
from fraudscale.local.install.download import fetch_all
from fraudscale.local.install.ports import MIN_REPLICAS, Ports, ensure_free
from fraudscale.local.routes import Routes
from fraudscale.local.scaling import manifests, scale_file
from fraudscale.local.supervisor import machine, state
from fraudscale.local.supervisor.component import Component
from fraudscale.local.supervisor.supervise import ManagedComponent, State, Supervisor, SupervisorEvent
from fraudscale.local.terminal import EVENTS_LOG, LiveView, Starting, Terminal, prometheus_figures
from fraudscale.stopping import SIGNALS, StopSignals

PACE_SECONDS: Final = 0.1
HOUSEKEEPING_SECONDS: Final = 1.0
LAST_LINES: Final = 20
"""Of the log of a component that failed to start."""


class CannotStart(FraudscaleError):
    """Something is missing on this machine; the message says what, and how to get it."""


def up(
    local: LocalSettings,
    model: ModelSettings,
    kafka: KafkaSettings,
    http: HttpSettings,
    alerts: AlertSettings,
) -> int:
    """Start the platform, tell when it is ready, keep it running until a signal, stop it.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP stop it in order; a second one kills at once.

    Returns:
        Exit code: 0 after a stop that was asked for, 1 where a component failed.

    Raises:
        AlreadyRuns, NoRoom, PortsTaken, MissingComponent, CannotStart: it runs already, or this machine lacks something.
        SettingsError, ManifestError: the user's input can't be used.
    """
    terminal = Terminal()
    began = time.monotonic()
    doctor.ensure_room(local)
    with state.Lock(local.fraudscale_home):
        clean(local.fraudscale_home, terminal.say)
        blueprint = _prepare(local, model, kafka, http, alerts, terminal)
        return Platform(blueprint, terminal, began).run()


def _prepare(
    local: LocalSettings,
    model: ModelSettings,
    kafka: KafkaSettings,
    http: HttpSettings,
    alerts: AlertSettings,
    terminal: Terminal,
) -> Blueprint:
    if find_spec("lightgbm") is None:
        raise CannotStart("the training libraries are not installed here; run `make up` in a checkout")
    external(local, model, kafka)  # contradictions are told before anything is downloaded
    manifests.read(local)
    rules.read(alerts)
    tools = fetch_all(local, terminal.say)
    blueprint = Blueprint(local, model, kafka, http, alerts, tools, Ports.of(local))
    ensure_free(assembly.ports_needed(blueprint))
    assembly.prepare(blueprint)
    return blueprint


class Platform:
    """A run of the platform: the supervisor, and all that looks at it."""

    def __init__(self, blueprint: Blueprint, terminal: Terminal, began: float) -> None:
        """Take on what is to run.

        Args:
            blueprint: with its files in place.
            terminal: where a person reads.
            began: `monotonic()` of the command's start; the banner counts from there.
        """
        self._blueprint = blueprint
        self._terminal = terminal
        self._began = began
        self._home = blueprint.home
        self._logs = self._home / "logs"
        self._started_at = datetime.now(UTC)
        self._scale = scale_file.ScaleWatcher(self._home, clock.rfc3339(self._started_at, "seconds"))
        self._desired = MIN_REPLICAS
        self._model = state.ModelInUse()
        self._written: state.Status | None = None
        self._next_housekeeping = 0.0
        machine.shelve(self._logs)
        self._events = EventLog(self._logs / EVENTS_LOG)
        self._machine = machine.LocalMachine(self._home, self._logs, os.environ)
        self._asked_to_stop = Event()
        self._routes = Routes(blueprint.run / haproxy.SOCKET)
        self._supervisor = Supervisor(
            self._machine, assembly.components(blueprint), report=self._report, changed=self._write_state
        )
        self._starting = Starting(terminal, self._managed)
        self._live_view = LiveView(terminal, self._logs, self._figures, self._ready_replicas)

    def run(self) -> int:
        """Start, run and stop. Whatever happens, no process of ours is left."""
        supervisor = self._supervisor
        try:
            with stop_signals(self._asked_to_stop):
                with self._starting:
                    self._loop(lambda: supervisor.started or supervisor.stopping)
                if not supervisor.stopping:
                    self._announce()
                    self._loop(lambda: supervisor.stopping)
                self._live_view.stop()
                self._explain_stop()
                asked = time.monotonic()
                self._loop(lambda: supervisor.stopped)
                self._terminal.say(f"stopped in {time.monotonic() - asked:.1f} s")
        finally:
            self._leave_nothing()
        return 1 if supervisor.failure else 0

    def _loop(self, until: Callable[[], bool]) -> None:
        while not until():
            if self._asked_to_stop.is_set():
                self._asked_to_stop.clear()
                (self._supervisor.force if self._supervisor.stopping else self._supervisor.stop)()
            self._reconcile_replicas()
            self._supervisor.step()
            if refusal := self._routes.follow(self._supervisor.managed):
                self._report(SupervisorEvent("balancer_refuses", "haproxy", "error", {"reason": refusal}))
            if time.monotonic() >= self._next_housekeeping:
                self._next_housekeeping = time.monotonic() + HOUSEKEEPING_SECONDS
                machine.rotate(self._logs)
                self._write_state()
            time.sleep(PACE_SECONDS)

    def _reconcile_replicas(self) -> None:
        """Start or drain replicas, once all of the platform was ready; a file that is refused leaves the last number."""
        if not self._supervisor.started or self._supervisor.stopping:
            return
        try:
            if news := self._scale.news():
                self._desired = news.replicas
        except scale_file.ScaleRefused as error:
            self._report(SupervisorEvent("scale_refused", "autoscaler", "warning", {"reason": str(error)}))
        reconcile(self._supervisor, self._desired, lambda slot: replica.components(self._blueprint, slot))

    def _leave_nothing(self) -> None:
        """Kill what is left: after an error of ours everything, else only what left its process group."""
        self._supervisor.force()
        while not self._supervisor.stopped:
            self._supervisor.step()
            time.sleep(PACE_SECONDS)
        self._machine.close()
        self._routes.close()
        if escaped := machine.marked(self._home):
            machine.end(escaped, grace=0.5)
        state.status_path(self._home).unlink(missing_ok=True)

    # What is told to people.

    def _announce(self) -> None:
        self._model = running.model_at(self._entry) or self._model
        seconds = time.monotonic() - self._began
        for line in banner(self._blueprint, self._managed(), self._model, seconds):
            self._terminal.say(line)
        self._live_view.start()

    def _explain_stop(self) -> None:
        failure = self._supervisor.failure
        if failure is None:
            self._terminal.say("stopping (Ctrl-C again stops at once)")
            return
        log = self._logs / self._supervisor.managed[failure.component].component.log_name
        self._terminal.say(f"{failure.component} failed to start: {failure.reason}", "red")
        for line in machine.last_lines(log, LAST_LINES):
            self._terminal.say(f"  {line}")
        self._terminal.say(f"full log: {log}; the other components were stopped")

    def _report(self, event: SupervisorEvent) -> None:
        self._events.write(event)
        if not self._supervisor.started:
            self._starting.tell(event)
        elif event.kind != "part_stopped":
            style = {"warning": "yellow", "error": "red"}.get(event.level)
            fields = "  ".join(f"{name}={value}" for name, value in event.details.items())
            self._terminal.stamped("supervisor", f"{event.kind}  part={event.component}  {fields}", style)

    def _figures(self) -> Mapping[str, float]:
        self._model = running.model_at(self._entry) or self._model
        return prometheus_figures(self._blueprint.prometheus)()

    # What is told to programs.

    def _write_state(self) -> None:
        """Bring `run/status.json` and Prometheus's targets up to date, as far as they changed."""
        status = state.describe(
            self._managed(),
            ready=self._supervisor.ready,
            started_at=self._started_at,
            model=self._model,
            ports=self._blueprint.ports.named(),
            used=[
                state.ComponentStatus(name, "external", at, None)
                for name, at in self._blueprint.external.items()
            ],
        )
        if status == self._written:
            return
        try:
            state.write(self._home, status)
            assembly.write_targets(self._blueprint, live_slots(self._managed()))
        except OSError as error:  # a full disk: the platform runs on, and the next second tries again
            self._events.write(
                SupervisorEvent("status_not_written", "supervisor", "warning", {"error": str(error)})
            )
        else:
            self._written = status

    def _managed(self) -> list[ManagedComponent]:
        return list(self._supervisor.managed.values())

    def _ready_replicas(self) -> tuple[int, int]:
        replicas = self._written.replicas if self._written else []
        return sum(replica.state == State.READY for replica in replicas), len(replicas)

    @property
    def _entry(self) -> str:
        return self._supervisor.managed["haproxy"].component.address


def stop_signals(asked: Event) -> StopSignals:
    """Set `asked` at each signal that asks for a stop; the loop clears it."""
    # Under nohup a closed terminal is to be survived.
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return StopSignals(asked.set, lambda _: asked.set(), (*SIGNALS, *hang_up))


class EventLog:
    """The supervisor's own log: a JSON line an event, the fields as in every log of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: SupervisorEvent) -> None:
        # `part_…` events and the field `part` are a format: readers of logs filter by these names.
        line = {
            "event": event.kind,
            "level": event.level,
            "timestamp": clock.rfc3339(datetime.now(UTC)),
            "process": "supervisor",
            "part": event.component,
            **event.details,
        }
        try:
            with self._path.open("ab") as log:
                log.write(msgspec.json.encode(line) + b"\n")
        except OSError:  # a full disk must not stop the supervisor, which could tell nobody
            return


def live_slots(components: list[ManagedComponent]) -> list[int]:
    """Return the numbers of the replica slots that are to run, for Prometheus; one that restarts is among them."""
    names = {
        managed.component.name.partition("/")[0]
        for managed in components
        if "/" in managed.component.name and not managed.leaving
    }
    return sorted(int(name.rpartition("-")[2]) for name in names)


def reconcile(supervisor: Supervisor, desired: int, replica: Callable[[int], list[Component]]) -> None:
    """Let slots 1 … `desired` run: add what is missing, drain what is above. A slot that still leaves is waited for."""
    names = list(supervisor.managed)
    for slot in live_slots(list(supervisor.managed.values())):
        if slot > desired:
            supervisor.remove(name for name in names if name.startswith(f"replica-{slot}/"))
    for slot in range(1, desired + 1):
        if not any(name.startswith(f"replica-{slot}/") for name in names):
            supervisor.add(replica(slot))
