"""Of memory, files and processes a run gets what the operator set, can give itself no more, and sets no others'."""

import resource
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

MIB = 1 << 20
TIERS = ("uid", "namespace", "landlock", "namespace as the service", "landlock as the service")
LIMITS = {
    "sandbox_memory_bytes": 12 * 1024 * MIB,
    "sandbox_open_files": 512,
    "sandbox_file_bytes": 64 * MIB,
    "sandbox_tmp_bytes": 16 * MIB,
}

ATTACK = """
import json, os, resource, signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the error will do
NAMES = ("AS", "NOFILE", "FSIZE", "CORE")
told = {name: list(resource.getrlimit(getattr(resource, "RLIMIT_" + name))) for name in NAMES}


def works(act):
    try:
        act()
        return True
    except (OSError, ValueError, MemoryError):
        return False


def write(path, size):
    try:
        with open(path, "wb", buffering=0) as file:
            left = size
            while left:
                left -= file.write(bytes(min(left, 1 << 20)))
    finally:
        os.unlink(path)  # Claude Code needs some room too


def open_more(number):
    opened = []
    try:
        for _ in range(number):
            opened.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def raise_own(name):
    limit = getattr(resource, "RLIMIT_" + name)
    resource.setrlimit(limit, (resource.getrlimit(limit)[1] + 1, resource.RLIM_INFINITY))


told["managed"] = [name for name, act in {
    "take all memory": lambda: bytearray(13 << 30),
    "write a larger file": lambda: write("large", (64 << 20) + 1),
    "fill its temporary files": lambda: write("/tmp/large", 17 << 20),
    "open more files": lambda: open_more(600),
    "raise a limit": lambda: raise_own("FSIZE"),
    "limit its parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (256, 256)),
}.items() if works(act)]
told["write as much as it may"] = works(lambda: write("large", 64 << 20))
print(json.dumps(told))
"""


@pytest.mark.parametrize("tier", TIERS)
async def test_limits_are_those_that_were_set_and_cannot_be_widened(attacker_in: Any, tier: str) -> None:
    name, _, shared = tier.partition(" ")
    async with attacker_in(name, shared=bool(shared), **LIMITS) as it:
        told = await it.python(ATTACK)
    hard = {name: limits[1] for name, limits in told.items() if name in {"AS", "NOFILE", "FSIZE", "CORE"}}
    assert hard == {
        "AS": LIMITS["sandbox_memory_bytes"],
        "NOFILE": min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        "FSIZE": LIMITS["sandbox_file_bytes"],
        "CORE": 0,
    }
    assert set(told["managed"]) <= ({"fill its temporary files"} if name == "uid" else set())
    assert told["write as much as it may"]
