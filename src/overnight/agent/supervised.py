"""How the tiers that live among the host's processes start a run: by `confine.py`, which stays as its parent."""

import marshal
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from overnight.agent.limits import RunLimits
from overnight.agent.processes import MARK
from overnight.agent.tiers import link_launcher, open_way, quote, run_directory, view_of_host, write_private
from overnight.ports import Workspace

Rules = Mapping[str, object]


def link_supervisor(
    launcher: Path,
    workspace: Workspace,
    cli: Path,
    environment: Mapping[str, str],
    limits: RunLimits,
    *,
    rules: Rules | None,
    filter_program: bytes | None,
) -> Path:
    """`rules` are the arguments of `rules_of` there; None: no Landlock."""
    run = run_directory(workspace)
    open_way(workspace)
    _make_temporary(workspace)
    order = {
        "cli": str(cli),
        "environment": dict(environment),
        "owner": workspace.owner,
        "limits": limits.by_name(),
        "rules": None if rules is None else dict(rules),
        "seccomp": filter_program,
    }
    write_private(run / "order", marshal.dumps(order))
    python = f"env -i {MARK}={environment[MARK]} {quote(Path(sys.executable))} -I -S"
    program = Path(__file__).with_name("confine.py")
    return link_launcher(launcher, run, f'exec {python} {quote(program)} {quote(run / "order")} "$@"\n')


def _make_temporary(workspace: Workspace) -> None:
    temporary = view_of_host(workspace).temporary
    temporary.mkdir(mode=0o700, exist_ok=True)
    if workspace.owner is not None:
        os.chown(temporary, *workspace.owner)
