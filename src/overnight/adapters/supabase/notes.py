"""Where an upload is noted, so that another process goes on with it after this one was killed."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

LIFE_SECONDS = 24 * 3600.0
"""How long the server keeps an unfinished upload (facts: supabase 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`sha256` is of the first `covered` bytes, which are all that the server can have."""

    upload: str
    incoming: str
    covered: int
    sha256: str


class Notepad:
    """The note of one object's upload, ours alone while it is open. Without a descriptor nothing is kept."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def read(self) -> Note | None:
        """What a killed process wrote only in part is no note."""
        if self._descriptor is None:
            return None
        try:
            return Note(**json.loads(os.pread(self._descriptor, 1 << 16, 0)))
        except (ValueError, TypeError):
            return None

    def write(self, note: Note) -> None:
        if self._descriptor is not None:
            line = json.dumps(asdict(note)).encode()
            os.ftruncate(self._descriptor, os.pwrite(self._descriptor, line, 0))

    def clear(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)


@contextmanager
def notepad(directory: Path, key: str) -> Iterator[Notepad]:
    """If another upload of the object is under way, one that keeps nothing: each then goes its own way."""
    path = directory / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield Notepad(None)
        return
    try:
        yield Notepad(descriptor)
    finally:
        if os.fstat(descriptor).st_size == 0:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def prepare(directory: Path, now: float) -> None:
    """Notes that the server has nothing for any more are dropped."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in directory.glob("*.json"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < now - LIFE_SECONDS:
                path.unlink()
