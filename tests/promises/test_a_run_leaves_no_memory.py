"""What a run has in memory without a process is gone with it, and no other run can come to it."""

import ctypes
import os
import secrets
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

# A segment with something in it, semaphores, and a queue that is given away to root; files in places that all may
# write to; a POSIX queue. What it managed is printed.
ATTACK = """
import ctypes, json, os

KEY, CREATE = {key}, 0o1600
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
managed = []

segment = libc.shmget(KEY, 1 << 20, CREATE)
if segment >= 0:
    ctypes.memset(libc.shmat(segment, None, 0), 7, 1 << 20)
    managed.append("shm")
if libc.semget(KEY, 3, CREATE) >= 0:
    managed.append("sem")
queue = libc.msgget(KEY, CREATE)
if queue >= 0:
    status = ctypes.create_string_buffer(256)
    libc.msgctl(queue, 2, status)
    ctypes.memset(ctypes.addressof(status) + 4, 0, 8)  # msg_perm.uid and gid
    libc.msgctl(queue, 1, status)  # refused where root is not known
    managed.append("msg")
for place in ("/dev/shm", "/tmp", "/var/tmp"):
    try:
        os.makedirs(place + "/{key}/closed/deep")
        open(place + "/{key}/closed/deep/file", "w").close()
        os.chmod(place + "/{key}/closed", 0)
        managed.append(place)
    except OSError:
        pass
if libc.mq_open(b"/{key}", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0:
    managed.append("queue by name")
print(json.dumps(managed))
"""
SYSTEM_V, PLACES = {"shm", "sem", "msg"}, {"/dev/shm", "/tmp", "/var/tmp"}


def left(key: int) -> list[str]:
    """On the host, by another way than the code under test has: the key and the name."""
    found = []
    for kind in SYSTEM_V:
        lines = Path("/proc/sysvipc", kind).read_text().splitlines()
        found += [f"{kind} {line}" for line in lines if line.split()[0] == str(key)]
    found += [place for place in PLACES if os.path.lexists(f"{place}/{key}")]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mq_open(f"/{key}".encode(), os.O_RDONLY) >= 0:
        libc.mq_unlink(f"/{key}".encode())
        found.append("queue by name")
    return found


async def test_nothing_is_left_in_memory(resident: Any) -> None:
    key = secrets.randbelow(2**30) + 1
    managed = set(await resident.python(ATTACK.format(key=key)))
    assert left(key) == []
    own = resident.workspace.owner is not None
    match resident.agent.isolation:
        case "namespace":  # All of it is the sandbox's own.
            assert managed == SYSTEM_V | PLACES | {"queue by name"}
        case "landlock":
            assert managed == (SYSTEM_V if own else set())
        case "uid":
            assert managed == SYSTEM_V | PLACES


@pytest.mark.parametrize("tier", ["landlock", "namespace"])
async def test_what_others_of_the_same_user_have_in_memory_is_out_of_reach(
    attacker_in: Any, tier: str
) -> None:
    """A run without a user of its own is the service's, whose other programs are too."""
    libc, key = ctypes.CDLL(None, use_errno=True), secrets.randbelow(2**30) + 1
    segment = libc.shmget(key, 4096, 0o1666)
    assert segment >= 0
    try:
        async with attacker_in(tier, shared=True) as it:
            reached = await it.python(
                "import ctypes, json\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
                f"reached = [libc.shmget({key}, 1, 0) >= 0, libc.shmat({segment}, None, 0) != 2**64 - 1]\n"
                "print(json.dumps(reached))"
            )
        assert reached == [False, False]
    finally:
        libc.shmctl(segment, 0, None)
