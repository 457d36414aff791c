"""How often a range was begun to be read, kept where whoever reads it next looks: with the group's committed offset.

A process that dies of what it reads tells nobody. So each reader notes that it begins, before it does; with the commit of
what it read, the note is gone.
"""

import secrets
import time
from typing import Final

import msgspec

FORGOTTEN_SECONDS: Final = 600.0
"""A beginning that long ago says nothing about the next: partitions change hands for good reasons too."""
_PREFIX: Final = "begun:"


class Beginnings(msgspec.Struct, frozen=True):
    """What the metadata of a commit say: how many readers in a row began here, the last one when, and who it was."""

    count: int
    at: float
    reader: str

    @classmethod
    def load(cls, metadata: str | None) -> "Beginnings":
        """Read metadata; none for those of anybody else."""
        text = metadata or ""
        try:
            return msgspec.json.decode(text.removeprefix(_PREFIX), type=cls)
        except msgspec.MsgspecError:
            return cls(0, 0.0, "")

    def dump(self) -> str:
        return _PREFIX + msgspec.json.encode(self).decode()


class Reader:
    """One reader: it counts as one however often it begins."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(4)

    def begin(self, metadata: str | None) -> Beginnings:
        """Say what to note now; the count includes this reader."""
        found, now = Beginnings.load(metadata), time.time()
        if found.reader == self._name:
            return found
        # a clock that was set back makes nothing young
        recent = 0 <= now - found.at < FORGOTTEN_SECONDS
        return Beginnings(found.count + 1 if recent else 1, now, self._name)
