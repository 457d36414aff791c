"""Outputs that a broker will never take, and how their batch is delivered nevertheless.

A refused batch is read again. As long as it isn't known which output was refused, batches are small and each output is
a request of its own, which names it. A refused score becomes a dead letter, a refused dead letter a smaller one.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from confluent_kafka import KafkaError

from fraudscale.kafka.dead_letters import DeadLetter
from fraudscale.kafka.delivery import OutputRefused
from fraudscale.kafka.headers import SOURCE, read_source, source_of
from fraudscale.kafka.messages import Output, Record
from fraudscale.kafka.plan import Plan

SINGLY_RECORDS: Final = 250
"""Most records of a batch whose outputs are written singly: all must be there before the transaction times out."""
MOST_REFUSALS: Final = 5
"""Of one record: the score, then the dead letter with all, with a key, and without each of its parts."""


class Refusals:
    """What was refused of the records that are read next, until they are committed."""

    def __init__(self) -> None:
        self._refused: dict[str, tuple[str, int]] = {}
        """Name of a record → why its output was refused first, and how often since."""
        self._keyless: dict[str, str] = {}
        """Topic that is compacted → why it refuses whatever has no key: all such outputs, so they aren't tried one by one."""
        self.suspects = 0
        """Records still to come, one of which has an output that was refused."""

    @property
    def pending(self) -> bool:
        return bool(self._refused or self._keyless or self.suspects)

    def note(self, error: OutputRefused) -> bool:
        """Take a refusal into account; return whether there is anything else to try."""
        if not error.refused:
            unnamed_before, self.suspects = self.suspects > 0, max(self.suspects, error.records)
            return not unnamed_before
        for output, reason in error.refused:
            why, count = self._refused.get(name := _source(output), (f"{output.topic}: {reason.str()}", 0))
            self._refused[name] = why, count + 1
            if output.key is None and reason.code() == KafkaError.INVALID_RECORD:
                self._keyless[output.topic] = why
        return all(count <= MOST_REFUSALS for _, count in self._refused.values())

    def apply(self, planned: Plan, records: Sequence[Record], dead_letter_topic: str) -> None:
        """Make dead letters of the scores that were refused, and smaller ones of refused dead letters."""
        letters = [replace(x, refusals=self._found(x.record, dead_letter_topic)[1]) for x in planned.dead]
        by_name = {_name(record): record for record in records}
        kept: list[Output] = []
        for output in planned.scored:
            record = by_name[_source(output)]
            why, count = self._found(record, output.topic)
            if count:
                again = max(count - 1, dead_letter_topic in self._keyless and record.key is None)
                letters.append(DeadLetter(record, "delivery", "", why, refusals=again))
            else:
                kept.append(output)
        planned.scored, planned.scores, planned.dead = kept, len(kept), letters

    def retain(self, partitions: Collection[int]) -> None:
        """Forget records of partitions that others own by now: they would never be committed here."""
        if self._refused:
            self._refused = {name: x for name, x in self._refused.items() if _partition(name) in partitions}

    def forget(self, records: Sequence[Record]) -> None:
        """Forget records that are committed."""
        self.suspects = max(0, self.suspects - len(records))
        if not self.suspects:
            self._keyless.clear()
        for record in records:
            self._refused.pop(_name(record), None)

    def _found(self, record: Record, topic: str) -> tuple[str, int]:
        found = self._refused.get(_name(record))
        if found is None and record.key is None and topic in self._keyless:
            found = self._keyless[topic], 1
        return found or ("", 0)


def _name(record: Record) -> str:
    return source_of(record.topic, record.partition, record.offset)


def _partition(name: str) -> int | None:
    source = read_source(name)
    return source.partition if source else None


def _source(output: Output) -> str:
    return str(dict(output.headers)[SOURCE])
