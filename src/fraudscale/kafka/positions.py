"""Where partitions go on, and which of them did not: the broker lost records, or retention was faster than we."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from fraudscale.kafka.messages import Batch


class OffsetReset(NamedTuple):
    """A partition that did not go on where it should: see docs/decisions/0018."""

    kind: Literal["back", "lost"]
    """`back`: the broker no longer has what was committed. `lost`: retention removed records before they were scored."""
    partition: int
    expected: int
    position: int
    """Where it went on."""


class Positions:
    """Where the partitions of one group member go on: at the group's commit, then behind each batch."""

    def __init__(self) -> None:
        self._expected: dict[int, int] = {}
        self._sought: set[int] = set()
        """Those that have had no batch since they were set to the group's commit."""

    def seek(self, partition: int, offset: int) -> None:
        """The partition goes on at the group's commit."""
        self._expected[partition] = offset
        self._sought.add(partition)

    def forget(self, partitions: Iterable[int]) -> None:
        """They are not ours any more."""
        for partition in partitions:
            self._expected.pop(partition, None)
            self._sought.discard(partition)

    def clear(self) -> None:
        """None is ours any more."""
        self._expected.clear()
        self._sought.clear()

    def follow(
        self, batch: Batch, following: Mapping[int, int], beginning: Callable[[int], int]
    ) -> list[OffsetReset]:
        """Take note of a batch; return the partitions that did not go on where they should.

        Args:
            batch: what was read.
            following: where its partitions go on after it.
            beginning: the first offset that a partition still has.
        """
        resets = []
        # a look at where a partition begins is dear for every batch: it is taken where an offset is missing
        moved = sum(offset - self._expected.get(partition, 0) for partition, offset in following.items())
        gapless = moved == len(batch.records)
        for partition, offset in following.items():
            expected = self._expected.get(partition, -1)  # the group had no commit here
            self._expected[partition] = offset
            follows = offset > expected and partition not in self._sought
            if follows and (gapless or beginning(partition) <= expected):
                continue  # nearly every batch; looking for its first record would take a while
            self._sought.discard(partition)
            first = _first(batch, partition)
            if first < expected:
                resets.append(OffsetReset("back", partition, expected, first))
            elif first > expected >= 0 and (low := beginning(partition)) > expected:
                resets.append(OffsetReset("lost", partition, expected, low))
        return resets


def _first(batch: Batch, partition: int) -> int:
    if batch.unreadable is not None:
        return batch.unreadable.first
    return next(r.offset for r in batch.records if r.partition == partition)
