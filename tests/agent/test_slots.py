"""A user is one run's at a time, on the whole machine, and nobody's while something of it is alive."""

import asyncio
import contextlib
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.waiting import until

from overnight.agent import processes
from overnight.agent.slots import MOST, Slots, clear

BASE = 43_000
"""Not that of services, which other tests may have running."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give runs users of their own")


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(BASE, (tmp_path / "data" / "slots", tmp_path / "machine"))


async def as_user(uid: int, script: str, *, mark: str | None = None) -> asyncio.subprocess.Process:
    """Returns when the script has said `ready`."""
    environment = {"PATH": os.defpath} | ({processes.MARK: mark} if mark else {})
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        user=uid,
        group=uid,
        extra_groups=[],
        start_new_session=True,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


def state_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]


@pytest.fixture(autouse=True)
async def clean() -> AsyncIterator[None]:
    yield
    for uid in (BASE, BASE + 1) if os.geteuid() == 0 else ():
        await processes.end(None, uid)


@needs_root
async def test_runs_at_once_have_different_users(slots: Slots) -> None:
    async with slots.taken() as first, slots.taken() as second:
        assert (first, second) == ((BASE, BASE), (BASE + 1, BASE + 1))
    async with slots.taken() as again:
        assert again == (BASE, BASE)


@needs_root
@pytest.mark.parametrize("shared", ["data/slots", "machine"])
async def test_other_workers_keep_off(slots: Slots, tmp_path: Path, shared: str) -> None:
    """Of the same data directory, or on the same machine."""
    other = Slots(BASE, [tmp_path / place for place in ("other", shared)])
    async with slots.taken() as ours, other.taken() as theirs:
        assert ours != theirs


TAKE = """
import asyncio, sys
from pathlib import Path
from overnight.agent.slots import Slots

async def take():
    async with Slots(int(sys.argv[1]), [Path(place) for place in sys.argv[2:]]).taken() as owner:
        print(owner)

asyncio.run(take())
"""
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@needs_root
async def test_a_place_of_the_machine_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    """As in a container with a read-only root, or a unit of systemd that protects the system."""
    machine = tmp_path / "machine"
    machine.mkdir()
    process = await asyncio.create_subprocess_exec(
        *("/usr/bin/env", "unshare", "--mount", "/bin/sh", "-c", READ_ONLY, str(machine)),
        *(sys.executable, "-c", TAKE, str(BASE), str(tmp_path / "data" / "slots"), str(machine)),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert said.decode().strip() == str((BASE, BASE))
    assert (tmp_path / "data" / "slots" / str(BASE)).is_file()
    assert list(machine.iterdir()) == []


@needs_root
async def test_who_is_cancelled_while_it_takes_a_user_holds_none(tmp_path: Path) -> None:
    opening, go_on = threading.Event(), threading.Event()

    class Slow(type(tmp_path)):  # type: ignore[misc]  # its class depends on the system
        """A place on a disk that takes its time to open the file of a user."""

        def __fspath__(self) -> str:
            if self.name == str(BASE):
                opening.set()
                assert go_on.wait(20)
            return str(self)

    (tmp_path / "machine").mkdir()
    slots = Slots(BASE, (tmp_path / "data", Slow(tmp_path / "machine")))
    taking = asyncio.create_task(contextlib.AsyncExitStack().enter_async_context(slots.taken()))
    await asyncio.to_thread(opening.wait, 20)
    taking.cancel()
    await asyncio.sleep(0)  # it has heard of it
    go_on.set()
    await asyncio.wait({taking})
    assert taking.cancelled()
    async with slots.taken() as owner:
        assert owner == (BASE, BASE)


@needs_root
async def test_the_user_that_is_preferred_is_taken_if_it_is_ours_and_free(slots: Slots) -> None:
    second = (BASE + 1, BASE + 1)
    async with slots.taken(second) as preferred, slots.taken(second) as other:
        assert (preferred, other) == (second, (BASE, BASE))
    for stranger in ((0, 0), (BASE - 1, BASE - 1), (BASE + MOST, BASE + MOST)):
        async with slots.taken(stranger) as owner:
            assert owner == (BASE, BASE)


@needs_root
async def test_what_the_last_run_left_is_dead_before_the_next_has_its_user(slots: Slots) -> None:
    async with slots.taken() as owner:
        assert owner is not None
        left = await as_user(owner[0], "echo ready; exec tail -f /dev/null")
    async with slots.taken() as again:
        assert again == owner
        assert processes.find(None, BASE) == []
    assert await left.wait() == -9


LEAVE = """
import ctypes, os, sys
libc, name = ctypes.CDLL(None), sys.argv[1]
assert min(libc.shmget(int(name), 4096, 0o1600), libc.semget(int(name), 1, 0o1600), libc.msgget(int(name), 0o1600)) >= 0
os.makedirs(f"/dev/shm/{name}/closed/deep")
open(f"/dev/shm/{name}/closed/deep/file", "w").close()
os.chmod(f"/dev/shm/{name}/closed", 0)
print("ready", flush=True)
"""


def left(name: str) -> list[str]:
    """System V objects of this key, and files of this name."""
    tables = (Path("/proc/sysvipc", kind).read_text().splitlines() for kind in ("shm", "sem", "msg"))
    objects = [line for table in tables for line in table if line.split()[0] == name]
    return objects + [str(path) for path in (Path("/dev/shm", name),) if os.path.lexists(path)]


@needs_root
@pytest.mark.parametrize("rights", ["-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid", "+all"])
async def test_memory_that_a_dead_worker_s_run_left_is_gone_before_the_next_has_its_user(
    tmp_path: Path, rights: str
) -> None:
    """Also if root may do no more than in a container."""
    name = str(secrets.randbelow(2**30) + 1)
    leaving = await as_user(BASE, f"exec /usr/bin/env python3 -c '{LEAVE}' {name}")
    await leaving.wait()
    assert len(left(name)) == 4
    worker = await asyncio.create_subprocess_exec(
        *("/usr/bin/env", "setpriv", f"--bounding-set={rights}", sys.executable, "-c", TAKE),
        *(str(BASE), str(tmp_path / "data" / "slots")),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await worker.communicate()
    assert said.decode().strip() == str((BASE, BASE))
    assert left(name) == []


@needs_root
async def test_what_others_have_in_memory_stays(slots: Slots) -> None:
    name = str(secrets.randbelow(2**30) + 1)
    others = await as_user(BASE + 1, f"exec /usr/bin/env python3 -c '{LEAVE}' {name}")
    await others.wait()
    async with slots.taken():
        assert len(left(name)) == 4
    await clear((BASE + 1, BASE + 1))
    assert left(name) == []


@needs_root
async def test_the_user_of_a_run_is_known_until_somebody_else_has_it(slots: Slots) -> None:
    async with slots.taken() as owner:
        assert owner is not None
        slots.note(owner, "mark-of-the-run-01")
        assert slots.user_of("mark-of-the-run-01") == BASE
    assert slots.user_of("mark-of-the-run-01") == BASE, "its worker died: what it left is still to be ended"
    async with slots.taken():
        assert slots.user_of("mark-of-the-run-01") is None


@needs_root
async def test_a_process_is_found_by_its_user_however_it_hides(slots: Slots) -> None:
    hidden = await as_user(BASE, "setsid env -i sh -c 'echo ready; exec tail -f /dev/null' & wait")
    others = await as_user(BASE + 1, "echo ready; exec tail -f /dev/null")
    assert len(processes.find(None, BASE)) == 2
    assert await processes.end(None, BASE) == []
    assert await hidden.wait() in {-9, 0, 137}
    assert others.returncode is None


@needs_root
async def test_a_process_whose_first_thread_has_ended_is_not_taken_for_dead() -> None:
    """It looks like a zombie, and goes on by its other threads."""
    program = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
        'print("ready", flush=True); ctypes.CDLL(None).pthread_exit(None)'
    )
    process = await as_user(BASE, f"exec /usr/bin/env python3 -c '{program}'")
    await until(lambda: state_of(process.pid) == b"Z")
    assert [found.pid for found in processes.find(None, BASE)] == [process.pid]
    assert await processes.end(None, BASE) == []
    await process.wait()


async def test_without_a_base_there_are_none(tmp_path: Path) -> None:
    async with Slots(0, (tmp_path,)).taken() as owner:
        assert owner is None
