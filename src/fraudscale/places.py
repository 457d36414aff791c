"""Files and folders that settings name: where relative paths begin, and what can't be one."""

import errno
import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

from fraudscale.errors import InputError

_MARK: Final = "src/fraudscale/config.py"
"""What only a checkout has."""


class NoPlace(InputError):
    """The working folder was removed; go to another one."""


def checkout() -> Path:
    """Find where `.env` lies and relative paths of settings begin: the checkout around the working folder.

    Elsewhere, as in a container, it is the working folder itself, which is always given as `.`.

    Raises:
        NoPlace: the working folder was removed.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise NoPlace from error
    around = (folder for folder in (here, *here.parents) if os.access(folder / _MARK, os.F_OK))
    found = next(around, here)
    return Path() if found == here else found


def _place(value: Path) -> Path:
    """Let a relative path mean the same in every folder of the checkout, and `~` the user's own folder."""
    if not str(value).isprintable():
        raise ValueError("must be one line of printable characters, since configuration files name it")
    try:
        placed = checkout() / value.expanduser()
    except RuntimeError as error:
        raise ValueError("nobody knows whose folder that is; write out its path") from error
    try:
        placed.stat()
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}:
            raise ValueError(f"nothing can be there ({error.strerror}); name another place") from error
    return placed


def _place_if_known(value: Path) -> Path:
    """As `_place`; a user without a folder of their own learns of it only from what needs this one."""
    try:
        value.expanduser()
    except RuntimeError:
        return value
    return _place(value)


def _folder(value: Path) -> Path:
    if os.access(value, os.F_OK) and not value.is_dir():
        raise ValueError("is a file; name a folder")
    return value


File = Annotated[Path, AfterValidator(_place)]
Folder = Annotated[Path, AfterValidator(_place), AfterValidator(_folder)]
CacheFolder = Annotated[Path, AfterValidator(_place_if_known), AfterValidator(_folder)]
