"""What the user of a run left that is no process: System V shared memory, semaphores and message queues, which the
kernel keeps until somebody removes them, and what it put into the directories that are open to everyone. It holds
memory, and the next run of that user could read it.

A program of its own too (standard library only), with a user and its group as arguments. It becomes that user and
removes all of it: root could not without CAP_SYS_ADMIN, which containers have not, and as that user it can hit
nothing that belongs to others.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OPEN_TO_ALL = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - they are looked at, and nothing is written there

_TABLES = Path("/proc/sysvipc")
_REMOVE = 0  # IPC_RMID

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    uid, gid = map(int, sys.argv[1:])
    # Before it is the user, who may not be able to read the libraries of this Python any more.
    segments, semaphores, queues = (list(objects(kind, uid)) for kind in ("shm", "sem", "msg"))
    places = {path.parent for path in entries(uid)}
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    for number in segments:
        _libc.shmctl(number, _REMOVE, None)
    for number in semaphores:
        _libc.semctl(number, 0, _REMOVE)
    for number in queues:
        _libc.msgctl(number, _REMOVE, None)
    for place in places:
        _empty(place, uid)


def _empty(place: Path, uid: int) -> None:
    """Not by shutil, which ends in a RecursionError some 1,000 levels down."""
    own = ("find", place, "-xdev", "-mindepth", "1", "-maxdepth", "1", "-uid", str(uid))
    for action in (("-type", "d", "-exec", "chmod", "-R", "u+rwX"), ("-exec", "rm", "-rf")):
        subprocess.run(  # noqa: S603 - constants
            (*own, *action, "--", "{}", "+"),
            env={"PATH": os.defpath},
            stderr=subprocess.DEVNULL,  # the names of files are the agent's words
            check=False,
        )


def left_by(uid: int) -> bool:
    """Blocking."""
    return any(_all_of(uid))


def _all_of(uid: int) -> Iterator[bool]:
    for kind in ("shm", "sem", "msg"):
        yield from (True for _ in objects(kind, uid))
    yield from (True for _ in entries(uid))


def objects(kind: str, uid: int) -> Iterator[int]:
    """The numbers of those of a kind (`shm`, `sem`, `msg`) that the user made, though it may have given them away,
    or that were given to it. None where the kernel has no such table."""
    try:
        names, *lines = (line.split() for line in (_TABLES / kind).read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return
    users = [names.index("uid"), names.index("cuid")]
    for fields in lines:
        if str(uid) in {fields[at] for at in users}:
            yield int(fields[1])


def entries(uid: int) -> Iterator[Path]:
    """What belongs to the user right inside a directory that is open to everyone."""
    for place in OPEN_TO_ALL:
        try:
            listing = os.scandir(place)
        except OSError:
            continue  # not there, or not open to us
        with listing:
            for entry in listing:
                if _user_of(entry) == uid:
                    yield Path(entry)


def _user_of(entry: "os.DirEntry[str]") -> int | None:
    try:
        return entry.stat(follow_symlinks=False).st_uid
    except OSError:
        return None  # gone meanwhile, or the mount of somebody else (FUSE lets not even root look)


if __name__ == "__main__":
    main()
