"""CSV as people bring it: one reader for all files of others, which names what is nearly CSV."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Final

from fraudscale.errors import InputError

_UTF_16: Final = "it is UTF-16; save it as UTF-8"
_SIGNATURES: Final = {
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
    b"PK\x03\x04": "it is a ZIP archive, as an Excel file is; export it as CSV",
    b"\x1f\x8b": "it is compressed with gzip; unpack it",
    b"PAR1": "it is Parquet; let its name end in .parquet",
}
"""What files of other kinds begin with."""
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}
_FIRST_LINE: Final = re.compile(r"\s*([^\r\n]*)")
_SEPARATED: Final = re.compile(r"[+-]?[\d.]*[,' \u00a0\u202f][\d.,' \u00a0\u202f]*\d")
"""Digits with what stands between them in one country or another."""


class CsvError(InputError):
    """A file is not CSV: `place` in it, which may be empty, and `reason`."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.place = place
        self.reason = reason


def read_csv(content: bytes) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read the names of the columns, and then row by row its line and as many values.

    UTF-8 with or without a byte order mark, commas, and quotes where a value holds one of both. Rows without any value
    are left out, as is what surrounds a name.

    Raises:
        CsvError: it is something else; also while rows are read.
    """
    rows = _rows(_decode(content))
    _, names = next(rows, (1, []))
    if not names:
        raise CsvError("", "is empty")
    return [name.strip() for name in names], _whole(rows, len(names))


def hint(text: str) -> str:
    """Say what to change in a text that should be a number; empty where only its writer knows."""
    if _SEPARATED.fullmatch(text.strip()):
        return "; numbers have a decimal point instead of a comma, and nothing between thousands"
    return ""


def _decode(content: bytes) -> str:
    for begin, reason in _SIGNATURES.items():
        if content.startswith(begin):
            raise CsvError("", reason)
    if b"\0" in content:
        raise CsvError("", f"holds a NUL at byte {content.index(0)}; if it is UTF-16, save it as UTF-8")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise CsvError("", f"not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from error
    return text.removeprefix("\ufeff")


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    first = _FIRST_LINE.match(text)
    header = first[1] if first else ""
    for separator, name in _SEPARATORS.items():
        if separator in header and "," not in header:
            raise CsvError("line 1", f"columns are separated by {name}; separate them by commas")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if any(value and not value.isspace() for value in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise CsvError(f"line {reader.line_num}", f"not CSV: {error}") from error


def _whole(rows: Iterator[tuple[int, list[str]]], columns: int) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != columns:
            more = "; a value that holds a comma needs quotes" if len(row) > columns else ""
            raise CsvError(f"line {line}", f"{len(row)} values in {columns} columns{more}")
        yield line, row
