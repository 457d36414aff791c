"""Follows the log files of a folder: whole lines, each with an id that is the same however often it is read.

A log is cut in place when it gets long, its content copied to `<name>.log.1`, and put aside under that name by the next
`up` (`local/supervisor/machine.py`). So a file is known by its inode and its first bytes; what was not read before the cut is read
from the copy. Each content gets an id of its own, written down before its first line is sent.
"""

import hashlib
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from fraudscale.central_logs.documents import Line

HEAD_BYTES: Final = 1024
"""So many first bytes tell a content from the one that was there before; ours begin with a time."""
CHUNK_BYTES: Final = 256 * 1024
"""Most that is read of a file at once, and the longest line: what is longer is cut into pieces."""
BATCH_BYTES: Final = 1024 * 1024


class Place(msgspec.Struct):
    """How far a content has been read."""

    name: str
    """Of the part: the file's without its ending."""
    content: str
    """Id of the content; with the offset it makes a line's."""
    inode: int
    offset: int = 0
    head_bytes: int = 0
    head: str = ""
    """Digest of the first `head_bytes` bytes."""
    rest: bool = False
    """The content was cut or put aside: what is left of it is in `<name>.log.1`."""


class Kept(msgspec.Struct):
    """The content of the file of positions."""

    cluster: str
    """To whose indices the positions belong: an empty store gets everything that is still here."""
    places: list[Place]


@dataclass
class Batch:
    """Lines to be sent, and how far their contents are read with them."""

    lines: list[Line]
    offsets: dict[str, int]
    """Content → offset."""


class Follower:
    """Reads on in all logs of a folder. Nothing counts as read before `accept`."""

    def __init__(
        self,
        logs: Path,
        positions: Path,
        cluster: str,
        lost: Callable[[str, int], None],
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex[:12],
    ) -> None:
        """Go on where the last run was, if its lines went to the same store.

        Args:
            logs: folder of `<part>.log`.
            positions: file that keeps them.
            cluster: id of the store.
            lost: told the part and the offset from which a content can't be read any more.
            new_id: of a content.
        """
        self._logs = logs
        self._positions = positions
        self._cluster = cluster
        self._lost = lost
        self._new_id = new_id
        self._places = [] if (kept := _read(positions)) is None or kept.cluster != cluster else kept.places
        self._turn = 0

    def read(self) -> Batch:
        """Read what is new, at most about `BATCH_BYTES`; an empty batch where nothing is.

        Raises:
            OSError: the positions can't be written; without them a line could be sent twice under two ids.
        """
        self.look()
        batch, size = Batch([], {}), 0
        # Chunk by chunk in turn, so that a loud file can't keep the others waiting; the next batch begins where this ends.
        left = deque(self._places)
        left.rotate(-self._turn)
        while left and size < BATCH_BYTES:
            place = left.popleft()
            self._turn = (self._places.index(place) + 1) % len(self._places)
            with suppress(FileNotFoundError):
                if read := self._read_on(place, batch):
                    size += read
                    left.append(place)
        return batch

    def look(self) -> None:
        """See which logs were cut or put aside; called also while nothing can be sent, since a second cut loses lines.

        Raises:
            OSError: the positions can't be written.
        """
        before = msgspec.json.encode(self._places)
        self._find_contents()
        if msgspec.json.encode(self._places) != before:
            self._save()

    def accept(self, batch: Batch) -> None:
        """Count a batch as read, and write that down.

        Raises:
            OSError: it can't be written; the lines will be sent again, under the same ids.
        """
        for place in self._places:
            place.offset = batch.offsets.get(place.content, place.offset)
        self._save()

    def behind(self) -> int:
        """Bytes that wait to be read."""
        total = 0
        for place in self._places:
            with suppress(FileNotFoundError):
                total += max(0, self._file(place).stat().st_size - place.offset)
        return total

    # Which contents there are.

    def _find_contents(self) -> None:
        current = {place.name: place for place in self._places if not place.rest}
        names = {log.stem for log in self._logs.glob("*.log")}
        for name in sorted(names | current.keys()):
            log, place = self._logs / f"{name}.log", current.get(name)
            if place is not None and not _is(log, place):
                self._put_aside(place)
                place = None
            if place is None and log.exists():
                self._places.append(Place(name, self._new_id(), log.stat().st_ino))
        self._places = [place for place in self._places if not place.rest or self._has_rest(place)]
        for place in self._places:
            with suppress(FileNotFoundError):
                _note_head(place, self._file(place))

    def _put_aside(self, place: Place) -> None:
        """Its log holds something else now: go on in the copy, of which there is one."""
        for older in [p for p in self._places if p.rest and p.name == place.name]:
            self._lost(older.name, older.offset)
            self._places.remove(older)
        place.rest = True
        if not _is(self._file(place), place, moved=True):
            self._lost(place.name, place.offset)
            self._places.remove(place)

    def _has_rest(self, place: Place) -> bool:
        file = self._file(place)
        return _is(file, place, moved=True) and file.stat().st_size > place.offset

    def _file(self, place: Place) -> Path:
        return self._logs / f"{place.name}.log{'.1' if place.rest else ''}"

    # What they say.

    def _read_on(self, place: Place, batch: Batch) -> int:
        begin = batch.offsets.get(place.content, place.offset)
        with self._file(place).open("rb") as file:
            file.seek(begin)
            chunk = file.read(CHUNK_BYTES)
        end = chunk.rfind(b"\n") + 1
        if not end and (len(chunk) == CHUNK_BYTES or place.rest):
            end = len(chunk)  # longer than any line of ours; or its writer died before the end of it
        if end:
            batch.lines += _lines(place, chunk[:end], begin)
            batch.offsets[place.content] = begin + end
        return end

    def _save(self) -> None:
        """Write the positions so that a crash, of the machine too, leaves the old ones or the new ones."""
        self._positions.parent.mkdir(parents=True, exist_ok=True)
        draft = self._positions.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(Kept(self._cluster, self._places)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._positions)


def _read(positions: Path) -> Kept | None:
    try:
        return msgspec.json.decode(positions.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError):
        return None


def _lines(place: Place, block: bytes, offset: int) -> Iterator[Line]:
    for content in block.split(b"\n"):
        if content.strip():
            yield Line(f"{place.content}-{offset}", f"{place.name}.log", offset, content)
        offset += len(content) + 1


def _is(file: Path, place: Place, *, moved: bool = False) -> bool:
    """Tell whether a file holds the content of a place: all that was read of it is there, as it was."""
    try:
        stat = file.stat()
        if stat.st_size < place.offset or (stat.st_ino != place.inode and not (moved and place.head_bytes)):
            return False
        with file.open("rb") as opened:
            return _digest(opened, place.head_bytes) == place.head
    except FileNotFoundError:
        return False


def _note_head(place: Place, file: Path) -> None:
    if place.head_bytes < (size := min(HEAD_BYTES, file.stat().st_size)):
        with file.open("rb") as opened:
            place.head_bytes, place.head = size, _digest(opened, size)


def _digest(file: BinaryIO, size: int) -> str:
    return hashlib.sha256(file.read(size)).hexdigest() if size else ""
