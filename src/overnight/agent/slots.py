"""A user of its own for each run, if the service is root: one that no other run of this machine is at the time.

A user is held by a locked file of its number, in every directory that is given: the data directory's, so that
workers of one data directory in different containers do not share one, and one of the machine's, so that services
with different data directories do not. The kernel lets go of a lock when its holder dies. Then something of the
dead run may still be alive, so whoever takes a user ends all that belongs to it first: if that cannot be done,
nobody gets it.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.agent import processes
from overnight.agent.tasks import to_the_end
from overnight.ports import Owner

MOST = 1024
"""Users from the first on; a worker runs 256 at once at most."""

MACHINE_WIDE = Path("/run/overnight/users")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Slots:
    """`base` is the first user's number; 0 if runs are to be the service's own user. `directories`: the first one
    must be writable, the others are used where they are."""

    base: int
    directories: Sequence[Path]

    @property
    def owned(self) -> bool:
        """Whether runs can have users of their own: only root can give them."""
        return self.base > 0 and os.geteuid() == 0

    @contextlib.asynccontextmanager
    async def taken(self, prefer: Owner | None = None) -> AsyncIterator[Owner | None]:
        """The user `prefer` if it is one of ours and free, else the lowest free one; with no living process. Raises
        OSError."""
        if not self.owned:
            yield None
            return
        with contextlib.ExitStack() as held:
            yield await self._free(held, prefer)

    async def _free(self, held: contextlib.ExitStack, prefer: Owner | None) -> Owner:
        places = await asyncio.to_thread(self._made)
        for uid in self._in_turn(prefer):
            with contextlib.ExitStack() as attempt:
                paths = [place / str(uid) for place in places]
                # To its end: what a thread that nobody waits for has locked, nobody would let go of.
                if not await to_the_end(asyncio.to_thread(_lock, attempt, paths)):
                    continue
                if left := await processes.end(None, uid):
                    _log.critical("user %d is not used: it has processes that cannot be ended: %s", uid, left)
                    continue
                held.push(attempt.pop_all())
                return uid, uid
        raise OSError(f"none of the {MOST} users from {self.base} on is free for a run")

    def _in_turn(self, prefer: Owner | None) -> Iterator[int]:
        ours = range(self.base, self.base + MOST)
        if prefer is not None and prefer[0] in ours:
            yield prefer[0]
        yield from (uid for uid in ours if prefer is None or uid != prefer[0])

    def _made(self) -> list[Path]:
        first, *others = self.directories
        first.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = [first]
        for other in others:
            with contextlib.suppress(OSError):
                other.mkdir(mode=0o700, parents=True, exist_ok=True)
                if os.access(other, os.W_OK | os.X_OK):  # not so on a file system that is mounted read-only
                    made.append(other)
        return made

    def note(self, owner: Owner, mark: str) -> None:
        """Say which run has the user now."""
        (self.directories[0] / str(owner[0])).write_text(mark, encoding="ascii")

    def user_of(self, mark: str) -> int | None:
        """The user of a run that nobody has taken since. Its worker may be dead, or frozen and hold it still."""
        for path in self.directories[0].glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if path.read_text(encoding="ascii", errors="replace") == mark:
                    return int(path.name)
        return None


def _lock(held: contextlib.ExitStack, paths: Sequence[Path]) -> bool:
    """All of them, emptied, or none."""
    for path in paths:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(descriptor, 0)
    return True
