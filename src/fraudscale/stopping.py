"""How each of our processes learns that it should stop.

A signal handler runs between two instructions of the main thread, which may hold the very lock that the handler wants:
`Event.set` in a handler deadlocks now and then. So the handler only puts the signal's number into
a queue that is made for it, and a thread does the rest.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread
from types import FrameType, TracebackType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def interrupts() -> Iterator[None]:
    """While in force, what asks for a stop raises KeyboardInterrupt, for work that has to clean up and no loop to ask in.

    A signal that was ignored before, as SIGHUP is under `nohup`, stays ignored.
    """
    asks = (*SIGNALS, signal.SIGHUP)
    before = {which: signal.getsignal(which) for which in asks}
    taken = [which for which, handler in before.items() if handler is not signal.SIG_IGN]
    for which in taken:
        signal.signal(which, signal.default_int_handler)
    try:
        yield
    finally:
        for which in taken:
            signal.signal(which, before[which])


class StopSignals:
    """While in force: the first SIGTERM or SIGINT sets `stop`, each later one calls `again`; both in a thread."""

    def __init__(
        self,
        on_first: Callable[[], None] = lambda: None,
        again: Callable[[int], None] = lambda _: None,
        signals: tuple[signal.Signals, ...] = SIGNALS,
    ) -> None:
        """Prepare.

        Args:
            on_first: called at the first signal, before `stop` is set.
            again: called with the signal's number at each one after it.
            signals: that ask for a stop.
        """
        self.stop: Final = Event()
        self._on_first = on_first
        self._again = again
        self._signals = signals
        self._seen: SimpleQueue[int | None] = SimpleQueue()
        self._before: dict[signal.Signals, Any] = {}
        self._thread = Thread(target=self._heed, name="stop-signals", daemon=True)

    def __enter__(self) -> Self:
        for which in self._signals:
            self._before[which] = signal.signal(which, self._note)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)
        self._seen.put(None)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._seen.put(number)  # reentrant, as its documentation promises

    def _heed(self) -> None:
        while (number := self._seen.get()) is not None:
            if self.stop.is_set():
                self._again(number)
            else:
                self._on_first()
                self.stop.set()
