"""Attack a tier, and say what of its promises holds: a tier is what was measured of it, not what it is made of."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from overnight.agent import processes, supervised
from overnight.agent.environment import SYSTEM_PATH, python_prefix
from overnight.agent.network import NetworkUnavailable
from overnight.agent.seccomp import UnknownMachine
from overnight.agent.tiers import PROBE, Tier, run_directory
from overnight.ports import Owner, Workspace

ATTACK_SECONDS = 30.0
GONE_SECONDS = 2.0
"""Within this the output of a killed survivor is closed."""

OWN = "made-by-the-canary"
"""A file that it makes in the workspace."""

COMPLAINTS = "complaints"
"""The file that the canary's error output goes to, in the root of its workspace."""

BREACHES: Mapping[str, tuple[str, ...]] = {
    "secrets": ("read_the_secret",),
    "files": ("read_the_secret", "read_an_open_file"),
    "writes": ("write_outside",),
    "environment": ("read_an_environment",),
    "network": ("reach_a_listener", "datagram"),
    "raw_sockets": ("open_a_raw_socket",),
    "abstract_sockets": ("reach_an_abstract_socket",),
    "path_sockets": ("reach_a_socket_by_path",),
    "processes": ("see_a_process",),
    "signals": ("signal_a_process", "limit_a_process"),
    "tracing": ("trace_a_process",),
    "kernel": ("use_the_kernel",),
    "survivors": ("survivor",),
    "storms": ("fork_while_it_is_killed",),
    "limits": ("dump_core_or_take_all_memory",),
    "process_limit": ("fork_without_limit",),
    "own_user": ("be_the_service",),
}
"""Each property that a tier may have, and what shows that it has not."""

_NEEDED = ("work_in_the_workspace", "start_claude_code", "reach_the_gateway")

_OF_ANY = frozenset({"secrets", "writes", "environment", "tracing", "survivors", "limits"})
REQUIRED: Mapping[str, frozenset[str]] = {
    # Only root can give users, and only for users other than root the kernel counts processes.
    "namespace": frozenset(BREACHES) - {"process_limit", "own_user"},
    "landlock": _OF_ANY | {"files", "network", "raw_sockets", "kernel"},
    "uid": _OF_ANY | {"signals", "process_limit", "own_user"},
    "none": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Findings:
    """`complaint` says why the attack could not be run, and is None if it was."""

    managed: frozenset[str] = frozenset()
    complaint: str | None = None

    @property
    def properties(self) -> dict[str, bool]:
        ran = self.complaint is None
        return {name: ran and not self.managed & set(breaches) for name, breaches in BREACHES.items()}

    def failures(self, tier: str) -> list[str]:
        """In words; empty if the tier is what it must be."""
        if self.complaint is not None:
            return [f"the attack on it could not be run ({self.complaint})"]
        broken = [name for name, holds in self.properties.items() if not holds and name in REQUIRED[tier]]
        missing = [name for name in _NEEDED if name not in self.managed]
        return [f"`{name}`: {_WORDS[name]}" for name in broken] + [
            f"the agent could not {name.replace('_', ' ')}" for name in missing
        ]


_WORDS = {
    "secrets": "a file that only the service's user may read can be read",
    "files": "a file outside of the workspace can be read",
    "writes": "files outside of the workspace can be written",
    "environment": "the environment of another process can be read",
    "network": "a listener on the host's loopback address can be reached",
    "raw_sockets": "raw, netlink or vsock sockets can be opened",
    "abstract_sockets": "the host's abstract unix sockets can be reached",
    "path_sockets": "a unix socket outside of the workspace can be reached",
    "processes": "processes of the host can be seen",
    "signals": "processes of the host can be sent signals",
    "tracing": "processes of the host can be looked into",
    "kernel": "system calls that a run must not make came through",
    "survivors": "a process that was left behind cannot be killed",
    "storms": "what does nothing but fork can outlast the killing, since the kernel does not hold new processes back",
    "limits": "memory, file size and core dumps are not limited",
    "process_limit": "the number of processes is not limited",
    "own_user": "the run is the same user as the service",
}


@dataclass(frozen=True, slots=True)
class _Planted:
    """What lies ready to be stolen or reached; `datagrams` is a bound UDP socket."""

    token: str
    victim: int
    datagrams: socket.socket
    targets: Mapping[str, object]


async def attack(tier: Tier, data: Path, *, owner: Owner | None = None, cli: Path | None = None) -> Findings:
    """Run the canary in the tier, as `owner`. `data` is the directory that workspaces lie in; `cli` is Claude
    Code, if it must be there for the tier to be of use."""
    with tempfile.TemporaryDirectory(dir=data, prefix=PROBE) as directory:
        try:
            async with asyncio.timeout(ATTACK_SECONDS), _planted(Path(directory)) as planted:
                workspace = await asyncio.to_thread(_workspace, Path(directory) / "workspace", owner)
                return await _attack(tier, workspace, planted, cli)
        except TimeoutError:
            return Findings(complaint=f"it did not end within {ATTACK_SECONDS:.0f} s")
        except (OSError, NetworkUnavailable, UnknownMachine) as error:
            return Findings(complaint=f"{type(error).__name__}: {error}")


async def _attack(tier: Tier, workspace: Workspace, planted: _Planted, cli: Path | None) -> Findings:
    mark = secrets.token_urlsafe(16)
    root, owner = workspace.root, workspace.owner
    uid = owner[0] if owner else None
    async with tier.network(workspace) as network:
        environment = {processes.MARK: mark, "PATH": os.defpath}
        program = _program(tier, workspace)
        launcher = await asyncio.to_thread(tier.launch, workspace, environment, program, network)
        opening = asyncio.create_task(network.listeners())
        view = tier.view(workspace)
        # Other tiers give Claude Code a place of its own, where the canary now is.
        started = cli if cli is not None and tier.on_host else view.given / program.name
        own = {"own": str(view.files / OWN), "cli": str(started), "gateway": network.gateway_url}
        targets = json.dumps({**planted.targets, **own})
        try:
            async with _started(launcher, targets, root, planted.token) as output:
                return await _judged(tier, output, workspace, mark, planted)
        finally:
            await supervised.let_end(root)
            await processes.end(mark, uid)
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, NetworkUnavailable):
                (await opening).close()


@contextlib.asynccontextmanager
async def _started(
    launcher: Path, targets: str, root: Path, secret: str
) -> AsyncIterator[asyncio.StreamReader]:
    """Its output comes by a pipe of our own: asyncio's would wait for survivors that cannot be killed."""
    output = asyncio.StreamReader()
    reading, writing = os.pipe()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb")
    )
    try:
        with (root / COMPLAINTS).open("wb") as complaints, os.fdopen(writing, "wb") as pipe:
            process = await asyncio.create_subprocess_exec(
                launcher,
                targets,
                cwd=root / "files",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=complaints,
                env={"PATH": os.defpath, "OVERNIGHT_CANARY": secret},
            )
        yield output
        await process.wait()
    finally:
        transport.close()


async def _judged(
    tier: Tier, output: asyncio.StreamReader, workspace: Workspace, mark: str, planted: _Planted
) -> Findings:
    root, owner = workspace.root, workspace.owner
    line = await output.readline()
    await supervised.let_end(root)
    left = await processes.end(mark, owner[0] if owner else None)
    try:
        managed = set(json.loads(line)["managed"])
    except (ValueError, KeyError, TypeError):
        said = (root / COMPLAINTS).read_text(encoding="utf-8", errors="replace").strip()[-300:]
        return Findings(complaint=said or "it said nothing")
    if left or not await _closed(output):
        managed.add("survivor")
    if _arrived(planted.datagrams):
        managed.add("datagram")
    if _user_of(workspace.files / OWN) in {None, os.geteuid()}:
        managed.add("be_the_service")
    if not _forks_are_held(tier, root, managed):
        managed.add("fork_while_it_is_killed")
    return Findings(frozenset(managed))


def _forks_are_held(tier: Tier, root: Path, managed: set[str]) -> bool:
    """No storm is raised to see it, on a machine that is not ours: where the host's processes are, nothing but its
    supervisor can stop a run from forking, and only as long as the run cannot answer itself."""
    return not tier.on_host or (supervised.holds_processes(root) and "take_a_listener" not in managed)


def _user_of(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None


async def _closed(output: asyncio.StreamReader) -> bool:
    """Survivors hold it open: another way to know of them than by the mark."""
    try:
        await asyncio.wait_for(output.read(), GONE_SECONDS)
    except TimeoutError:
        return False
    return True


def _arrived(datagrams: socket.socket) -> bool:
    try:
        return bool(datagrams.recv(1024))
    except BlockingIOError:
        return False


@contextlib.asynccontextmanager
async def _planted(root: Path) -> AsyncIterator[_Planted]:
    token = f"overnight-canary-{secrets.token_hex(12)}"
    outside = root / "outside"
    outside.mkdir()
    # As passable as the places of workspaces are, for a run with a user of its own.
    for directory in (root, outside):
        directory.chmod(0o755)
    for name, mode in (("secret", 0o600), ("open", 0o644)):
        (outside / name).write_text(token, encoding="utf-8")
        (outside / name).chmod(mode)
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        abstract = stack.enter_context(_unix(f"\0{token}"))
        # By a short way: the address of a unix socket may have 107 bytes, and `data` may lie deep.
        descriptor = os.open(outside, os.O_PATH)
        stack.callback(os.close, descriptor)
        stack.enter_context(_unix(f"/proc/self/fd/{descriptor}/socket"))
        (outside / "socket").chmod(0o666)
        victim = await _victim(token)
        try:
            targets = {
                "planted": token,
                "secret": str(outside / "secret"),
                "open": str(outside / "open"),
                "outside": str(outside),
                "socket": str(outside / "socket"),
                "tcp": tcp.getsockname()[1],
                "udp": udp.getsockname()[1],
                "addresses": _addresses(),
                "victim": victim.pid,
            }
            assert abstract.fileno() >= 0
            yield _Planted(token, victim.pid, udp, targets)
        finally:
            victim.kill()
            await victim.wait()


async def _victim(token: str) -> asyncio.subprocess.Process:
    """A process of the host with a secret in its environment."""
    return await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", f": {token}; read -r line", env={"SECRET": token}, stdin=asyncio.subprocess.PIPE
    )


def _unix(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()
    return listener


def _addresses() -> list[str]:
    """The host's own address on its way out; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return [probe.getsockname()[0]]
    return []


def _workspace(root: Path, owner: Owner | None) -> Workspace:
    home = root / "home"
    workspace = Workspace(
        root=root, files=root / "files", home=home, transcripts=home / ".claude/projects/probe", owner=owner
    )
    for directory in (workspace.files, home):
        directory.mkdir(mode=0o700, parents=True)
        if owner is not None:
            os.chown(directory, *owner)
    return workspace


def _program(tier: Tier, workspace: Workspace) -> Path:
    """In the place of Claude Code: the canary, by a python that the run can reach too."""
    given = run_directory(workspace) / "given"
    shutil.copyfile(Path(__file__).with_name("canary.py"), given / "canary.py")
    (given / "canary.py").chmod(0o644)
    program = given / "canary"
    seen = tier.view(workspace).given / "canary.py"
    pythons = " ".join(f"'{path}/python3'" for path in (python_prefix() / "bin", *SYSTEM_PATH))
    program.write_text(
        f"#!/bin/sh\nfor python in {pythons}; do\n"
        f'[ ! -x "$python" ] || exec "$python" -I -S \'{seen}\' "$1"\ndone\n'
        "echo 'there is no python that the run may start' >&2\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program
