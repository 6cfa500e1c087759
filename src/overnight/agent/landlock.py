"""The tier for hosts that refuse namespaces, a default Docker container among them: rules of the kernel about
files, TCP ports and sockets that bind a process and all that it starts. See `confine.py` for what applies them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from overnight.agent import seccomp
from overnight.agent.environment import python_prefix
from overnight.agent.etc import SHOWN
from overnight.agent.limits import RunLimits
from overnight.agent.network import RunNetwork
from overnight.agent.supervised import link_supervisor
from overnight.agent.tiers import ROOT_LINKS, OnHost
from overnight.ports import Workspace

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
_ALSO_READABLE = (
    *("/usr", "/proc", "/etc/passwd", "/etc/group"),
    *(
        "/etc/bash.bashrc",
        "/etc/profile",
        "/etc/profile.d",
        "/etc/inputrc",
    ),  # shells complain if they may not
)
"""/proc shows that other processes are there; what they hold is kept from a process in another Landlock domain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landlock(OnHost):
    launcher: Path
    limits: RunLimits
    readable: tuple[Path, ...]
    as_root: bool
    name: str = "landlock"

    def launch(
        self, workspace: Workspace, environment: Mapping[str, str], cli: Path, network: RunNetwork
    ) -> Path:
        view = self.view(workspace)
        rules = {
            "read": [str(path) for path in (*self._system(), view.given, cli)],
            "write": [str(path) for path in (view.files, view.home, view.temporary)],
            "devices": [f"/dev/{name}" for name in _DEVICES],
            "ports": [urlsplit(url).port for url in (network.gateway_url, network.proxy_url)],
        }
        return link_supervisor(
            self.launcher,
            workspace,
            cli,
            # A configuration that git may not read stops it; in other tiers there is none.
            {**environment, "GIT_CONFIG_NOSYSTEM": "1"},
            self.limits,
            rules=rules,
            # Where others are the same user too, its rules do not keep a run from their shared memory.
            filters=seccomp.filters(datagrams=False, ipc=workspace.owner is not None),
        )

    def _system(self) -> list[Path]:
        roots = [Path("/", name) for name in ROOT_LINKS]
        files = [Path("/etc", name) for name in SHOWN]
        return [*map(Path, _ALSO_READABLE), *roots, *files, python_prefix(), *self.readable]
