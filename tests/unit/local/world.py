"""A supervisor whose processes and time are made up."""

from concurrent.futures import Future
from signal import SIGKILL

from fraudscale.local.supervisor.supervise import Supervisor


class FakeChild:
    def __init__(self, pid, machine):
        self.pid, self.machine = pid, machine
        self.code, self.orphans, self.stubborn = None, False, False
        self.signals, self.group_signals = [], []

    def exit_code(self):
        return self.code

    def signal(self, which):
        self.signals.append(which)
        if not self.stubborn:
            self.code = 0

    def signal_group(self, which):
        self.group_signals.append(which)
        if which == SIGKILL:
            self.code, self.orphans = self.code if self.code is not None else -9, False

    def group_lives(self):
        return self.orphans

    def listens_on(self, port):
        return port not in self.machine.strangers


class FakeMachine:
    def __init__(self):
        self.time, self.spawned, self.missing = 0.0, [], set()
        self.strangers = set()  # ports that somebody else has

    def now(self):
        return self.time

    def spawn(self, component):
        if component.name in self.missing:
            raise FileNotFoundError(2, "No such file", component.command[0])
        self.spawned.append((component.name, FakeChild(len(self.spawned) + 100, self)))
        return self.spawned[-1][1]

    def ask(self, ready):
        future = Future()
        try:
            future.set_result(ready())
        except Exception as error:
            future.set_exception(error)
        return future


class World:
    """A supervisor with its fakes, and time that passes in tenths of a second."""

    def __init__(self, *components):
        self.machine, self.events, self.changes = FakeMachine(), [], 0
        self.supervisor = Supervisor(
            self.machine, components, report=self.events.append, changed=self._changed
        )

    def _changed(self):
        self.changes += 1

    def run(self, seconds=0.5):
        until = self.machine.time + seconds
        while self.machine.time < until:
            self.supervisor.step()
            self.machine.time = round(self.machine.time + 0.1, 1)
        return self

    def child(self, name):
        return [child for spawned, child in self.machine.spawned if spawned == name][-1]

    def started(self):
        return [name for name, _ in self.machine.spawned]

    def state(self, name):
        return self.supervisor.managed[name].state

    def told(self, kind):
        return [event.component for event in self.events if event.kind == kind]

    def die(self, name, code=1):
        self.child(name).code = code
        return self.run(0.1)
