"""Dead letters back to the topic they came from: each at most once over all runs, unless that is asked for.

What went back is kept as the committed offset of the group `<group>-replay`, in the same transaction as the records. A
run with filters leaves dead letters behind that a later run may want, so the offset is that of the first one that did not
go, and its metadata tell which ones after it did.
"""

import json
import time
import zlib
from base64 import b85decode, b85encode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from fraudscale.clock import parse_moment
from fraudscale.config import KafkaSettings
from fraudscale.errors import FraudscaleError, InputError
from fraudscale.kafka.headers import (
    ERROR_DETAIL,
    ERROR_FIELD,
    FIRST_SEEN,
    OMITTED,
    REASON,
    REPLAYS,
    SOURCE,
    VERDICT,
    is_number,
    read_source,
)
from fraudscale.kafka.messages import Header, Output, Record
from fraudscale.kafka.replayer import RecordRefused, Replayer

BATCH_RECORDS: Final = 500
BATCH_BYTES: Final = 4 * 1024 * 1024
"""One transaction holds no more than these."""
TICKS: Final = 5
"""Transactions per second when a rate is asked for: so evenly the records go out."""
LATEST: Final = 253_402_300_799
"""The last second of the year 9999: a producer's clock may be absurd."""
LONGEST_METADATA: Final = 4096
"""Characters that a broker keeps with an offset, by default."""


class BadRequest(InputError):
    """The replay that was asked for makes no sense; the message names the option."""


class PositionFull(FraudscaleError):
    """Filters picked so many single dead letters that their offsets no longer fit what a broker keeps for a group."""


@dataclass
class ReplayPosition:
    """Which offsets of one partition went back: all below `base`, and above it those whose bit is set."""

    base: int
    bits: int = 0
    """Bit *i* is offset `base + i`; bit 0 is never set."""

    @classmethod
    def load(cls, offset: int | None, metadata: str, low: int) -> "ReplayPosition":
        """Read a committed offset, if there is one; what retention removed needs no memory."""
        if offset is None:
            return cls(low)
        packed = zlib.decompress(b85decode(metadata)) if metadata else b""
        position = cls(offset, int.from_bytes(packed, "little"))
        position.pass_to(low)
        return position

    def dump(self) -> str:
        """The metadata of the commit of `base`.

        Raises:
            PositionFull: a broker would refuse them.
        """
        if not self.bits:
            return ""
        raw = self.bits.to_bytes((self.bits.bit_length() + 7) // 8, "little")
        text = b85encode(zlib.compress(raw, 9)).decode()
        if len(text) > LONGEST_METADATA:
            raise PositionFull(
                f"more single dead letters were sent back beyond offset {self.base} than the group's offset can note: "
                "replay the oldest ones first, with `--until` and no other filter"
            )
        return text

    def __contains__(self, offset: int) -> bool:
        return offset < self.base or bool(self.bits >> (offset - self.base) & 1)

    def add(self, offset: int) -> None:
        if offset >= self.base:
            self.bits |= 1 << (offset - self.base)
            self._shift()

    def pass_to(self, offset: int) -> None:
        """Add all before an offset."""
        if offset > self.base:
            self.bits >>= offset - self.base
            self.base = offset
            self._shift()

    def add_range(self, begin: int, end: int) -> None:
        """Add offsets from `begin` up to `end`, exclusive, where there is no record."""
        begin = max(begin, self.base)
        if end > begin:
            self.bits |= ((1 << (end - begin)) - 1) << (begin - self.base)
            self._shift()

    def _shift(self) -> None:
        ones = (~self.bits & (self.bits + 1)).bit_length() - 1
        self.bits >>= ones
        self.base += ones


@dataclass(frozen=True)
class ReplayFilter:
    """Which dead letters go back."""

    reason: str | None = None
    """`validation`, `prediction` or `delivery`."""
    since: datetime | None = None
    """Dead-lettered then or later."""
    until: datetime | None = None
    """Dead-lettered before."""
    ids: frozenset[str] = frozenset()
    """Keys; none for all."""
    again: bool = False
    """Those too that came back before and failed again."""
    limit: int | None = None
    """No more than so many."""

    def __post_init__(self) -> None:
        if self.since and self.until and self.since >= self.until:
            raise BadRequest(
                f"--since {self.since.isoformat()} is not before --until {self.until.isoformat()}"
            )

    def left(self, letter: Record) -> str | None:
        """Why a dead letter stays, in a word; None if it goes."""
        headers = dict(letter.headers)
        if not source_topic(headers):
            return "foreign"  # nobody says where it belongs
        if OMITTED in headers:
            return "incomplete"
        at = datetime.fromtimestamp(min(letter.timestamp / 1000, LATEST), UTC)
        if (
            (self.reason and text(headers.get(REASON)) != self.reason)
            or (self.since and at < self.since)
            or (self.until and at >= self.until)
            or (self.ids and text(letter.key) not in self.ids)
        ):
            return "filtered"
        return "failed_again" if replays(headers) and not self.again else None


@dataclass
class ReplayResult:
    """What a run did."""

    dead_letter_topic: str
    dry_run: bool
    sent: int = 0
    """Or would be, in a dry run."""
    left: Counter[str] = field(default_factory=Counter)
    """Dead letters that stay, by reason: see `LEFT`."""
    letters: list[dict[str, str | int]] = field(default_factory=list)
    """What would go; of a dry run only."""
    seconds: float = 0.0


def parse_time(option: str, value: str | None) -> datetime | None:
    """Read `10m`, `2h`, `1d` (so long ago), or an instant in RFC 3339, UTC without a zone. None stays None.

    Raises:
        BadRequest: it is something else.
    """
    if value is None:
        return None
    try:
        return parse_moment(value, datetime.now(UTC))
    except ValueError as error:
        raise BadRequest(
            f"{option} {value}: must be a duration such as 10m or 2h, or an instant such as 2026-11-23T10:00:00Z"
        ) from error


def text(content: str | bytes | None) -> str:
    return content.decode(errors="replace") if isinstance(content, bytes) else content or ""


def source_topic(headers: dict[str, str | bytes | None]) -> str:
    """Where a dead letter was read; empty if it doesn't say."""
    source = read_source(headers.get(SOURCE))
    return source.topic if source else ""


def replays(headers: dict[str, str | bytes | None]) -> int:
    """How often a record came back already; 0 for a number that isn't one."""
    found = text(headers.get(REPLAYS))
    return int(found) if is_number(found) else 0


def back(letter: Record) -> Output:
    """The record as it goes back: key, value and the input's own headers as they came, one replay more."""
    headers = dict(letter.headers)
    kept: list[Header] = [(n, v) for n, v in letter.headers if n not in VERDICT and n != REPLAYS]
    count = b"%d" % (replays(headers) + 1)
    # where the topic of dead letters wanted a key that the record didn't have, it is the record's name
    key = None if text(letter.key) == text(headers.get(SOURCE)) else letter.key
    return Output(source_topic(headers), key, letter.value, [*kept, (REPLAYS, count)])


def describe(letter: Record) -> dict[str, str | int]:
    """A dead letter in words, for a person who decides whether it should go."""
    headers = dict(letter.headers)
    return {
        "partition": letter.partition,
        "offset": letter.offset,
        "id": text(letter.key),
        "to": source_topic(headers),
        "reason": text(headers.get(REASON)),
        "field": text(headers.get(ERROR_FIELD)),
        "detail": text(headers.get(ERROR_DETAIL)),
        "first_seen": text(headers.get(FIRST_SEEN)),
        "replays": replays(headers),
    }


class Replay:
    """One run over the dead letters that are there when it begins; what fails again meanwhile is behind its end."""

    def __init__(
        self,
        replayer: Replayer,
        replay_filter: ReplayFilter,
        result: ReplayResult,
        *,
        rate: float | None,
        progress: Callable[[float], None],
    ) -> None:
        """Prepare.

        Args:
            replayer: reads and writes.
            replay_filter: which dead letters go.
            result: is filled as the run goes on, so that it tells the truth about one that is cut short.
            rate: records per second at most; None for as fast as possible.
            progress: is told the share of dead letters looked at.
        """
        self._replayer = replayer
        self._filter = replay_filter
        self._result = result
        self._rate = rate
        self._progress = progress
        self._positions: dict[int, ReplayPosition] = {}
        self._expected: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._began = 0.0
        self._pending: list[Record] = []
        self._most = min(BATCH_RECORDS, max(1, int(rate / TICKS))) if rate else BATCH_RECORDS

    def run(self, *, from_start: bool) -> None:
        """Go through the dead letters once.

        Raises:
            BrokerUnavailable: it went away; what was sent is remembered.
            NotDelivered: a transaction failed for another reason; likewise.
            PositionFull: see there.
        """
        total = self._begin(from_start=from_start)
        self._began = time.monotonic()
        seen = 0
        while (records := self._replayer.read()) and not self._is_enough():
            for record in records:
                self._look_at(record)
            seen += len(records)
            self._progress(min(1.0, seen / total))
        self._flush()
        self._finish()
        self._progress(1.0)

    def _begin(self, *, from_start: bool) -> int:
        """Open; return how many dead letters there are to look at."""
        partitions = self._replayer.open(write=not self._result.dry_run)
        for partition, state in partitions.items():
            committed = None if from_start else state.committed
            self._positions[partition] = ReplayPosition.load(committed, state.metadata, state.low)
        self._expected = {partition: p.base for partition, p in self._positions.items()}
        self._committed = dict(self._expected)
        self._replayer.seek(self._expected)
        return sum(max(0, state.end - self._expected[p]) for p, state in partitions.items())

    def _is_enough(self) -> bool:
        limit = self._filter.limit
        return limit is not None and self._result.sent + len(self._pending) >= limit

    def _look_at(self, letter: Record) -> None:
        position = self._positions[letter.partition]
        # Kafka's own marks have offsets too: nothing waits there.
        position.add_range(self._expected[letter.partition], letter.offset)
        self._expected[letter.partition] = letter.offset + 1
        if letter.offset in position or self._is_enough():
            return
        why = self._filter.left(letter)
        if why is None and not self._replayer.takes(source_topic(dict(letter.headers))):
            why = "no_topic"  # waiting for it to be made would hold all others up
        if why:
            self._result.left[why] += 1
            return
        self._pending.append(letter)
        if len(self._pending) >= self._most or _size(self._pending) >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        letters, self._pending = self._pending, []
        if self._result.dry_run:
            self._result.letters += [describe(letter) for letter in letters]
            self._result.sent += len(letters)
        elif letters:
            self._pace()
            self._send(letters)

    def _pace(self) -> None:
        if self._rate:
            time.sleep(max(0.0, self._began + self._result.sent / self._rate - time.monotonic()))

    def _send(self, letters: Sequence[Record]) -> None:
        """Send dead letters as one transaction; where the broker refuses one, in halves, to lose that one only."""
        positions = {p: ReplayPosition(known.base, known.bits) for p, known in self._positions.items()}
        for letter in letters:
            positions[letter.partition].add(letter.offset)
        try:
            self._replayer.send([back(letter) for letter in letters], _commits(positions))
        except RecordRefused as error:
            if len(letters) == 1:
                self._result.left["too_large" if error.too_large else "refused"] += 1
                return
            middle = len(letters) // 2
            self._send(letters[:middle])
            self._send(letters[middle:])
        else:
            self._positions = positions
            self._committed = {partition: p.base for partition, p in positions.items()}
            self._result.sent += len(letters)

    def _finish(self) -> None:
        """Let the group's lag be 0 when nothing waits: step over the marks that transactions left at the end."""
        for partition, end in self._replayer.reached.items():
            self._positions[partition].add_range(self._expected[partition], end)
        moved = any(p.base > self._committed[partition] for partition, p in self._positions.items())
        if moved and not self._result.dry_run:
            self._replayer.send([], _commits(self._positions))


def _commits(positions: dict[int, ReplayPosition]) -> dict[int, tuple[int, str]]:
    return {partition: (p.base, p.dump()) for partition, p in positions.items()}


def _size(letters: Sequence[Record]) -> int:
    return sum(len(letter.value or b"") for letter in letters)


def run(
    settings: KafkaSettings,
    replay_filter: ReplayFilter,
    *,
    from_start: bool,
    rate: float | None,
    progress: Callable[[float], None],
    result: ReplayResult,
) -> None:
    """Send the chosen dead letters of the settings' topic back.

    Args:
        settings: broker, topic, group.
        replay_filter: which dead letters go.
        from_start: forget what went back before.
        rate: records per second at most.
        progress: is told the share of dead letters looked at.
        result: is filled, also when the run is cut short; where it says so, the run is a dry one that sends nothing.

    Raises:
        BrokerUnavailable: no broker answers, or there is no dead-letter topic.
        NotDelivered: a transaction failed.
        PositionFull: filters left too many gaps.
    """
    began = time.monotonic()
    replayer = Replayer(settings, settings.dead_letter_topic, f"{settings.kafka_group}-replay")
    try:
        Replay(replayer, replay_filter, result, rate=rate, progress=progress).run(from_start=from_start)
    finally:
        result.seconds = round(time.monotonic() - began, 3)
        replayer.close()


LEFT: Final = {
    "filtered": "not chosen",
    "failed_again": "sent back before and failed again (--again sends them)",
    "foreign": "without a source-record header: not written by us",
    "incomplete": "without a part that was too large for them: the source record has it",
    "no_topic": "the topic that they came from is gone, or may not be described",
    "too_large": "too large for the topic that they came from",
    "refused": "refused by the topic that they came from, such as a record without a key by a compacted one",
}


def as_json(result: ReplayResult) -> str:
    """For scripts: counts, and in a dry run the dead letters."""
    shown = {name: value for name, value in vars(result).items() if name != "letters" or result.dry_run}
    return json.dumps(shown | {"left": {why: result.left[why] for why in LEFT}}, indent=2)


def as_text(result: ReplayResult) -> str:
    """For a person: in a dry run one line per dead letter, then the counts."""
    lines = [
        f"{x['partition']}/{x['offset']}  {x['first_seen']}  {x['id']}  {x['reason']} {x['field']}: {x['detail']}"
        for x in result.letters
    ]
    verb = "would be sent back" if result.dry_run else "were sent back"
    lines.append(f"{result.sent} of {result.dead_letter_topic} {verb}, in {result.seconds:.1f} s")
    lines += [f"{count} stay: {LEFT[why]}" for why, count in sorted(result.left.items())]
    return "\n".join(lines)
