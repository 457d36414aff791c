"""Signals that ask for a stop: the first, the later ones, and the moment that would deadlock."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from fraudscale.stopping import StopSignals, interrupts


def kill(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_stop(number):
    with StopSignals() as signals:
        assert not signals.stop.is_set()
        kill(number)
        assert signals.stop.wait(5)


def test_what_is_called_first_is_called_before_stop_is_set():
    seen = []
    signals = StopSignals(lambda: seen.append(signals.stop.is_set()))
    with signals:
        kill(signal.SIGTERM)
        assert signals.stop.wait(5)
    assert seen == [False]


def test_each_later_signal_calls_again_with_its_number():
    numbers, twice = [], threading.Event()

    def again(number):
        numbers.append(number)
        if len(numbers) == 2:
            twice.set()

    with StopSignals(again=again) as signals:
        kill(signal.SIGTERM)
        assert signals.stop.wait(5)
        kill(signal.SIGINT)
        kill(signal.SIGTERM)
        assert twice.wait(5)
    assert sorted(numbers) == [signal.SIGINT, signal.SIGTERM]


def test_only_the_signals_that_are_named_ask_for_a_stop():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(signals=(signal.SIGUSR1,)) as signals:
        assert signal.getsignal(signal.SIGTERM) is before
        kill(signal.SIGUSR1)
        assert signals.stop.wait(5)


def test_handlers_and_thread_are_gone_afterwards():
    before = [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as signals:
        assert [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)] == before
    signals._thread.join(5)
    assert not signals._thread.is_alive()
    assert not signals.stop.is_set()


IN_THE_LOCK = """
import os, signal
from fraudscale.stopping import StopSignals

with StopSignals() as signals:
    with signals.stop._cond:  # as within `wait`, or within `set` of another thread's doing
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(100_000))  # the handler runs here
    assert signals.stop.wait(5)
print("stopped")
"""


def test_a_signal_while_the_event_s_own_lock_is_held_does_not_deadlock():
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_LOCK], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stdout, done.returncode) == ("stopped\n", 0), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_work_without_a_loop_is_interrupted_and_signals_are_as_before(number):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts():  # noqa: PT012 - the signal may come in either line
            kill(number)
            threading.Event().wait(10)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_interrupts_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts():
            kill(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
