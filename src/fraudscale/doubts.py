"""Settings that are probably meant otherwise: they stop nothing, and whoever begins says them once."""

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from fraudscale.config import LocalSettings, TracingSettings
from fraudscale.errors import InputError

SUPERVISED: Final = "FRAUDSCALE_RUNS_FOR"
"""In the environment of whatever `up` runs: its home folder."""


class Doubt(NamedTuple):
    """A variable, and what is doubtful."""

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def doubts() -> list[Doubt]:
    """Look at the environment and the files of settings; empty for what `up` runs, which has said it already."""
    if SUPERVISED in os.environ:
        return []
    try:
        return [*_renamed(), *_unknown()]
    except (InputError, OSError, UnicodeDecodeError):  # whoever reads a setting says so
        return []


def _renamed() -> Iterator[Doubt]:
    """Find names of before; under such names others have variables too, which may mean anything."""
    for name, value in LocalSettings.read_todays_names().renamed().items():
        today = name.upper()
        became = "still holds" if LocalSettings.takes(name, value) else "is none of its values, and ignored"
        yield Doubt(today.removeprefix("FRAUDSCALE_"), f"is called {today} now; {value!r} {became}")


def _unknown() -> Iterator[Doubt]:
    """Find values of OpenTelemetry's variables that we don't know: they are set for all that run beside each other."""
    for name, reason in TracingSettings.unknown().items():
        yield Doubt(name.upper(), f"{reason.partition('=')[2]}; ignored")
