"""How the tiers that live among the host's processes start a run: by `confine.py`, which stays as its parent."""

import asyncio
import contextlib
import dataclasses
import marshal
import os
import select
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from overnight.agent.limits import RunLimits
from overnight.agent.processes import MARK
from overnight.agent.seccomp import Filter
from overnight.agent.tiers import (
    EMPTIED,
    RUN_DIRECTORY,
    link_launcher,
    open_way,
    quote,
    run_directory,
    view_of_host,
    write_private,
)
from overnight.ports import Workspace

Rules = Mapping[str, object]

END_SECONDS = 5.0
"""For the supervisor to end its run, which takes milliseconds. After that it is killed with all the rest."""

_SUPERVISE = "import sys; sys.path.append(sys.argv.pop(1)); import confine; confine.main()"
"""Python keeps compiled what it imports; to compile a program that it is given takes longer than to run this one."""

_END, _HELD = "end", "held"
"""A FIFO that it reads, and a file that says that new processes of the run wait for its answer."""


_NO_QUEUES = {"MSGQUEUE": 0}
"""Bytes of POSIX message queues: they outlive who makes them, and are seen only where their file system is mounted."""


def link_supervisor(
    launcher: Path,
    workspace: Workspace,
    cli: Path,
    environment: Mapping[str, str],
    limits: RunLimits,
    *,
    rules: Rules | None,
    filters: Filter | None,
) -> Path:
    """`rules` are the arguments of `rules_of` there; None: no Landlock."""
    run = run_directory(workspace)
    open_way(workspace)
    _make_temporary(workspace)
    order = {
        "cli": str(cli),
        "environment": dict(environment),
        "owner": workspace.owner,
        "limits": {**limits.by_name(), **_NO_QUEUES},
        "rules": None if rules is None else dict(rules),
        "filter": None if filters is None else dataclasses.asdict(filters),
        "end": str(run / _END),
        "held": str(run / _HELD),
    }
    for name in (_END, _HELD):
        (run / name).unlink(missing_ok=True)
    os.mkfifo(run / _END, 0o600)
    write_private(run / "order", marshal.dumps(order))
    python = f"{EMPTIED} {MARK}={environment[MARK]} {quote(Path(sys.executable))} -I -S -c '{_SUPERVISE}'"
    home = Path(__file__).parent
    return link_launcher(launcher, run, f'exec {python} {quote(home)} {quote(run / "order")} "$@"\n')


def _make_temporary(workspace: Workspace) -> None:
    temporary = view_of_host(workspace).temporary
    temporary.mkdir(mode=0o700, exist_ok=True)
    if workspace.owner is not None:
        os.chown(temporary, *workspace.owner)


async def let_end(root: Path) -> None:
    """Have the supervisor of the run in this workspace end it, if there is one, and wait until it has: it alone
    sees every process. Who kills it, before all else is dead, sets free what has hidden its mark."""
    await asyncio.to_thread(_let_end, root / RUN_DIRECTORY / _END)


def _let_end(fifo: Path) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        # Fails if nobody has it open for reading.
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, descriptor)
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.write(descriptor, b"\n")
            gone = select.poll()
            gone.register(descriptor, 0)  # POLLERR comes unasked: the reader is gone
            gone.poll(END_SECONDS * 1000)


def holds_processes(root: Path) -> bool:
    """Whether new processes of the run wait for an answer of its supervisor."""
    return (root / RUN_DIRECTORY / _HELD).exists()
