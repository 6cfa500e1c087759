"""Files that appear whole and stay after a power cut, or do not appear at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def fsync_directory(path: Path) -> None:
    """Makes the names in a directory durable: after a rename, a link, an unlink."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def whole_file(target: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the name `target` at the end, on disk for good if `durable`.

    After an error nothing is left, and what stood under the name before still stands.
    """
    fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:  # an interrupt too: no half-written file is left
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        fsync_directory(target.parent)
