"""A user of its own for each run, if the service is root: one that no other run of this machine is at the time.

A user is held by a locked file of its number, in every directory that is given: the data directory's, so that
workers of one data directory in different containers do not share one, and one of the machine's, so that services
with different data directories do not. The kernel lets go of a lock when its holder dies. Then something of the
dead run may still be alive, so whoever takes a user ends all that belongs to it first: if that cannot be done,
nobody gets it. And it may have left memory and files that are no process: those go too.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.agent import leftovers, processes
from overnight.agent.tasks import to_the_end
from overnight.ports import Owner

MOST = 1024
"""Users from the first on; a worker runs 256 at once at most."""

CLEAR_SECONDS = 60.0
"""For removing what a user left; more than seconds only if those are very many files."""

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
                # To its end too: what would remove files yet, once the user is another's, must not be left.
                await to_the_end(clear((uid, uid)))
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


async def clear(owner: Owner) -> None:
    """Remove what is left of this user when all of its processes are dead. Says in the log what it cannot remove."""
    uid, gid = owner
    if not await asyncio.to_thread(leftovers.left_by, uid):
        return
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", leftovers.__file__, str(uid), str(gid)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={},
        cwd="/",  # `find` runs nothing from a directory that the user may not enter, such as /root
    )
    complaint = b""
    try:
        _, complaint = await asyncio.wait_for(program.communicate(), CLEAR_SECONDS)
    except TimeoutError:
        program.kill()
        await program.wait()
        await processes.end(None, uid)  # what it had started to remove files
    if await asyncio.to_thread(leftovers.left_by, uid):
        _log.critical(
            "user %d left what cannot be removed, and its next run can read: %s", uid, complaint.decode()
        )


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
