"""Traces of a Kafka batch: those of its records, and a span for the transaction that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fraudscale.kafka.messages import Record
from fraudscale.telemetry.tracing import NOT_TRACED, BatchTrace, Trace, Tracer, Value

MOST_LINKS: Final = 128
"""From the span of a batch to its records; as many as OpenTelemetry's own limit."""


def trace_of(records: Sequence[Record], tracer: Tracer, now: float) -> BatchTrace:
    """Return the traces of those records that have one; `now` is a `perf_counter()`."""
    begins = tracer.begins
    if not begins and not any(record.headers for record in records):
        return NOT_TRACED
    traces: dict[int, Trace] = {}
    for i, record in enumerate(records):
        if not record.headers and not begins:
            continue
        trace = tracer.of_record(record.headers, now) if record.headers else tracer.begun()
        if trace is None:
            continue
        if trace.recorded:
            trace.about["messaging.destination.partition.id"] = str(record.partition)
            trace.about["messaging.kafka.offset"] = record.offset
        traces[i] = trace
    return BatchTrace(traces) if traces else NOT_TRACED


@dataclass(frozen=True)
class BatchSpans:
    """The spans of a batch: each recorded record has one in its own trace, the batch one in a new trace.

    They are linked both ways: whoever follows one transaction finds what it waited for, and the other way round. This
    is kept until the commit, so it holds nothing of the records themselves.
    """

    tracer: Tracer
    group: str
    topic: str
    read_at: float
    """When the batch was here, by `perf_counter()`."""
    records: int
    """As many as it has."""
    recorded: Sequence[Trace]
    """Without any there are no spans."""
    model: tuple[float, float] | None
    """When its pass of the model began and ended, by `perf_counter()`; None if nothing was to be scored."""
    delivering: float
    """When its outputs went to the broker."""

    def end(self, now: float) -> None:
        """Record them all: readers can see the scores."""
        whole = self.tracer.begun(sampled=True) if self.recorded else None
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
        for trace in self.recorded:
            self.tracer.end(
                trace,
                f"process {topic}",
                "consumer",
                times,
                about | trace.about,
                links=[whole.here],
                failed=trace.failed,
            )
        whole.mark("decode", self.read_at, self.model[0] if self.model else self.delivering)
        if self.model:
            whole.mark("model", *self.model)
        whole.mark("produce", self.delivering, now)
        about["messaging.batch.message_count"] = self.records
        links = [trace.caller or trace.here for trace in self.recorded[:MOST_LINKS]]
        self.tracer.end(whole, f"process batch of {topic}", "consumer", times, about, links=links)
