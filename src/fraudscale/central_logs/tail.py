"""Follows the log files of a folder: whole lines, each with an id that is the same however often it is read.

A log is cut in place when it gets long, its content copied to `<name>.log.1`, and put aside under that name by the next
`up` (`local/supervisor/machine.py`). So a name says nothing about what a file holds, and neither does an inode alone: a cut
keeps it, a copy has another. A content is known by its inode and its first bytes; what was not read before the cut is read
from the copy. Each content gets an id of its own, written down before its first line is sent.
"""

import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fraudscale import files
from fraudscale.central_logs.documents import LogLine

HEAD_BYTES: Final = 1024
"""So many first bytes tell a content from the one that was there before; ours begin with a time."""
CHUNK_BYTES: Final = 256 * 1024
"""Most that is read of a file at once, and the longest line: what is longer is cut into pieces."""
BATCH_BYTES: Final = 1024 * 1024


class FilePosition(msgspec.Struct):
    """How far a content has been read."""

    name: str
    """Of the component: the file's without its ending."""
    content: str
    """Id of the content; with the offset it makes a line's."""
    inode: int
    offset: int = 0
    head_bytes: int = 0
    head: str = ""
    """Digest of the first `head_bytes` bytes."""
    rest: bool = False
    """The content was cut or put aside: what is left of it is in `<name>.log.1`."""


class SavedPositions(msgspec.Struct, rename={"positions": "places"}):
    """The content of the file of positions."""

    cluster: str
    """To whose indices the positions belong: an empty store gets everything that is still here."""
    positions: list[FilePosition]


@dataclass
class LogBatch:
    """Lines to be sent, and how far their contents are read with them."""

    lines: list[LogLine]
    offsets: dict[str, int]
    """Content → offset."""


class LogTail:
    """Reads on in all logs of a folder. Nothing counts as read before `accept`."""

    def __init__(self, logs: Path, saved: Path, cluster: str, lost: Callable[[str, int], None]) -> None:
        """Go on where the last run was, if its lines went to the same store.

        `lost` is told the component and the offset from which a content can't be read any more.
        """
        self._logs = logs
        self._saved = saved
        self._cluster = cluster
        self._lost = lost
        self._positions = _load(saved, cluster)
        self._on_disk = b""
        self._turn = 0

    def read(self) -> LogBatch:
        """Read what is new, at most about `BATCH_BYTES`; an empty batch where nothing is.

        Raises:
            OSError: the positions can't be written; without them a line could be sent twice under two ids.
        """
        self.look()
        batch, size = LogBatch([], {}), 0
        # Chunk by chunk in turn, so that a loud file can't keep the others waiting; the next batch begins where this ends.
        left = deque(self._positions)
        left.rotate(-self._turn)
        while left and size < BATCH_BYTES:
            position = left.popleft()
            self._turn = (self._positions.index(position) + 1) % len(self._positions)
            with suppress(FileNotFoundError):
                if read := self._read_on(position, batch):
                    size += read
                    left.append(position)
        return batch

    def look(self) -> None:
        """See which logs were cut or put aside; called also while nothing can be sent, since a second cut loses lines.

        Raises:
            OSError: the positions can't be written.
        """
        self._find_contents()
        self._save()

    def accept(self, batch: LogBatch) -> None:
        """Count a batch as read, and write that down.

        Only once the store has it: a crash between the two sends the batch again, and its ids are there already.
        The other way round it would be lost.

        Raises:
            OSError: it can't be written; the lines will be sent again, under the same ids.
        """
        for position in self._positions:
            position.offset = batch.offsets.get(position.content, position.offset)
        self._save()

    def behind(self) -> int:
        """Bytes that wait to be read."""
        total = 0
        for position in self._positions:
            with suppress(FileNotFoundError):
                total += max(0, self._file(position).stat().st_size - position.offset)
        return total

    def _find_contents(self) -> None:
        current = {position.name: position for position in self._positions if not position.rest}
        names = {log.stem for log in self._logs.glob("*.log")}
        for name in sorted(names | current.keys()):
            log, position = self._logs / f"{name}.log", current.get(name)
            if position is not None and not _holds(log, position):
                self._follow_copy(position)
                position = None
            if position is None and log.exists():
                self._positions.append(FilePosition(name, uuid.uuid4().hex[:12], log.stat().st_ino))
        self._positions = [one for one in self._positions if not one.rest or self._has_rest(one)]
        for position in self._positions:
            with suppress(FileNotFoundError):
                _note_head(position, self._file(position))

    def _follow_copy(self, position: FilePosition) -> None:
        """The log holds something else now: go on in the copy, of which there is one."""
        for older in [one for one in self._positions if one.rest and one.name == position.name]:
            self._give_up(older)
        position.rest = True
        if not _holds(self._file(position), position):
            self._give_up(position)

    def _give_up(self, position: FilePosition) -> None:
        self._lost(position.name, position.offset)
        self._positions.remove(position)

    def _has_rest(self, position: FilePosition) -> bool:
        file = self._file(position)
        return _holds(file, position) and file.stat().st_size > position.offset

    def _file(self, position: FilePosition) -> Path:
        return self._logs / f"{position.name}.log{'.1' if position.rest else ''}"

    def _read_on(self, position: FilePosition, batch: LogBatch) -> int:
        begin = batch.offsets.get(position.content, position.offset)
        with self._file(position).open("rb") as file:
            file.seek(begin)
            chunk = file.read(CHUNK_BYTES)
        end = chunk.rfind(b"\n") + 1
        if not end and (len(chunk) == CHUNK_BYTES or position.rest):
            end = len(chunk)  # longer than any line of ours; or its writer died before the end of it
        if end:
            batch.lines += _lines(position, chunk[:end], begin)
            batch.offsets[position.content] = begin + end
        return end

    def _save(self) -> None:
        content = msgspec.json.encode(SavedPositions(self._cluster, self._positions))
        if content != self._on_disk:
            files.replace(self._saved, content)
            self._on_disk = content


def _load(saved: Path, cluster: str) -> list[FilePosition]:
    try:
        found = msgspec.json.decode(saved.read_bytes(), type=SavedPositions)
    except (OSError, msgspec.DecodeError):
        return []
    return found.positions if found.cluster == cluster else []


def _lines(position: FilePosition, block: bytes, offset: int) -> Iterator[LogLine]:
    for content in block.split(b"\n"):
        if content.strip():
            yield LogLine(f"{position.content}-{offset}", f"{position.name}.log", offset, content)
        offset += len(content) + 1


def _holds(file: Path, position: FilePosition) -> bool:
    """Tell whether a file holds the content of a position: all that was read of it is there, as it was.

    A copy has an inode of its own, so there the first bytes decide; without any they would fit every file.
    """
    try:
        stat = file.stat()
        known = stat.st_ino == position.inode or (position.rest and position.head_bytes > 0)
        return (
            known and stat.st_size >= position.offset and _digest(file, position.head_bytes) == position.head
        )
    except FileNotFoundError:
        return False


def _note_head(position: FilePosition, file: Path) -> None:
    if position.head_bytes < (size := min(HEAD_BYTES, file.stat().st_size)):
        position.head_bytes, position.head = size, _digest(file, size)


def _digest(file: Path, size: int) -> str:
    if not size:
        return ""
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(size)).hexdigest()
