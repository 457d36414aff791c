"""A value of a manifest that knows where it stands, and the error that says so."""

import reprlib
from collections.abc import Callable, Iterator
from typing import Final, Self, TypeVar

from fraudscale.errors import InputError

T = TypeVar("T")

_INT32_MAX: Final = 2**31 - 1


class ManifestError(InputError):
    """A manifest can't be used: `file`, `path` (of the field, or the place in the text) and `reason` say why."""

    def __init__(self, file: str, path: str, reason: str) -> None:
        super().__init__(f"{file}: {path}: {reason}" if path else f"{file}: {reason}")
        self.file = file
        self.path = path
        self.reason = reason


class ManifestNode:
    """A value of the document that knows where it stands."""

    def __init__(self, file: str, path: str, value: object) -> None:
        self.file, self.path, self.value = file, path, value

    def error(self, reason: str) -> ManifestError:
        return ManifestError(self.file, self.path, reason)

    def mapping(self) -> dict[str, Self]:
        """Its fields; null is the same as absent, as in the API server."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping, not {_shown(self.value)}")
        prefix = f"{self.path}." if self.path else ""
        return {
            str(name): type(self)(self.file, f"{prefix}{name}", value)
            for name, value in self.value.items()
            if value is not None
        }

    def fields(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Self]:
        fields = self.mapping()
        for name, node in fields.items():
            if name not in required and name not in optional:
                raise node.error(f"unknown field; there are {', '.join((*required, *optional))}")
        for name in required:
            if name not in fields:
                raise self.error(f"{name} is required")
        return fields

    def items(self) -> Iterator[Self]:
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, not {_shown(self.value)}")
        for index, value in enumerate(self.value):
            yield type(self)(self.file, f"{self.path}[{index}]", value)

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.error(f"must be a text that is not empty, not {_shown(self.value)}")
        return self.value

    def choice(self, choices: tuple[str, ...]) -> str:
        if self.value not in choices:
            raise self.error(f"must be {' or '.join(choices)}, not {_shown(self.value)}")
        return str(self.value)

    def integer(self, low: int, high: int = _INT32_MAX) -> int:
        value = self.value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(f"must be an integer from {low} to {high}, not {_shown(value)}")
        return value

    def quantity(self, read: Callable[[str | float], T]) -> T:
        value = self.value
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise self.error(f"must be a quantity, not {_shown(value)}")
        try:
            return read(value)
        except ValueError as error:
            raise self.error(str(error)) from error


def _shown(value: object) -> str:
    """Write the beginning of a value, however much there is: aliases of YAML make ten to the power of ten out of ten lines."""
    if isinstance(value, str):
        return f"{value!r:.60}"
    try:
        return f"{reprlib.repr(value):.60}"
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "an integer without end"
