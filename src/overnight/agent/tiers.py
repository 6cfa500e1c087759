"""How far a run is kept from the host. Each tier writes an executable that starts Claude Code inside it.

The SDK hands the worker's whole environment to what it starts (facts: security 1.2), so every launcher drops
it first. Nothing secret is ever an argument, since `ps` shows those: it travels by a file that only we read.
"""

import contextlib
import os
import shlex
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from overnight.agent import seccomp
from overnight.agent.environment import View, python_prefix
from overnight.agent.etc import keep_etc, keep_place
from overnight.agent.limits import RunLimits
from overnight.agent.network import BLOCK, INFO, Joiner, RunNetwork, loopback_network
from overnight.agent.processes import MARK
from overnight.ports import Owner, Workspace

RUN_DIRECTORY = "run"
"""Inside the workspace's root: the launcher, its files, and `given`, the part that the agent may read."""

PROBE = "probe-"
"""How the directories in the data directory begin that a worker attacks a tier in, as it starts."""

EMPTIED = "/usr/bin/env -i"
"""In a shell's script, before the program that is not to get the worker's environment."""

_CLI = Path("/opt/claude-code/claude")
_UID = 1000

ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_AS_OUR_USER = ("--unshare-all", "--unshare-user", "--uid", str(_UID), "--gid", str(_UID), "--disable-userns")
_AS_ANOTHER_USER = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"),
    *("--cap-add", "CAP_DAC_READ_SEARCH"),
)
"""Without a user namespace: in one, the agent could be no other user outside than who made it. The capabilities,
two to become that user and one to enter its workspace first, are gone with the change of user."""

_NOBODY = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"


class Tier(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def as_root(self) -> bool:
        """Whether the agent sees itself as root, if its run has no user of its own."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether the agent comes to its workspace by the host's paths, which its user must then pass."""
        ...

    def view(self, workspace: Workspace) -> View: ...

    def network(self, workspace: Workspace) -> AbstractAsyncContextManager[RunNetwork]:
        """What the run will reach; entered before `launch`, and left when the run is over."""
        ...

    def launch(
        self, workspace: Workspace, environment: Mapping[str, str], cli: Path, network: RunNetwork
    ) -> Path:
        """Write the files of one run; returns the executable to start in place of the CLI."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """bubblewrap: own namespaces of every kind; of the host only /usr and a few files, of the network only what
    the worker listens on inside of it."""

    launcher: Path
    bwrap: Path
    etc: Path
    joiner: Joiner
    limits: RunLimits
    readable: tuple[Path, ...]
    setpriv: Path | None = None
    name: str = "namespace"
    as_root: bool = False
    on_host: bool = False

    def view(self, workspace: Workspace) -> View:
        home = Path("/home/agent")
        config = home / config_directory(workspace).relative_to(workspace.home)
        return View(
            files=Path("/workspace"),
            home=home,
            config=config,
            temporary=Path("/tmp"),  # noqa: S108 - the sandbox's own, empty at its start and gone with it
            given=Path("/run/overnight"),
        )

    @contextlib.asynccontextmanager
    async def network(self, workspace: Workspace) -> AsyncIterator[RunNetwork]:
        async with self.joiner.private_network(run_directory(workspace)) as network:
            yield network

    def launch(
        self, workspace: Workspace, environment: Mapping[str, str], cli: Path, network: RunNetwork
    ) -> Path:
        run, (uid, gid) = run_directory(workspace), workspace.owner or (_UID, _UID)
        home, given = self.view(workspace).home, run / "given"
        write_public(given / "passwd", f"agent:x:{uid}:{gid}:agent:{home}:/bin/bash\n{_NOBODY}\n")
        write_public(given / "group", f"agent:x:{gid}:\nnogroup:x:65534:\n")
        (run / "filter").write_bytes(seccomp.program(datagrams=True))
        write_private(
            run / "arguments", "".join(f"{a}\0" for a in self._arguments(workspace, environment, cli))
        )
        # Emptied, and not only by --clearenv: the first process of the namespace is bwrap itself, and the agent
        # can read what that one was started with in /proc/1/environ.
        become = "".join(f"{shlex.quote(part)} " for part in self._become(workspace.owner))
        bwrap = f"{EMPTIED} {MARK}={environment[MARK]} {quote(self.bwrap)} --args 3 {become}{_CLI}"
        # `<>` opens a FIFO without waiting, and holds it open: if the helper dies, the sandbox stays shut.
        files = (
            f"3<{quote(run / 'arguments')} 4<>{quote(run / INFO)} 5<>{quote(run / BLOCK)} "
            f"6<{quote(run / 'filter')}"
        )
        return link_launcher(self.launcher, run, f'{self.limits.as_shell()}exec {bwrap} "$@" {files}\n')

    def _arguments(self, workspace: Workspace, environment: Mapping[str, str], cli: Path) -> list[str]:
        view, run = self.view(workspace), workspace.root / RUN_DIRECTORY
        options = [
            *(_AS_OUR_USER if workspace.owner is None else _AS_ANOTHER_USER),
            *("--hostname", "overnight", "--die-with-parent", "--new-session"),
            *("--info-fd", "4", "--block-fd", "5", "--seccomp", "6"),
            *("--proc", "/proc", "--dev", "/dev"),
            *self._temporary(workspace.owner),
            *_system(),
            *self._etc(view),
            *(option for path in self._toolchains() for option in _bound(path)),
            *(option for path in (_CLI, view.given, view.files, view.home) for option in _way_to(path)),
            *("--ro-bind", str(cli), str(_CLI), "--ro-bind", str(run / "given"), str(view.given)),
            *("--bind", str(workspace.files), str(view.files), "--bind", str(workspace.home), str(view.home)),
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(view.files), "--clearenv"),
        ]
        for name, value in environment.items():
            options += ["--setenv", name, value]
        return options

    def _become(self, owner: Owner | None) -> list[str]:
        """Inside, when all is mounted: only root could do that without a user namespace."""
        if owner is None:
            return []
        if self.setpriv is None or not self.setpriv.is_relative_to("/usr"):
            raise FileNotFoundError("there is no setpriv (of util-linux) below /usr")
        uid, gid = owner
        return [str(self.setpriv), f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all"]

    def _etc(self, view: View) -> list[str]:
        options = ["--ro-bind", str(self.etc), "/etc"]
        for name in keep_etc(self.etc, view.given):
            options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        for path in self._toolchains():  # bubblewrap can make no place for them in what is read-only
            if path.is_relative_to("/etc"):
                keep_place(self.etc / path.relative_to("/etc"), path)
        return options

    def _temporary(self, owner: Owner | None) -> list[str]:
        size, mode = str(self.limits.temporary), () if owner is None else ("--perms", "1777")
        places = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - the sandbox's own
        return [option for place in places for option in (*mode, "--size", size, "--tmpfs", place)]

    def _toolchains(self) -> list[Path]:
        wanted = [python_prefix(), *self.readable]
        return [path for path in wanted if not path.is_relative_to("/usr") and path != Path("/")]


class OnHost:
    """What is the same in every tier whose runs see the host's paths and reach the worker by its loopback."""

    __slots__ = ()

    @property
    def on_host(self) -> bool:
        return True

    def view(self, workspace: Workspace) -> View:
        return view_of_host(workspace)

    @contextlib.asynccontextmanager
    async def network(self, workspace: Workspace) -> AsyncIterator[RunNetwork]:
        with loopback_network() as network:
            yield network


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconfined(OnHost):
    """Nothing but an emptied environment: the agent can read and write all that the service can."""

    launcher: Path
    as_root: bool
    setpriv: Path | None
    name: str = "none"

    def launch(
        self, workspace: Workspace, environment: Mapping[str, str], cli: Path, network: RunNetwork
    ) -> Path:
        run = run_directory(workspace)
        (run / "tmp").mkdir(exist_ok=True)
        # Dies with the worker where the system can do it; what it leaves is found by its mark (processes.py).
        mortal = f"{quote(self.setpriv)} --pdeathsig KILL " if self.setpriv else ""
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        write_private(run / "inside", f'{exports}exec {mortal}{quote(cli)} "$@"\n')
        return link_launcher(self.launcher, run, f'exec {EMPTIED} /bin/sh {quote(run / "inside")} "$@"\n')


def view_of_host(workspace: Workspace) -> View:
    run = workspace.root / RUN_DIRECTORY
    return View(
        files=workspace.files,
        home=workspace.home,
        config=config_directory(workspace),
        temporary=run / "tmp",
        given=run / "given",
    )


def config_directory(workspace: Workspace) -> Path:
    """CLAUDE_CONFIG_DIR. Claude Code keeps a conversation in its `projects/{project}`."""
    return workspace.transcripts.parent.parent


def _system() -> list[str]:
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ROOT_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return options


def _bound(path: Path) -> list[str]:
    return [*_way_to(path), "--ro-bind", str(path), str(path)]


def _way_to(path: Path) -> list[str]:
    """The directories above, for everybody to pass: bubblewrap would make them for its own user only."""
    above = [str(parent) for parent in reversed(path.parents) if parent != Path("/")]
    return [option for parent in above for option in ("--dir", parent)]


def run_directory(workspace: Workspace) -> Path:
    """What is in `given` belongs to the run's group, which may read it."""
    run = workspace.root / RUN_DIRECTORY
    given = run / "given"
    given.mkdir(mode=0o700, parents=True, exist_ok=True)
    if workspace.owner is not None:
        os.chown(given, -1, workspace.owner[1])
        given.chmod(0o2750)
    return run


def open_data(data: Path) -> None:
    """Let users of runs pass to their workspaces, and close all the rest of the data directory to them, which
    nobody else could pass into so far. Other workers may be at work in it, or about to start.

    Raises PermissionError, and changes nothing, if it is not ours alone.
    """
    status = data.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_ISVTX | stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{data} is not the service's alone to write to")
    runs = data / "runs"
    runs.mkdir(mode=0o711, exist_ok=True)
    for entry in data.iterdir():
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if not entry.is_symlink() and not entry.name.startswith(PROBE):
                entry.chmod(0o711 if entry == runs else entry.stat().st_mode & 0o700)
    data.chmod(0o711)


def open_way(workspace: Workspace) -> None:
    """To the directories of the run, for its user: nobody may list what lies beside them. The agent closes the
    workspace again when the run is over."""
    if workspace.owner is not None:
        for directory in (workspace.root, workspace.root / RUN_DIRECTORY):
            directory.chmod(0o711)


def install_launcher(directory: Path) -> Path:
    """The one executable that all runs start with: it goes on with `start`, which lies beside the link that it
    was called by. It is written once, before there are runs: an executable that is written while another thread
    forks cannot be started ("text file busy")."""
    with tempfile.TemporaryDirectory(dir=directory) as made:
        fresh = Path(made, "launch")
        # The service keeps its files to itself; a run's are as everywhere.
        fresh.write_text('#!/bin/sh\numask 022\n. "${0%/*}/start"\n', encoding="utf-8")
        fresh.chmod(0o700)
        return fresh.replace(directory / fresh.name)


def link_launcher(launcher: Path, run: Path, start: str) -> Path:
    """`start` is read by a shell that still has the worker's environment, and must replace it by what `EMPTIED`
    starts. Returns the executable of this run."""
    write_private(run / "start", start)
    link = run / "launch"
    link.unlink(missing_ok=True)
    link.symlink_to(launcher)
    return link


def write_private(path: Path, content: str | bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_public(path: Path, text: str) -> None:
    """What the run's user may read."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def quote(path: Path) -> str:
    return shlex.quote(str(path))
