"""Whose turn it is to write, between the processes that share a file (facts: queue 3.3).

SQLite's own busy handler starves processes for seconds. A lock file around each transaction is fair as long as
the one that lets go stays away for a moment.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE_SECONDS = 0.0002
"""How long to stay away: the measured time that lets a waiter in."""


class Turn:
    """An exclusive lock on a file of its own. Made after any fork: a child would share the lock."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._released_at = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Blocks. Used by one thread at a time."""
        self._give_way()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._released_at = time.monotonic()

    def _give_way(self) -> None:
        pause = self._released_at + PAUSE_SECONDS - time.monotonic()
        if pause > 0:
            time.sleep(pause)

    def close(self) -> None:
        os.close(self._file)
