"""Where the service is root, each run is a user of its own: what belongs to others is out of its reach."""

import os
from typing import Any

import pytest

from overnight.agent.attack import REQUIRED

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give runs users of their own"),
]

ME = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/self/status; stat -c 'home %u' $HOME; stat -c 'here %u' ."


@pytest.mark.parametrize("tier", ["namespace", "landlock", "uid"])
async def test_it_is_that_user_and_has_no_groups_and_no_rights(attacker_in: Any, tier: str) -> None:
    async with attacker_in(tier) as it:
        uid, gid = it.workspace.owner
        seen = (await it.bash(ME)).replace("\\t", "\t").split("\n")
    told = dict(line.split(":", 1) for line in seen if ":" in line)
    assert told["Uid"].split() == [str(uid)] * 4
    assert told["Gid"].split() == [str(gid)] * 4
    assert told["Groups"].split() == []
    assert told["NoNewPrivs"].split() == ["1"]
    assert {told[name].strip(" \t0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert f"home {uid}" in seen
    assert f"here {uid}" in seen


@pytest.mark.parametrize("tier", ["namespace", "landlock", "uid"])
async def test_all_that_the_tier_promises_was_measured(attacker_in: Any, tier: str) -> None:
    async with attacker_in(tier) as it:
        held = {name for name, holds in it.agent.isolation_properties.items() if holds}
    assert held >= REQUIRED[tier] | {"own_user", "process_limit", "signals"}


async def test_two_runs_at_once_are_two_users(attacker_in: Any) -> None:
    async with attacker_in("uid") as it, it.agent.slot() as other:
        assert other.owner is not None
        assert other.owner != it.workspace.owner


async def test_the_user_alone_keeps_it_from_the_service_and_from_other_runs(attacker_in: Any) -> None:
    """In the tier that has nothing else. It may know every path."""
    async with attacker_in("uid") as it, it.agent.slot() as slot:
        data, other = it.agent.settings.data, it.workspace.root.parent / "other"
        (other / "files").mkdir(parents=True)
        (other / "files" / "secret").write_text("OF-ANOTHER-TENANT")
        (data / "overnight.db").write_text("OF-THE-SERVICE")
        (data / "overnight.db").chmod(0o600)  # as the service makes it (its umask)
        for path in (other / "files", other / "files" / "secret"):
            os.chown(path, *slot.owner)
        (other / "files").chmod(0o700)
        other.chmod(0o711)
        seen = await it.bash(
            f"cat {other}/files/secret {data}/overnight.db {it.workspace.root}/run.json"
            f" {it.workspace.root}/run/order /proc/{os.getpid()}/environ;"
            f" ls {data} {data}/runs {it.workspace.root}; kill -0 {os.getpid()} || echo cannot signal; id -u"
        )
    assert str(it.workspace.owner[0]) in seen
    assert "OF-" not in seen
    assert "other" not in seen.replace(str(other), "")
    assert seen.count("Permission denied") >= 7
    assert "cannot signal" in seen


async def test_what_is_kept_of_a_run_is_closed_to_the_user_s_next_run(attacker_in: Any) -> None:
    async with attacker_in("uid") as it:
        await it.bash("echo OF-AN-EARLIER-JOB > kept")
        assert it.workspace.root.stat().st_mode & 0o777 == 0o700
        kept, again = it.files / "kept", it.workspace.root.with_name("next")
        it.workspace = it.moved_to(again)
        seen = await it.bash(f"cat {kept}; id -u")
    assert str(it.workspace.owner[0]) in seen
    assert "OF-AN-EARLIER-JOB" not in seen


@pytest.mark.parametrize("tier", ["namespace", "landlock", "uid"])
async def test_processes_are_counted(attacker_in: Any, tier: str) -> None:
    """The attack at the start forks until it is refused. One from inside a run would starve Claude Code of threads."""
    async with attacker_in(tier, sandbox_processes=300) as it:
        assert it.agent.isolation_properties["process_limit"]
