"""The supervisor's state machine: starts components as their needs are met, restarts what dies, stops all of it in phases.

It owns every decision and touches neither clock nor process itself: both are behind `Machine` and `Child`, so that the
histories in its tests take no time. Nothing here is safe to call from two threads; one loop calls `step` again and again.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from signal import SIGKILL, SIGTERM, Signals
from typing import Final, Literal, Protocol

from fraudscale.local.supervisor.component import Component

STOP_SECONDS: Final = 13.5
"""After so long a stop, every group that is left is killed: the rest of the promised 15 is for the exit."""
PHASE_SECONDS: Final = 2.0
"""What earlier phases of a stop must leave to each later one, so that a hung replica cannot get Kafka killed."""
FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 30.0
HEALTHY_SECONDS: Final = 60.0
"""A component that was ready for so long begins with the first back-off again when it dies."""
ASK_SECONDS: Final = 0.25
ASK_READY_SECONDS: Final = 5.0
"""How often a component is asked whether it is ready: while it starts, and once it was."""
SETTLE_SECONDS: Final = 1.5
"""A component that can't be asked counts as ready when it has run for so long: a wrong command dies sooner."""
MISSES: Final = 3
"""So many answers in a row must be "no" before a ready component counts as unready: one may be a slow moment."""
HUNG_MISSES: Final = 12
"""So many questions in a row must then go without a sign of life, for a minute, before a process counts as hung.

Counted, because we may have been stopped or starved ourselves. A machine that is too busy for a minute would only get
more to do by restarts.
"""


class State(StrEnum):
    """Where a component is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Child(Protocol):
    """A started process, the leader of a process group of its own."""

    @property
    def pid(self) -> int: ...
    def exit_code(self) -> int | None:
        """Tell how it ended (negative: by that signal); None while it runs."""

    def signal(self, which: Signals) -> None: ...
    def signal_group(self, which: Signals) -> None: ...
    def group_lives(self) -> bool:
        """Tell whether a process of its group is left, once the leader itself has ended."""

    def listens_on(self, port: int) -> bool:
        """Tell whether it is this child that answers there."""


class Machine(Protocol):
    """Clock and processes."""

    def now(self) -> float:
        """Seconds that only grow."""

    def spawn(self, component: Component) -> Child:
        """Start a component.

        Raises:
            OSError: the command can't be started.
        """

    def ask(self, ready: Callable[[], bool]) -> Future[bool]:
        """Ask elsewhere, so that a slow answer holds up nothing."""


@dataclass(frozen=True)
class SupervisorEvent:
    """Something that happened to a component; `kind` is a stable name of the log format, such as `part_started`."""

    kind: str
    component: str
    level: Literal["info", "warning", "error"] = "info"
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why the start was given up."""

    component: str
    reason: str


@dataclass
class ManagedComponent:
    """A component and what became of it."""

    component: Component
    state: State = State.WAITING
    since: float = 0.0
    """When it got into this state, by the machine's clock."""
    added: float = 0.0
    """When it was taken on, by that clock."""
    child: Child | None = None
    seconds_to_ready: float = 0.0
    was_ready: bool = False
    leaving: bool = False
    """It was removed: once stopped it is forgotten."""
    answer: Future[bool] | None = None
    ask_at: float = 0.0
    misses: int = 0
    unready: bool = False
    """This process was ready, and is not any more."""
    pulse: Future[bool] | None = None
    feel_at: float = 0.0
    missed_pulses: int = 0
    backoff: float = FIRST_BACKOFF
    due: float = 0.0
    """When it is to be restarted, or killed."""
    group_told: bool = False
    killed: bool = False

    @property
    def settled(self) -> bool:
        return self.state in {State.READY, State.DONE}

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None


class Supervisor:
    """Components and their states. `step` moves them on; `add`, `remove`, `stop` and `force` say what should run."""

    def __init__(
        self,
        machine: Machine,
        components: Iterable[Component],
        *,
        report: Callable[[SupervisorEvent], None],
        changed: Callable[[], None],
    ) -> None:
        """Take components on; none is started before the first `step`.

        Args:
            machine: clock and processes.
            components: what is to run; the start has succeeded once all of them were ready.
            report: called for each event.
            changed: called after a step in which a state changed or a process began or ended.

        Raises:
            ValueError: a name is taken, or a component needs one that there is not.
        """
        self._machine = machine
        self._report = report
        self._changed = changed
        self._dirty = False
        self._stop_by: float | None = None
        self._steps: dict[State, Callable[[ManagedComponent], None]] = {
            State.WAITING: self._step_waiting,
            State.STARTING: self._step_starting,
            State.READY: self._step_ready,
            State.RESTARTING: self._step_restarting,
            State.STOPPING: self._step_stopping,
        }
        self.managed: dict[str, ManagedComponent] = {}
        self.started = False
        """All components were ready once; from then on a death means a restart, not the end."""
        self.failure: Failure | None = None
        self.add(components)

    @property
    def ready(self) -> bool:
        return (
            self.started
            and not self.stopping
            and all(m.settled for m in self.managed.values() if not m.leaving)
        )

    @property
    def stopping(self) -> bool:
        return self._stop_by is not None

    @property
    def stopped(self) -> bool:
        """Tell whether a stop was asked for and nothing runs any more (or what does survives even a kill)."""
        if self._stop_by is None:
            return False
        # Not even a kill ends a process that hangs in the kernel (a dead disk): the exit doesn't wait for it.
        nothing_left = all(managed.child is None for managed in self.managed.values())
        return nothing_left or self._machine.now() > self._stop_by + 1

    def add(self, components: Iterable[Component]) -> None:
        """Take more components on, at any time.

        Raises:
            ValueError: a name is taken (also by one that is still leaving), or a need is unknown.
        """
        now = self._machine.now()
        new = {component.name: ManagedComponent(component, since=now, added=now) for component in components}
        if taken := new.keys() & self.managed.keys():
            raise ValueError(f"there are components called {sorted(taken)} already")
        for managed in new.values():
            if unknown := set(managed.component.needs) - new.keys() - self.managed.keys():
                raise ValueError(f"{managed.component.name} needs {sorted(unknown)}, which nobody starts")
        self.managed |= new
        self._dirty = True

    def remove(self, names: Iterable[str]) -> None:
        """Stop these components side by side, as each says, and forget them once they are gone."""
        for managed in [self.managed[name] for name in names]:
            managed.leaving = True
            self._begin_stop(managed, self._machine.now() + managed.component.stop_seconds)

    def stop(self) -> None:
        """Stop everything, phase after phase, within `STOP_SECONDS`. Asking again changes nothing."""
        if self._stop_by is None:
            self._stop_by = self._machine.now() + STOP_SECONDS
            self._dirty = True

    def force(self) -> None:
        """Kill every process group at once."""
        self.stop()
        for managed in self.managed.values():
            self._begin_stop(managed, self._machine.now())

    def step(self) -> None:
        """Look at everything once and do what is due; never blocks."""
        if self._stop_by is not None:
            self._stop_next_phase(self._stop_by)
        for managed in list(self.managed.values()):
            if step := self._steps.get(managed.state):
                step(managed)
        # All at one moment: what was ready a minute ago and is not now is no platform to announce.
        if not self.started and not self.stopping and all(m.settled for m in self.managed.values()):
            self.started = self._dirty = True
        if self._dirty:
            self._dirty = False
            self._changed()

    # The steps of each state.

    def _step_waiting(self, managed: ManagedComponent) -> None:
        needs = (self.managed.get(name) for name in managed.component.needs)
        # A need that was removed since had been ready before. A failure may have begun the stop within this step.
        if not self.stopping and all(need is None or need.was_ready for need in needs):
            self._spawn(managed)

    def _step_starting(self, managed: ManagedComponent) -> None:
        if self._ended(managed):
            return
        if not managed.component.once and self._answers(managed, ASK_SECONDS) and _is_at_its_port(managed):
            self._is_ready(managed)
        elif managed.unready and self._hangs(managed):
            self._end_hung(managed)
        elif (
            not self.started
            and not self.stopping
            and self._seconds_in(managed) > managed.component.ready_seconds
        ):
            self._fail(managed, f"not ready after {managed.component.ready_seconds:.0f} s")

    def _step_ready(self, managed: ManagedComponent) -> None:
        if self._ended(managed):
            return
        answer = self._answers(managed, ASK_READY_SECONDS)
        if answer is not None:
            managed.misses = 0 if answer else managed.misses + 1
        if managed.misses >= MISSES:
            self._enter(managed, State.STARTING)
            managed.unready, managed.pulse, managed.missed_pulses = True, None, 0
            self._tell("part_unready", managed, "warning")

    def _step_restarting(self, managed: ManagedComponent) -> None:
        if self._machine.now() >= managed.due:
            self._spawn(managed)

    def _step_stopping(self, managed: ManagedComponent) -> None:
        child = managed.child
        if child is None or (child.exit_code() is not None and not child.group_lives()):
            self._is_stopped(managed)
        elif self._machine.now() >= managed.due:
            self._kill(managed, child)
        elif child.exit_code() is not None and not managed.group_told:
            # The leader went without its own children (MLflow's does): they get the same chance to end well.
            # Once: a second SIGTERM means "at once" to many programs.
            managed.group_told = True
            child.signal_group(SIGTERM)

    # Transitions.

    def _seconds_in(self, managed: ManagedComponent) -> float:
        return self._machine.now() - managed.since

    def _enter(self, managed: ManagedComponent, state: State) -> None:
        managed.state, managed.since = state, self._machine.now()
        # An answer that is still on its way is about the state before, perhaps about another process.
        managed.answer, managed.ask_at, managed.misses = None, 0.0, 0
        self._dirty = True

    def _tell(
        self,
        kind: str,
        managed: ManagedComponent,
        level: Literal["info", "warning", "error"] = "info",
        **details: object,
    ) -> None:
        self._report(SupervisorEvent(kind, managed.component.name, level, details))

    def _spawn(self, managed: ManagedComponent) -> None:
        restart = managed.state is State.RESTARTING
        try:
            managed.child = self._machine.spawn(managed.component)
        except OSError as error:
            self._died(managed, f"could not be started: {error}")
            return
        self._enter(managed, State.STARTING)
        managed.unready = False
        self._tell("part_restarted" if restart else "part_started", managed, pid=managed.child.pid)

    def _is_ready(self, managed: ManagedComponent) -> None:
        managed.seconds_to_ready = self._seconds_in(managed)
        managed.was_ready, managed.unready = True, False
        self._enter(managed, State.READY)
        self._tell("part_ready", managed, seconds=round(managed.seconds_to_ready, 1))

    def _answers(self, managed: ManagedComponent, pause: float) -> bool | None:
        """Return the answer that came since the last call, if one did; see that the next question is asked."""
        if managed.component.ready is None:
            return managed.state is State.READY or self._seconds_in(managed) >= SETTLE_SECONDS
        now = self._machine.now()
        if managed.answer is None:
            if now >= managed.ask_at:
                managed.answer = self._machine.ask(managed.component.ready)
                managed.ask_at = now + pause
            return None
        if not managed.answer.done():
            return None
        answer, managed.answer = managed.answer, None
        return answer.exception() is None and answer.result()

    def _hangs(self, managed: ManagedComponent) -> bool:
        """Feel the pulse of an unready component; tell whether there was none for too long."""
        alive, now = managed.component.alive, self._machine.now()
        if managed.pulse is not None and managed.pulse.done():
            lives = managed.pulse.exception() is None and managed.pulse.result()
            managed.missed_pulses = 0 if lives else managed.missed_pulses + 1
            managed.pulse = None
        if alive is not None and managed.pulse is None and now >= managed.feel_at:
            managed.pulse, managed.feel_at = self._machine.ask(alive), now + ASK_READY_SECONDS
        return managed.missed_pulses >= HUNG_MISSES

    def _end_hung(self, managed: ManagedComponent) -> None:
        """Kill it; the next step sees its end, and starts it again. A process that hangs heeds no other signal."""
        if managed.child is not None and not self.stopping:
            managed.missed_pulses = 0
            self._tell("part_hung", managed, "error", after_seconds=round(self._seconds_in(managed), 1))
            managed.child.signal_group(SIGKILL)

    def _ended(self, managed: ManagedComponent) -> bool:
        code = managed.child.exit_code() if managed.child else None
        if managed.child is None or code is None:
            return False
        # What a dead leader leaves behind would hold the ports that its successor needs.
        managed.child.signal_group(SIGKILL)
        managed.child = None
        if managed.component.once and code == 0:
            managed.seconds_to_ready = self._seconds_in(managed)
            managed.was_ready = True
            self._enter(managed, State.DONE)
            self._tell("job_done", managed, seconds=round(managed.seconds_to_ready, 1))
        else:
            self._died(managed, _how(code))
        return True

    def _died(self, managed: ManagedComponent, reason: str) -> None:
        if self.stopping:
            self._enter(managed, State.STOPPED)
            self._tell("part_died", managed, "warning", reason=reason)
        elif managed.component.once or not (self.started or managed.was_ready):
            # During the start a person waits and a wrong setting is likelier than a crash: say it instead of trying again.
            # What was ready had no wrong setting: a scorer that dies of a record must not take HTTP with it.
            self._fail(managed, reason)
        else:
            self._restart_later(managed, reason)

    def _restart_later(self, managed: ManagedComponent, reason: str) -> None:
        # A crash loop gets slower and slower; one crash after an hour is no loop.
        if managed.state is State.READY and self._seconds_in(managed) >= HEALTHY_SECONDS:
            managed.backoff = FIRST_BACKOFF
        managed.due = self._machine.now() + managed.backoff
        self._enter(managed, State.RESTARTING)
        self._tell("part_died", managed, "error", reason=reason, restart_in_seconds=managed.backoff)
        managed.backoff = min(managed.backoff * 2, LONGEST_BACKOFF)

    def _fail(self, managed: ManagedComponent, reason: str) -> None:
        self._enter(managed, State.FAILED)
        self._tell("part_failed", managed, "error", reason=reason)
        if not self.started and self.failure is None:
            self.failure = Failure(managed.component.name, reason)
            self.stop()

    # The stop.

    def _stop_next_phase(self, stop_by: float) -> None:
        for managed in self.managed.values():
            if managed.child is None and managed.state in {State.WAITING, State.RESTARTING}:
                self._enter(managed, State.STOPPED)
        running = [managed for managed in self.managed.values() if managed.child]
        phases = sorted({managed.component.stop_phase for managed in running})
        for managed in running:
            if managed.component.stop_phase == phases[0] or self._machine.now() >= stop_by:
                # After the deadline the limit lies in the past, so that all phases are killed together.
                limit = stop_by - PHASE_SECONDS * (len(phases) - 1)
                self._begin_stop(managed, min(self._machine.now() + managed.component.stop_seconds, limit))

    def _begin_stop(self, managed: ManagedComponent, kill_at: float) -> None:
        is_told = managed.state is State.STOPPING
        # Called again in each step of its phase: the kill may come earlier than promised, never later.
        managed.due = min(managed.due, kill_at) if is_told else kill_at
        if is_told or (managed.child is None and not managed.leaving):
            return
        self._enter(managed, State.STOPPING)
        if managed.child:
            # The leader alone: a program that stops its own children in order must not find them gone.
            managed.child.signal(SIGTERM)

    def _kill(self, managed: ManagedComponent, child: Child) -> None:
        if not managed.killed:
            managed.killed = True
            self._tell("part_killed", managed, "warning", after_seconds=round(self._seconds_in(managed), 1))
        child.signal_group(SIGKILL)

    def _is_stopped(self, managed: ManagedComponent) -> None:
        code = managed.child.exit_code() if managed.child else None
        managed.child = None
        self._enter(managed, State.STOPPED)
        self._tell("part_stopped", managed, code=code)
        if managed.leaving:
            del self.managed[managed.component.name]


def _is_at_its_port(managed: ManagedComponent) -> bool:
    """Whether the answer came from the child: while it starts, anybody else may have its port."""
    port = managed.component.port if managed.component.ready else None
    return port is None or managed.child is None or managed.child.listens_on(port)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
