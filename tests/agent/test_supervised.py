"""The supervisor of a run ends it, whatever the run does meanwhile. Real processes, no agent."""

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.waiting import until

from overnight.agent import processes, seccomp, supervised
from overnight.agent.environment import SYSTEM_PATH, python_prefix
from overnight.agent.isolation import Machine, make_tier
from overnight.agent.network import Joiner
from overnight.agent.slots import MACHINE_WIDE, Slots
from overnight.agent.tiers import install_launcher, open_data
from overnight.ports import Workspace

BASE = 44_000

# It loses its mark, then each process lives for as long as a fork takes. What may not fork any more lies still: it
# has neither mark nor parent to be found by. All of them hold a lock; for 60 s, should they not be killed.
STORM = """
import fcntl, os, sys, time
if "again" not in sys.argv:
    os.execve(sys.executable, [sys.executable, "-I", "-S", *sys.argv, "again"], {})
fcntl.flock(os.open("held", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
end = time.monotonic() + 60
for _ in range(40):
    if os.fork() == 0:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        while time.monotonic() < end:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                time.sleep(60)
        os._exit(0)
print("it blows", flush=True)
"""
# By a python that users of runs may start too: that of the tests may lie in somebody's home.
CLI = "#!/bin/sh\n" + "".join(
    f"[ ! -x {path}/python3 ] || exec {path}/python3 -I -S program.py\n"
    for path in (*SYSTEM_PATH, python_prefix() / "bin")
)
THEN_STAY = "import signal; signal.pause()"

# What the kernel answers to a filter with a listener of its own, and whether a fork goes on.
OWN_LISTENER = """
import ctypes, json, os, struct
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), 8)
given = struct.pack("HxxxxxxP", 1, ctypes.addressof(allow))
number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
errors = []
for flags in (8, 0):
    errors.append(0 if libc.syscall(number, 1, flags, given) >= 0 else ctypes.get_errno())
child = os.fork()
if child == 0:
    os._exit(7)
print(json.dumps([*errors, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]))
"""


@dataclass
class Supervised:
    """Python programs as the CLI of a run."""

    tier: str
    workspace: Workspace
    machine: Machine
    mark: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(16))

    @property
    def uid(self) -> int | None:
        return self.workspace.owner[0] if self.workspace.owner else None

    @contextlib.asynccontextmanager
    async def started(self, program: str, *parent: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """`parent`: what starts the launcher, if it is not the test itself."""
        tier = make_tier(self.tier, install_launcher(self.machine.data), self.machine)
        assert tier is not None
        files = self.workspace.files
        (files / "program.py").write_text(program)
        (files / "cli").write_text(CLI)
        (files / "cli").chmod(0o755)
        environment = {processes.MARK: self.mark, "PATH": os.defpath}
        async with tier.network(self.workspace) as network:
            launcher = tier.launch(self.workspace, environment, files / "cli", network)
            command: tuple[str | Path, ...] = (*parent, launcher)
            process = await asyncio.create_subprocess_exec(
                *command,
                env={},
                cwd=files,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                yield process
            finally:
                await processes.end(self.mark, self.uid)
                await process.communicate()
                with contextlib.closing(await network.listeners()):
                    pass

    async def end(self) -> list[processes.Process]:
        """As the worker does it."""
        await supervised.let_end(self.workspace.root)
        return await processes.end(self.mark, self.uid)

    @property
    def nothing_is_left(self) -> bool:
        with (self.workspace.files / "held").open() as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


async def line_of(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    # On two cores a storm may leave its beginner no turn for as long as it blows, which is a minute.
    return await asyncio.wait_for(process.stdout.readline(), 120)


@pytest.fixture(params=["landlock as the service", "landlock", "uid"])
async def run(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Supervised]:
    tier, _, shared = request.param.partition(" ")
    if not shared and os.geteuid() != 0:
        pytest.skip("only root can give runs users of their own")
    data = tmp_path / "data"
    (data / "runs").mkdir(parents=True)
    joiner = Joiner()
    async with Slots(0 if shared else BASE, (tmp_path / "slots", MACHINE_WIDE)).taken() as owner:
        open_data(data)
        root = data / "runs" / "session"
        home = root / "home"
        workspace = Workspace(
            root=root, files=root / "files", home=home, transcripts=home / ".claude/projects/x", owner=owner
        )
        for directory in (workspace.files, home):
            directory.mkdir(parents=True)
            if owner is not None:
                os.chown(directory, *owner)
        yield Supervised(tier, workspace, Machine(data=data, joiner=joiner))
    await joiner.close()


async def test_a_storm_of_forks_ends_with_the_cli(run: Supervised) -> None:
    async with run.started(STORM) as process:
        assert await line_of(process) == b"it blows\n"
        assert await process.wait() == 0
        assert run.nothing_is_left, "before anybody else had to look for it"


async def test_a_storm_of_forks_ends_when_the_worker_wants_it(run: Supervised) -> None:
    async with run.started(STORM + THEN_STAY) as process:
        assert await line_of(process) == b"it blows\n"
        assert await run.end() == []
        assert run.nothing_is_left


async def test_a_storm_of_forks_ends_when_the_service_dies(run: Supervised) -> None:
    async with run.started(STORM + THEN_STAY, "/bin/sh", "-c", '"$0" & wait') as service:
        assert await line_of(service) == b"it blows\n"
        service.kill()
        await until(lambda: run.nothing_is_left, seconds=30)  # of the 60 that it would blow for


# The CLI dies with its supervisor; what the CLI started does not, and tries to start more.
LEFT_BEHIND = """
import os, signal
if os.fork():
    signal.pause()
print("ready", flush=True)
os.dup2(os.open("/dev/null", os.O_RDWR), 1)
open("go").read()
try:
    os.fork()
except OSError as error:
    print(error.errno, file=open("said", "w"))
"""


async def test_without_its_supervisor_a_run_starts_no_process(run: Supervised) -> None:
    go, said = run.workspace.files / "go", run.workspace.files / "said"
    os.mkfifo(go)
    go.chmod(0o644)
    async with run.started(LEFT_BEHIND) as process:
        assert await line_of(process) == b"ready\n"
        process.kill()
        await process.wait()
        await asyncio.to_thread(go.write_bytes, b"")
        await until(lambda: said.is_file() and said.read_text() != "")
    assert int(said.read_text()) == errno.ENOSYS


async def test_a_run_gets_no_listener_of_its_own_and_may_have_filters(run: Supervised) -> None:
    async with run.started(OWN_LISTENER) as process:
        assert json.loads(await line_of(process)) == [errno.EBUSY, 0, 7]
        assert supervised.holds_processes(run.workspace.root)


async def test_where_there_are_no_listeners_a_run_goes_on_without(
    run: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses an empty filter as an older one refuses the flag."""

    filters = dataclasses.replace(seccomp.filters(datagrams=False, ipc=True), held=b"")
    monkeypatch.setattr(seccomp, "filters", lambda **_: filters)
    async with run.started("import os\nif os.fork():\n    os.wait()\n    print('forked')") as process:
        assert await line_of(process) == b"forked\n"
        assert await process.wait() == 0
        assert not supervised.holds_processes(run.workspace.root)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_reach_the_cli_and_its_status_comes_back(
    run: Supervised, number: signal.Signals
) -> None:
    program = (
        "import os, signal\nsignal.signal({0}, lambda *_: os._exit(40 + {0}))\n"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    async with run.started(program.format(int(number))) as process:
        assert await line_of(process) == b"ready\n"
        process.send_signal(number)
        assert await process.wait() == 40 + number


async def test_many_processes_and_threads_start_at_once(run: Supervised) -> None:
    program = """
import os, threading
children = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        threads = [threading.Thread(target=os.getpid) for _ in range(20)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        os._exit(0)
    children.append(child)
print(sum(os.waitpid(child, 0)[1] for child in children))
"""
    async with run.started(program) as process:
        assert await line_of(process) == b"0\n"
