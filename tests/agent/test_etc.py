"""The /etc of a sandbox shows of the host's what is named, as it is now, and to nobody more than the host does."""

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overnight.agent.etc import SHOWN, keep_etc
from overnight.agent.isolation import Machine, make_tier
from overnight.agent.network import Joiner
from overnight.agent.processes import MARK
from overnight.agent.slots import MACHINE_WIDE, Slots
from overnight.agent.tiers import install_launcher
from overnight.ports import Workspace

USERS = Path("/given")
A_TOOLS_OWN = Path("/etc/skel")
"""On every Debian. A JDK has its configuration in such a place, which is then named in OVERNIGHT_SANDBOX_READABLE."""

LOOK = """#!/bin/sh
id -un; id -gn; cat /etc/passwd; echo --; cat /etc/hosts; echo --; ls -A /etc /etc/ssl /etc/ssl/certs; echo --
for path in /etc /etc/ssl /etc/hosts /etc/passwd; do [ ! -w $path ] || echo $path can be written to; done
touch /etc/new /etc/ssl/certs/new; mv /etc/hosts /etc/hosts.old
"""


@pytest.fixture(autouse=True)
def a_service_keeps_its_files_to_itself() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    host = tmp_path / "host"
    (host / "ssl/certs").mkdir(parents=True)
    (host / "ssl/private").mkdir()
    (host / "zones").mkdir()
    (host / "zones/Utc").write_text("noon")
    (host / "localtime").symlink_to("zones/Utc")
    (host / "ssl/certs/ca.pem").write_text("trusted")
    for name in ("hosts", "shadow", "ssl/openssl.cnf"):
        (host / name).write_text(f"the host's {name}")
        (host / name).chmod(0o644)
    return host


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "sandbox" / "etc"


def modes(directory: Path) -> dict[str, str]:
    entries = {directory, *directory.rglob("*")}
    return {str(e.relative_to(directory)): stat.filemode(e.lstat().st_mode) for e in entries}


def test_what_is_named_is_there_for_everyone_and_nothing_else_is(host: Path, copy: Path) -> None:
    assert keep_etc(copy, USERS, host) == ["ssl/certs"]
    readable = modes(copy)
    links = {name: readable.pop(name) for name in ("passwd", "group")}
    assert set(links.values()) == {"lrwxrwxrwx"}
    assert (copy / "passwd").readlink() == USERS / "passwd"
    assert readable == {
        ".": "drwxr-xr-x",
        "hosts": "-r--r--r--",
        "localtime": "-r--------",
        "ssl": "drwxr-xr-x",
        "ssl/certs": "drwxr-xr-x",
        "ssl/openssl.cnf": "-r--r--r--",
    }
    assert (copy / "localtime").read_text() == "noon", "links are followed"
    assert [path.name for path in copy.parent.iterdir()] == ["etc"], "nothing lies beside it"
    assert stat.filemode(copy.parent.stat().st_mode) == "drwx------"


def test_a_change_of_the_host_is_seen_in_the_directory_that_runs_have(host: Path, copy: Path) -> None:
    keep_etc(copy, USERS, host)
    opened = os.open(copy, os.O_PATH)
    (host / "hosts").write_text("another host")
    (host / "timezone").write_text("Utc")
    (host / "localtime").unlink()
    keep_etc(copy, USERS, host)
    mounted = Path(f"/proc/self/fd/{opened}")
    assert (mounted / "hosts").read_text() == "another host"
    assert (mounted / "timezone").read_text() == "Utc"
    assert not (mounted / "localtime").exists()
    os.close(opened)


def test_what_has_not_changed_is_not_written_again(host: Path, copy: Path) -> None:
    keep_etc(copy, USERS, host)
    before = {path: path.lstat().st_ino for path in copy.rglob("*")}
    keep_etc(copy, USERS, host)
    assert {path: path.lstat().st_ino for path in copy.rglob("*")} == before


ORDINARY_ROOT = "--bounding-set=-dac_override,-dac_read_search"
"""As a container may have it: root that a file's mode binds too."""
KEEP = (
    "import sys; from pathlib import Path; from overnight.agent.etc import keep_etc\n"
    "copy, users, host = map(Path, sys.argv[1:]); keep_etc(copy, users, host)\n"
)


def test_what_the_service_may_not_read_is_not_shown(host: Path, copy: Path) -> None:
    keep_etc(copy, USERS, host)
    (host / "hosts").write_text("now for root only")
    (host / "hosts").chmod(0)
    as_bound = ("setpriv", ORDINARY_ROOT) if os.geteuid() == 0 else ()
    command = (*as_bound, sys.executable, "-c", KEEP, copy, USERS, host)
    subprocess.run(command, check=True, timeout=60)
    assert not (copy / "hosts").exists()


def test_a_directory_that_the_host_has_no_more_stands_in_nobodys_way(host: Path, copy: Path) -> None:
    """A new image may lack what the one before had, and the data directory stays."""
    assert "ssl/certs" in keep_etc(copy, USERS, host)
    shutil.rmtree(host / "ssl")
    assert "ssl/certs" not in keep_etc(copy, USERS, host)
    assert list((copy / "ssl/certs").iterdir()) == []
    assert not (copy / "ssl/openssl.cnf").exists()


async def test_many_runs_may_begin_at_once(host: Path, copy: Path) -> None:
    (host / "services").write_bytes(os.urandom(1 << 20))

    def keep() -> bytes:
        keep_etc(copy, USERS, host)
        return (copy / "services").read_bytes()

    found = await asyncio.gather(*(asyncio.to_thread(keep) for _ in range(16)))
    assert set(found) == {(host / "services").read_bytes()}
    assert [path.name for path in copy.parent.iterdir()] == ["etc"]


def on_the_host() -> tuple[dict[str, str | None], set[str]]:
    """The top of /etc as far as it is shown, files with their text, and the names of certificates."""
    top = [Path("/etc", name.partition("/")[0]) for name in SHOWN if Path("/etc", name).exists()]
    certificates = {path.name for path in Path("/etc/ssl/certs").iterdir()}
    return {path.name: path.read_text() if path.name == "hosts" else None for path in top}, certificates


@pytest.mark.parametrize("base", [0, 45_000])
async def test_a_sandbox_has_the_hosts_and_can_change_nothing(tmp_path: Path, base: int) -> None:
    if base and os.geteuid() != 0:
        pytest.skip("only root can give runs users of their own")
    joiner, program = Joiner(), tmp_path / "program"
    program.write_text(LOOK)
    program.chmod(0o755)
    machine = Machine(data=tmp_path, joiner=joiner, readable=(A_TOOLS_OWN,))
    tier = make_tier("namespace", install_launcher(tmp_path), machine)
    assert tier is not None
    async with Slots(base, (tmp_path / "slots", MACHINE_WIDE)).taken() as owner:
        home = tmp_path / "w/home"
        workspace = Workspace(
            root=tmp_path / "w",
            files=tmp_path / "w/files",
            home=home,
            transcripts=home / ".c/p/x",
            owner=owner,
        )
        for directory in (workspace.files, home):
            directory.mkdir(parents=True)
            if owner is not None:
                os.chown(directory, *owner)
        async with tier.network(workspace) as network:
            environment = {MARK: "etc-of-a-sandbox", "PATH": os.defpath}
            launcher = tier.launch(workspace, environment, program, network)
            process = await asyncio.create_subprocess_exec(
                launcher, env={}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            with contextlib.closing(await network.listeners()):
                said = (await process.communicate())[0].decode()
    await joiner.close()
    users, hosts, listed, refused = said.split("--\n")
    uid = owner[0] if owner else 1000
    assert users.splitlines()[:3] == ["agent", "agent", f"agent:x:{uid}:{uid}:agent:/home/agent:/bin/bash"]
    top, certificates = on_the_host()
    assert hosts == top.pop("hosts")
    shown = {"passwd", "group", "hosts", A_TOOLS_OWN.name, *top}
    assert set(listed.split("\n\n")[0].splitlines()[1:]) == shown
    assert certificates <= set(listed.split())
    assert "can be written to" not in refused
    assert refused.count("Read-only file system") == 3, refused
