"""Traces: the W3C trace context that came with a request or a record, what of it is sampled, and the spans made here.

Pure: instants and randomness are arguments. A span is built once, after the fact, from instants that are taken anyway,
and only where somebody will see it: a request without a trace costs one look at its headers
(docs/decisions/0013-spans-after-the-fact.md).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from fraudscale.token_bucket import TokenBuckets

VERSION_00: Final = 55
"""Bytes of a `traceparent`; later versions may have more."""
LONGEST_PARENT: Final = 256
LONGEST_STATE: Final = 512
"""Characters of a `tracestate`, as many as W3C asks to pass on; a longer one is dropped as a whole."""

_PARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)

_ODD: Final = frozenset("13579bdf")  # last digits of flags that say "sampled"

Kind = Literal["server", "consumer", "internal"]
Value = str | int | float


class Context(NamedTuple):
    """A place in a trace: 32 and 16 lower-case hexadecimal digits, whether the trace is recorded, and `tracestate`."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(traceparent: bytes, tracestate: bytes = b"") -> Context | None:
    """Read a caller's place as strictly as https://www.w3.org/TR/trace-context/ asks; None for what is none.

    Of a later version the parts that it shares with version 00 are read; a bad `tracestate` harms nothing but itself.
    """
    if len(traceparent) > LONGEST_PARENT or _PARENT.fullmatch(traceparent) is None:
        return None
    if len(traceparent) > VERSION_00 and traceparent.startswith(b"00"):
        return None
    text = traceparent.decode("latin-1")
    state = ""
    if tracestate and len(tracestate) <= LONGEST_STATE:
        state = tracestate.decode("ascii", errors="ignore")
    return Context(text[3:35], text[36:52], text[54] in _ODD, state)


class Stage(NamedTuple):
    """A part of a span; the instants are those of `perf_counter()`."""

    name: str
    started: float
    ended: float


class Span(NamedTuple):
    """What is recorded: something that took time in a trace, and its caller there; instants as in `Stage`."""

    name: str
    kind: Kind
    here: Context
    caller: Context | None
    started: float
    ended: float
    attributes: Mapping[str, Value] = MappingProxyType({})
    links: Sequence[Context] = ()
    failed: bool = False


RecordSpans = Callable[[Sequence[Span]], None]
"""Takes spans that are over, at once and without an exception."""


class Trace:
    """The part of a trace that happens here, for one request or record; one thread at a time uses it."""

    __slots__ = ("about", "caller", "failed", "here", "recorded", "sampled", "stages")

    def __init__(
        self, here: Context, caller: Context | None = None, *, sampled: bool = False, recorded: bool = False
    ) -> None:
        """Take it down.

        Args:
            here: what log lines, answers and outgoing records name: our span if it is recorded, else the caller's.
            caller: the span that caused ours; None at a root.
            sampled: whether it may be shown as the example of a histogram's bucket.
            recorded: whether spans are made.
        """
        self.here = here
        self.caller = caller
        self.sampled = sampled
        self.recorded = recorded
        self.stages: list[Stage] = []
        self.about: dict[str, Value] = {}
        """Attributes of our span that are known before its end."""
        self.failed = False

    def mark(self, name: str, started: float, ended: float) -> None:
        """Note a stage, to become a span below ours."""
        if self.recorded:
            self.stages.append(Stage(name, started, ended))

    def ids(self) -> dict[str, str]:
        """What log lines and exemplars say, in OpenTelemetry's names."""
        return {"trace_id": self.here.trace_id, "span_id": self.here.span_id}


class BatchTrace:
    """The traces of transactions that are scored together, by their index; few batches have any.

    A batch costs what its traced transactions cost: nothing here looks at the others.
    """

    __slots__ = ("traces",)

    def __init__(self, traces: Mapping[int, Trace]) -> None:
        self.traces = traces

    def __bool__(self) -> bool:
        return bool(self.traces)

    def ids(self, index: int) -> dict[str, str]:
        """What a log line about one transaction adds."""
        trace = self.traces.get(index)
        return trace.ids() if trace else {}

    def headers(self, index: int) -> list[tuple[str, str | bytes | None]]:
        """The W3C headers of a record that is made of one transaction."""
        if (trace := self.traces.get(index)) is None:
            return []
        here = trace.here
        traceparent: tuple[str, str] = ("traceparent", here.traceparent)
        return [traceparent, ("tracestate", here.state)] if here.state else [traceparent]

    def exemplar(self) -> dict[str, str]:
        """The ids of a sampled trace, if there is one: all transactions of a pass took equally long."""
        for trace in self.traces.values():
            if trace.sampled:
                return trace.ids()
        return {}

    def recorded(self) -> list[tuple[int, Trace]]:
        """Those that get spans, with their index."""
        return [(i, trace) for i, trace in self.traces.items() if trace.recorded]

    def pick(self, indexes: Sequence[int]) -> "BatchTrace":
        """Leave out all transactions but these, which are counted anew from 0."""
        if not self.traces:
            return self
        found = ((new, self.traces.get(old)) for new, old in enumerate(indexes))
        return BatchTrace({new: trace for new, trace in found if trace is not None})

    def mark(self, name: str, started: float, ended: float) -> None:
        """Note a stage that all of them went through together; one trace may have several transactions."""
        if self.traces:
            for trace in {*self.traces.values()}:
                trace.mark(name, started, ended)

    def fail(self, index: int, attributes: Mapping[str, Value]) -> None:
        """Note that a transaction gets no score, and why."""
        trace = self.traces.get(index)
        if trace is not None and trace.recorded:
            trace.failed = True
            trace.about.update(attributes)


NOT_TRACED: Final = BatchTrace(MappingProxyType({}))


class Tracer:
    """Finds the trace of a request or a record, decides whether it is sampled, and records its spans.

    Parent-based, as OpenTelemetry has it: a caller's flag decides; where there is no caller, a ratio by trace id. A
    flag costs its sender nothing and us a lot, so the flags heeded a second are bounded.
    """

    def __init__(
        self, ratio: float, callers_per_second: float, record: RecordSpans | None, random: Random
    ) -> None:
        """Set it up.

        Args:
            ratio: share of the traces begun here that is sampled.
            callers_per_second: flags of callers that are heeded, a burst of a second's worth included; 0: none.
            record: takes spans; without it no trace is begun, and those of callers are passed on.
            random: where ids come from.
        """
        # Of the lower half of an id, as in OpenTelemetry's TraceIdRatioBased.
        self._below = round(ratio * 2**64) if record else 0
        self._bucket = (
            TokenBuckets(callers_per_second, max(1, int(callers_per_second)), 1)
            if callers_per_second
            else None
        )
        self._record = record
        self._random = random

    def of_request(self, headers: Iterable[tuple[bytes, bytes]], now: float) -> Trace | None:
        """Return the trace of an HTTP request, if it has one or begins one.

        Names of headers are in lower case, more than one `traceparent` is none; `now` is `perf_counter()`.
        """
        for name, _ in headers:
            if name == b"traceparent":
                return self._continued(*_of_http(headers), now)
        return self.begun() if self._below else None

    @property
    def begins(self) -> bool:
        """Whether what brings no trace may get one."""
        return self._below > 0

    def of_record(self, headers: Iterable[tuple[str, str | bytes | None]], now: float) -> Trace | None:
        """Return the trace of a Kafka record, if it has one or begins one; of headers that repeat the last counts."""
        found = {name: value for name, value in headers if name in {"traceparent", "tracestate"}}
        if parent := found.get("traceparent"):
            return self._continued(_bytes(parent), _bytes(found.get("tracestate")), now)
        return self.begun() if self._below else None

    def begun(self, *, sampled: bool = False) -> Trace | None:
        """Begin a trace here if its id is in the ratio, or if it is `sampled` for another reason."""
        low = self._random.getrandbits(64)
        if low >= self._below and not sampled:
            return None
        trace_id = f"{self._random.getrandbits(64) or 1:016x}{low:016x}"
        return Trace(Context(trace_id, self._span_id(), sampled=True), sampled=True, recorded=True)

    def end(
        self,
        trace: Trace,
        name: str,
        kind: Kind,
        times: tuple[float, float],
        attributes: Mapping[str, Value],
        *,
        links: Sequence[Context] = (),
        failed: bool = False,
    ) -> None:
        """Record our span of a trace and its stages, if it is to be recorded; `times` are start and end."""
        if self._record is None or not trace.recorded:
            return
        here = trace.here
        below = [
            Span(
                stage.name,
                "internal",
                here._replace(span_id=self._span_id()),
                here,
                stage.started,
                stage.ended,
            )
            for stage in trace.stages
        ]
        self._record([Span(name, kind, here, trace.caller, *times, attributes, links, failed), *below])

    def _continued(self, traceparent: bytes, tracestate: bytes, now: float) -> Trace | None:
        caller = parse(traceparent, tracestate)
        if caller is None:
            return self.begun() if self._below else None
        if not caller.sampled or self._bucket is None or self._bucket.take("", now):
            return Trace(caller)
        if self._record is None:
            return Trace(caller, sampled=True)
        return Trace(caller._replace(span_id=self._span_id()), caller, sampled=True, recorded=True)

    def _span_id(self) -> str:
        return f"{self._random.getrandbits(64) or 1:016x}"


def _of_http(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    parent, state = None, b""
    for name, value in headers:
        if name == b"traceparent":
            parent = value if parent is None else b""
        elif name == b"tracestate":
            state = state + b"," + value if state else value
    return parent or b"", state


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
