"""The tier is proved by an attack: what does not hold is not believed."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

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
    assert [path.name for path in machine.data.iterdir()] == ["launch"], "the attack leaves nothing behind"
    assert chosen.refusal("namespace") is None


@pytest.mark.parametrize("tier", ["namespace", "landlock"])
async def test_a_tier_has_all_the_properties_that_its_name_promises(choose: Choose, tier: Wanted) -> None:
    properties = (await choose(tier)).properties
    assert {name for name, holds in properties.items() if holds} >= REQUIRED[tier]


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
