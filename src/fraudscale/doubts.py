"""Settings that are probably meant otherwise: they stop nothing, and whoever begins says them once."""

import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Final, NamedTuple

from fraudscale.config import SETTINGS, LocalSettings, TracingSettings, names_given
from fraudscale.errors import InputError

SUPERVISED: Final = "FRAUDSCALE_RUNS_FOR"
"""In the environment of whatever `up` runs: its home folder."""
OURS: Final = "FRAUDSCALE_"
LIKE_ONE: Final = 0.87
"""Similarity, as `difflib` counts, of a name that is probably a setting's, misspelt: one slip in nine letters."""
LIKE_AN_OTEL: Final = 0.96
"""OpenTelemetry has many names beside those that we read."""
LIKE_ONE_OF_OURS: Final = 0.5
"""Whatever begins with our name is meant for us."""
_OF_A_SERVICE: Final = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")
"""What Kubernetes sets in each container for each Service of the namespace."""


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
        return [*misspelt(names_given()), *_renamed(), *_unknown()]
    except (InputError, OSError, UnicodeDecodeError):  # whoever reads a setting says so
        return []


def misspelt(names: Iterable[str]) -> Iterator[Doubt]:
    """Find names that are no setting's and much like one's, or begin with our name."""
    known = [name.upper() for group in SETTINGS for name in group.model_fields]
    for name in sorted(names):
        capitals = name.upper()
        if capitals in {*known, SUPERVISED} or _OF_A_SERVICE.search(capitals):
            continue
        ours, otel = capitals.startswith(OURS), capitals.startswith("OTEL_")
        like = LIKE_ONE_OF_OURS if ours else LIKE_AN_OTEL if otel else LIKE_ONE
        if near := get_close_matches(capitals, known, n=1, cutoff=like):
            yield Doubt(name, f"is no setting; is {near[0]} meant?")
        elif ours:
            yield Doubt(name, "is no setting; docs/reference/settings.md lists them")


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
