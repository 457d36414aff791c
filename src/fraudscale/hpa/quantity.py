"""Kubernetes quantities (`150m`, `512Mi`, `1e3`) as integers in milli-units, rounded as the API machinery rounds."""

import math
import re
from fractions import Fraction
from typing import Final

_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?\d{1,2}))?",
    re.ASCII,
)
_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate(["k", "M", "G", "T", "P", "E"], 1)},
    **{f"{suffix}i": Fraction(1024**power) for power, suffix in enumerate("KMGTPE", 1)},
}
_INT64_MAX: Final = 2**63 - 1


def milli(text: str | float) -> int:
    """Read a quantity as milli-units, rounded up, at most the largest int64.

    Raises:
        ValueError: not a quantity; the message says what one is.
    """
    return min(math.ceil(_exact(text) * 1000), _INT64_MAX)


def approximate(text: str | float) -> float:
    """Read a quantity as the double that Kubernetes makes of it.

    The object has been through the API server, which keeps the shortest integer with a decimal suffix (0.3 → 300m);
    the controller multiplies that integer by the double of its power, so the last bit may differ from float(text).

    Raises:
        ValueError: as `milli`.
    """
    exact = _exact(text)
    for power in (0, 3, 6):
        if (exact * 10**power).denominator == 1:
            return float(exact * 10**power) * float(f"1e-{power}")
    return math.ceil(exact * 10**9) * 1e-9


def _exact(text: str | float) -> Fraction:
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(
            f"{text!r} is not a quantity: a number with one of n u m k M G T P E Ki Mi Gi Ti Pi Ei"
        )
    number = Fraction(match["number"])
    if match["exponent"]:
        return number * Fraction(10) ** int(match["exponent"])
    return number * _SUFFIXES.get(match["suffix"], Fraction(1))
