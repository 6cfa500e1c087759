"""The tier for root where neither namespaces nor Landlock are there: a user of its own for each run, and no more.

What holds is what the kernel keeps apart by users: files with modes, the environment and the signals of other
processes, a number of processes. The network is open, and whatever is open to everyone on the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.agent import seccomp
from overnight.agent.limits import RunLimits
from overnight.agent.network import RunNetwork
from overnight.agent.supervised import link_supervisor
from overnight.agent.tiers import OnHost
from overnight.ports import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnUser(OnHost):
    launcher: Path
    limits: RunLimits
    name: str = "uid"
    as_root: bool = False

    def launch(
        self, workspace: Workspace, environment: Mapping[str, str], cli: Path, network: RunNetwork
    ) -> Path:
        if workspace.owner is None:
            raise PermissionError("only root can give runs users of their own (OVERNIGHT_UID_BASE)")
        return link_supervisor(
            self.launcher,
            workspace,
            cli,
            environment,
            self.limits,
            rules=None,
            filters=_filters(),
        )


def _filters() -> seccomp.Filter | None:
    """The tier does without one on a machine that there is none for."""
    try:
        return seccomp.filters(datagrams=False, ipc=True)
    except seccomp.UnknownMachine:
        return None
