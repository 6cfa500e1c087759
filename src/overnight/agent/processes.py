"""Find and end every process of a run.

A run carries a random mark in its environment, from the first process on. A process belongs to the run if it
carries the mark, if it lives in a PID namespace whose first process does, or if it descends from one that
belongs. So a daemon that gave up its parent and its session is found, and inside a namespace even one that
emptied its environment. Where runs have users of their own, all that belongs to that user is the run's too. A
reused pid cannot be mistaken for an old one: it is the process that was looked at which is killed (a pidfd names
one process for good).
"""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "OVERNIGHT_RUN"
"""The environment variable that holds the mark."""

RECORD = "run.json"
"""Written to the root of the workspace before the run starts, removed when nothing of it is left."""

KILL_SECONDS = 10.0
"""A killed process is gone in milliseconds, unless the kernel holds it in a call to a stuck disk."""

_PROC = Path("/proc")
_MARK = re.compile(r"[A-Za-z0-9_-]{16,128}")


@dataclass(frozen=True, slots=True)
class Process:
    """`started` is in clock ticks since boot: with the pid it names one process and no later one. `namespace` is
    empty where we may not look: at a process of another user, without CAP_SYS_PTRACE."""

    pid: int
    parent: int
    started: int
    namespace: str


def find(mark: str | None, uid: int | None = None) -> list[Process]:
    """Every living process of the run, and of the user `uid`. Zombies are not alive: they hold nothing but their
    exit status."""
    table = {process.pid: process for process in _living()}
    carriers = [process for process in table.values() if mark is not None and _carries(process.pid, mark)]
    firsts = {process.namespace for process in carriers if _is_first_of_namespace(process.pid)}
    found = {p.pid for p in (*carriers, *(p for p in table.values() if p.namespace in firsts))}
    if uid is not None:
        found.update(pid for pid in table if str(uid) in _users(pid))
    _add_descendants(found, table.values())
    found.discard(os.getpid())
    return [table[pid] for pid in found]


async def end(mark: str | None, uid: int | None = None, *, seconds: float = KILL_SECONDS) -> list[Process]:
    """Kill the run's processes, and those of its user, until none is left; returns those that outlasted
    `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    pause = 0.005
    while left := await asyncio.to_thread(_kill_all, mark, uid):
        if asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)
    return []


def note(root: Path, mark: str) -> None:
    """Leave word of the run in its workspace, for whoever finds the workspace after a crash."""
    (root / RECORD).write_text(json.dumps({"mark": mark}), encoding="utf-8")


def noted(root: Path) -> str | None:
    """The mark of the run that was last in this workspace, if it may have left something."""
    try:
        mark = json.loads((root / RECORD).read_text(encoding="utf-8"))["mark"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mark if isinstance(mark, str) and _MARK.fullmatch(mark) else None


def forget(root: Path) -> None:
    (root / RECORD).unlink(missing_ok=True)


async def reap(root: Path, uid: int | None = None, *, seconds: float = KILL_SECONDS) -> None:
    """End what is left of the run that a dead or frozen worker had in this workspace. Idempotent.

    `uid`: of its user, if no other run is that user by now. Raises OSError if a process outlasts `seconds`: the
    workspace must not be used then.
    """
    mark = await asyncio.to_thread(noted, root)
    if mark is None:
        return
    if left := await end(mark, uid, seconds=seconds):
        raise OSError(f"processes of an earlier run cannot be ended: {sorted(p.pid for p in left)}")
    await asyncio.to_thread(forget, root)


def _kill_all(mark: str | None, uid: int | None) -> list[Process]:
    if uid is not None:
        _slow_down(uid)
    found = find(mark, uid)
    for process in found:
        _kill(process)
    return found


def _slow_down(uid: int) -> None:
    """What forks as fast as it is killed must not have the processor too; its children inherit this."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_USER, uid, 19)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(process.pid)
        try:
            now = _stat(process.pid)
            if now is not None and now.started == process.started:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _living() -> Iterable[Process]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (process := _stat(int(entry.name))) is not None:
            yield process


def _stat(pid: int) -> Process | None:
    """None for one that is gone, or a zombie."""
    try:
        # The name in brackets may hold anything, brackets included: what counts comes after the last one.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    if fields[0] == b"X" or (fields[0] == b"Z" and int(fields[17]) <= 1):
        return None  # with more threads than one, only the first of them has ended
    return Process(pid=pid, parent=int(fields[1]), started=int(fields[19]), namespace=_namespace(pid))


def _namespace(pid: int) -> str:
    try:
        return str((_PROC / str(pid) / "ns" / "pid").readlink())
    except OSError:
        return ""


def _carries(pid: int, mark: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def _is_first_of_namespace(pid: int) -> bool:
    """Whether it is pid 1 of a namespace below ours. Only then may the whole namespace be called the run's:
    a process may also have entered the namespace of others."""
    pids = _status(pid, "NSpid")
    return len(pids) > 1 and pids[-1] == "1"


def _users(pid: int) -> list[str]:
    """Real, effective, saved and file system uid."""
    return _status(pid, "Uid")


def _status(pid: int, name: str) -> list[str]:
    try:
        status = (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return next((line.split()[1:] for line in status.splitlines() if line.startswith(f"{name}:")), [])


def _add_descendants(found: set[int], processes: Iterable[Process]) -> None:
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    waiting = list(found)
    while waiting:
        new = [pid for pid in children.get(waiting.pop(), []) if pid not in found]
        found.update(new)
        waiting.extend(new)
