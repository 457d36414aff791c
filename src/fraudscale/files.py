"""Files that are replaced as a whole, and whether one can be written."""

import os
import secrets
import tempfile
from pathlib import Path


def replace(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file in one step: a reader sees the old content or the new one, whole, after a power failure too.

    Args:
        path: its folder is made where it is missing.
        content: all of it.
        mode: permissions of the file, less the umask; 0o600 for secrets.

    Raises:
        OSError: it can't be written; the old content is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename across file systems is none; by a name of its own, since writers may race.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path) -> str:
    """Find out why a file can't be written before the work is done that fills it; nothing is left behind.

    Args:
        path: of the file, in a folder that is there.

    Returns:
        The system's reason; empty if it can be.
    """
    try:
        if path.exists():
            path.open("ab").close()
        else:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        return error.strerror or str(error)
    return ""
