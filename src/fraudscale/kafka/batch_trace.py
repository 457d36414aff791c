"""Traces of a Kafka batch: those of its records, and a span for the transaction that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from fraudscale.kafka.headers import TRACEPARENT, TRACESTATE
from fraudscale.kafka.messages import Header, Record
from fraudscale.telemetry.tracing import Trace, Tracer, Value

MOST_LINKS: Final = 128
"""From the span of a batch to its records; as many as OpenTelemetry's own limit."""


class Recorded(NamedTuple):
    """A record that gets a span, and what the span tells beside its place."""

    record: Record
    trace: Trace
    about: dict[str, Value]
    failed: bool = False


def traces_of(records: Sequence[Record], tracer: Tracer, now: float) -> dict[int, Trace]:
    """Return the traces of those records that have one, by their place; `now` is a `perf_counter()`."""
    begins = tracer.begins
    if not begins and not any(record.headers for record in records):
        return {}
    found = {
        i: tracer.of_record(record.headers, now) if record.headers else tracer.begun()
        for i, record in enumerate(records)
        if record.headers or begins
    }
    return {i: trace for i, trace in found.items() if trace is not None}


def headers_of(trace: Trace) -> list[Header]:
    """What a record that comes of another carries on of its trace."""
    headers: list[Header] = [(TRACEPARENT, trace.here.traceparent)]
    return [*headers, (TRACESTATE, trace.here.state)] if trace.here.state else headers


@dataclass(frozen=True)
class BatchSpans:
    """A batch some of whose records are recorded: each gets a span in its own trace, the batch one in a new trace.

    They are linked both ways: whoever follows one transaction finds what it waited for, and the other way round.
    """

    tracer: Tracer
    group: str
    topic: str
    read_at: float
    """When the batch was here, by `perf_counter()`."""
    records: int
    """As many as it has."""
    recorded: Sequence[Recorded]
    """At least one."""
    model: tuple[float, float] | None
    """When its pass of the model began and ended, by `perf_counter()`; None if nothing was to be scored."""
    delivering: float
    """When its outputs went to the broker."""

    def end(self, now: float) -> None:
        """Record them all: readers can see the scores."""
        whole = self.tracer.begun(sampled=True)
        if whole is None:
            return
        topic = self.topic
        about: dict[str, Value] = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": self.group,
            "messaging.destination.name": topic,
        }
        times = (self.read_at, now)
        for record, trace, more, failed in self.recorded:
            place: dict[str, Value] = {
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
            }
            about_record, links = about | place | more, [whole.here]
            self.tracer.end(
                trace, f"process {topic}", "consumer", times, about_record, links=links, failed=failed
            )
        whole.mark("decode", self.read_at, self.model[0] if self.model else self.delivering)
        if self.model:
            whole.mark("model", *self.model)
        whole.mark("produce", self.delivering, now)
        about |= {"messaging.batch.message_count": self.records}
        links = [one.trace.caller or one.trace.here for one in self.recorded[:MOST_LINKS]]
        self.tracer.end(whole, f"process batch of {topic}", "consumer", times, about, links=links)
