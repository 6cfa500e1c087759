"""When a run is over, every process that it started is gone, however it tried to hide."""

import fcntl
import os
import secrets
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

# Each in a session of its own, with an empty environment, and left by its parent.
BOMB = """
import os
for _ in range(50):
    if os.fork() == 0:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        os.execve("/bin/sleep", ["{name}", "600"], {{}})
"""

# Each process lives for as long as a fork takes: whoever looks for it finds that it has just gone. So that one is
# alive is seen from a lock that all of them hold. For 30 s, should they not be killed.
STORM = """
import fcntl, os, time
fcntl.flock(os.open("held", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
end = time.monotonic() + 30
for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        os.dup2(1, 2)
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
print("it blows")
"""


def alive(name: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if name.encode() in line and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


async def test_a_daemon_without_parent_and_environment_is_gone(resident: Any) -> None:
    name = secrets.token_hex(8)
    (resident.files / "bomb.py").write_text(BOMB.format(name=name))
    count = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '^{name}$'"
    seen = await resident.bash(f"python3 bomb.py; until [ $({count}) = 50 ]; do :; done; echo all run")
    assert "all run" in seen
    assert alive(name) == []


async def test_a_script_in_the_background_is_gone(resident: Any) -> None:
    name = str(secrets.randbelow(10**12))
    daemon = f"sleep 600.{name}"
    begins = f"(cd /; setsid env -i {daemon} >/dev/null 2>&1 </dev/null &)"
    seen = await resident.bash(f"{begins}; until pgrep -fx '{daemon}'; do :; done; echo it runs")
    assert "it runs" in seen
    assert alive(name) == []


async def test_what_forks_faster_than_one_can_look_is_gone(resident: Any) -> None:
    (resident.files / "storm.py").write_text(STORM)
    assert "it blows" in await resident.bash("python3 storm.py")
    with (resident.files / "held").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if one of them has it still
