"""The tier is proved by an attack: what does not hold is not believed."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from overnight.agent import seccomp
from overnight.agent.attack import REQUIRED, attack
from overnight.agent.isolation import (
    Isolation,
    IsolationUnavailable,
    Machine,
    Wanted,
    choose_tier,
    make_tier,
)
from overnight.agent.network import Joiner
from overnight.agent.slots import MACHINE_WIDE, Slots
from overnight.agent.tiers import install_launcher

Choose = Callable[..., Awaitable[Isolation]]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    data = tmp_path / "data"
    data.mkdir()
    joiner = Joiner()
    yield Machine(data=data, joiner=joiner)
    await joiner.close()


@pytest.fixture
def choose(machine: Machine) -> Choose:
    async def chosen(wanted: Wanted, *readable: Path) -> Isolation:
        return await choose_tier(wanted, Machine(data=machine.data, joiner=machine.joiner, readable=readable))

    return chosen


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Put a program in the place of bwrap; None: there is none."""

    def install(script: str | None) -> None:
        directory = tmp_path / "bin"
        directory.mkdir()
        if script is not None:
            (directory / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
            (directory / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", str(directory))

    return install


async def test_bubblewrap_is_proved(choose: Choose, machine: Machine) -> None:
    chosen = await choose("auto")
    assert chosen.tier.name == "namespace"
    assert chosen.failures == ()
    left = {path.name for path in machine.data.iterdir()}
    assert left == {"launch", "sandbox"}, "the attack leaves nothing behind"
    assert chosen.refusal("namespace") is None


@pytest.mark.parametrize("tier", ["namespace", "landlock"])
async def test_a_tier_has_all_the_properties_that_its_name_promises(choose: Choose, tier: Wanted) -> None:
    properties = (await choose(tier)).properties
    assert {name for name, holds in properties.items() if holds} >= REQUIRED[tier]


async def test_a_kernel_that_holds_no_forks_back_costs_a_property_and_not_the_tier(
    choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = dataclasses.replace(
        seccomp.filters(datagrams=False, ipc=True), held=b""
    )  # refused, as by an older kernel
    monkeypatch.setattr(seccomp, "filters", lambda **_: filters)
    chosen = await choose("landlock")
    assert (chosen.tier.name, chosen.properties["storms"]) == ("landlock", False)
    assert "broken: storms" in chosen.report or ", storms" in chosen.report
    monkeypatch.undo()
    assert (await choose("landlock")).properties["storms"]


async def test_the_attack_succeeds_where_nothing_stops_it(machine: Machine) -> None:
    """Else it would prove nothing of the tiers that withstand it."""
    tier = make_tier("none", install_launcher(machine.data), machine)
    assert tier is not None
    found = await attack(tier, machine.data)
    assert found.complaint is None
    missed = {name for name, holds in found.properties.items() if holds}
    # What a host's own settings may refuse to everyone, or to users other than root.
    assert missed <= {"raw_sockets", "process_limit", "limits"}


async def test_without_bubblewrap_the_ladder_goes_down_to_landlock(
    choose: Choose, programs: Callable[[str | None], None]
) -> None:
    programs(None)
    with pytest.raises(IsolationUnavailable, match="apt-get install bubblewrap"):
        await choose("namespace")
    chosen = await choose("auto")
    assert chosen.tier.name == "landlock"
    assert "bubblewrap" in chosen.report
    assert chosen.refusal("landlock") is None
    assert "apt-get install bubblewrap" in (chosen.refusal("namespace") or "")


async def test_a_bubblewrap_that_does_not_isolate_is_not_believed(
    choose: Choose, programs: Callable[[str | None], None]
) -> None:
    # It only changes to the workspace; its descriptor 3 is the file of arguments, which lies in `run`.
    programs(
        'export PATH=/usr/bin:/bin; run=$(dirname "$(readlink /proc/$$/fd/3)")\n'
        "sed -i 's,/run/overnight,'$run/given, $run/given/canary\n"
        'shift 3; cd "$run/../files" && exec "$run/given/canary" "$@"'
    )
    with pytest.raises(IsolationUnavailable) as refused:
        await choose("namespace")
    assert "`processes`: processes of the host can be seen" in str(refused.value)
    assert "`files`: a file outside of the workspace can be read" in str(refused.value)


async def test_a_bubblewrap_that_is_not_allowed_says_why(
    choose: Choose, programs: Callable[[str | None], None]
) -> None:
    programs("echo 'No permissions to create new namespace' >&2; exit 1")
    with pytest.raises(IsolationUnavailable, match="No permissions to create new namespace"):
        await choose("namespace")


@pytest.mark.parametrize("place", [".", "..", "absent"])
async def test_a_wrong_list_of_readable_directories_does_not_turn_isolation_off(
    choose: Choose, machine: Machine, place: str
) -> None:
    with pytest.raises(IsolationUnavailable, match="OVERNIGHT_SANDBOX_READABLE"):
        await choose("auto", machine.data / place)


async def test_none_is_what_it_says_and_runs_no_jobs(choose: Choose) -> None:
    chosen = await choose("none")
    assert chosen.tier.name == "none"
    assert chosen.tier.as_root == (os.geteuid() == 0)
    assert "NOT ISOLATED" in chosen.report
    refusal = chosen.refusal("landlock") or ""
    assert "NO JOBS ARE RUN" in refusal
    assert "OVERNIGHT_ALLOW_UNSANDBOXED=i-understand" in refusal


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give runs users of their own")


@pytest.fixture
def of_root(machine: Machine) -> Machine:
    return dataclasses.replace(machine, slots=Slots(42_000, (machine.data / "slots", MACHINE_WIDE)))


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o7777 for path in (directory, *directory.iterdir())}


@needs_root
@pytest.mark.parametrize("tier", ["landlock", "uid"])
async def test_the_way_to_workspaces_is_open_and_nothing_else_is(of_root: Machine, tier: Wanted) -> None:
    (of_root.data / "overnight.db").touch(mode=0o644)
    (of_root.data / "archives").mkdir(mode=0o755)
    assert (await choose_tier(tier, of_root)).owned
    found = modes(of_root.data)
    assert (found.pop("data"), found.pop("runs")) == (0o711, 0o711)
    assert not any(mode & 0o077 for mode in found.values()), found


@needs_root
async def test_workers_that_start_at_once_do_not_close_each_others_probes(of_root: Machine) -> None:
    found = await asyncio.gather(*(choose_tier("uid", of_root) for _ in range(4)))
    assert [one.failures for one in found] == [()] * 4


def test_a_launcher_is_installed_beside_what_a_process_of_the_same_number_writes(tmp_path: Path) -> None:
    """As in two containers that share the directory: each is number 1 there."""
    (tmp_path / f"launch.{os.getpid()}").mkdir()
    assert os.access(install_launcher(tmp_path), os.X_OK)


@needs_root
async def test_a_namespace_needs_no_way_and_has_all_the_properties_there_are(of_root: Machine) -> None:
    of_root.data.chmod(0o700)
    chosen = await choose_tier("auto", of_root)
    assert (chosen.tier.name, chosen.failures) == ("namespace", ())
    assert all(chosen.properties.values()), chosen.report
    assert of_root.data.stat().st_mode & 0o7777 == 0o700


@needs_root
async def test_where_users_cannot_pass_a_tier_goes_on_without_them_and_says_so(of_root: Machine) -> None:
    above = of_root.data.parent
    above.chmod(0o700)
    of_root.data.chmod(0o750)
    with pytest.raises(IsolationUnavailable, match="chmod o\\+x"):
        await choose_tier("uid", of_root)
    chosen = await choose_tier("landlock", of_root)
    assert not chosen.owned
    assert "Runs have no user of their own" in chosen.report
    assert of_root.data.stat().st_mode & 0o7777 == 0o750, "what was of no use is undone"


@needs_root
async def test_a_directory_that_others_write_to_is_not_taken_for_ours(of_root: Machine) -> None:
    of_root.data.chmod(0o1777)
    (of_root.data / "theirs").touch(mode=0o644)
    with pytest.raises(IsolationUnavailable, match="alone to write to"):
        await choose_tier("uid", of_root)
    assert of_root.data.stat().st_mode & 0o7777 == 0o1777
    assert (of_root.data / "theirs").stat().st_mode & 0o777 == 0o644


async def test_who_is_not_root_has_no_tier_of_users(choose: Choose) -> None:
    """Here by a machine that has no users to give."""
    with pytest.raises(IsolationUnavailable, match="OVERNIGHT_UID_BASE"):
        await choose("uid")
