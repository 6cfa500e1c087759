"""Choose the tier of isolation by attacking it, never by looking at versions."""

import asyncio
import os
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from overnight.agent.attack import Findings, attack
from overnight.agent.landlock import Landlock
from overnight.agent.limits import RunLimits
from overnight.agent.network import Joiner
from overnight.agent.own_user import OwnUser
from overnight.agent.slots import Slots
from overnight.agent.tiers import Namespace, Tier, Unconfined, install_launcher, open_data

Wanted = Literal["auto", "namespace", "landlock", "uid", "none"]

LADDER = ("none", "uid", "landlock", "namespace")
"""From the weakest."""

_REMEDIES = {
    "namespace": (
        "install bubblewrap (`apt-get install bubblewrap`) and allow unprivileged user namespaces "
        "(`sysctl user.max_user_namespaces`; on Ubuntu `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; a "
        "default Docker container does not allow them)"
    ),
    "landlock": "use a kernel of 6.7 or newer that is booted with `landlock` among its security modules (`lsm=`)",
    "uid": (
        "run the service as root with the capabilities CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID and SETUID, keep "
        "OVERNIGHT_UID_BASE above 0, and let every user pass the directories above OVERNIGHT_DATA and above Claude "
        "Code (`chmod o+x`), or put them elsewhere"
    ),
}


class IsolationUnavailable(Exception):
    """The wanted tier does not hold here. The message says what failed and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """The tier that runs are kept in, and what was measured of it. `failures`: why it is no better one."""

    tier: Tier
    properties: Mapping[str, bool] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    @property
    def owned(self) -> bool:
        """Whether each run gets a user of its own."""
        return self.properties.get("own_user", False)

    @property
    def report(self) -> str:
        """One line for the operator."""
        broken = [name for name, holds in self.properties.items() if not holds]
        held = len(self.properties) - len(broken)
        but = f", broken: {', '.join(broken)}" if broken else ""
        line = (
            f"{self.tier.name} (attacked at start-up, {held} of {len(self.properties)} properties held{but})"
        )
        if self.tier.name == "none":
            line = "none: RUNS ARE NOT ISOLATED and can read and change all that this service can"
        return ". ".join([line, *self.failures])

    def refusal(self, minimum: str) -> str | None:
        """Why no job may be run with this, if `minimum` is the least."""
        if LADDER.index(self.tier.name) >= LADDER.index(minimum):
            return None
        override = (
            "What is queued stays queued. To run agents that can read and change everything that this service can, "
            "set OVERNIGHT_ALLOW_UNSANDBOXED=i-understand"
        )
        return ". ".join(
            [
                f"NO JOBS ARE RUN: the isolation here is `{self.tier.name}`, below OVERNIGHT_MIN_ISOLATION={minimum}",
                *self.failures,
                override,
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What tiers are made with. `data` is the directory that workspaces will lie in, `cli` is Claude Code, where
    tiers are not to be believed that cannot start it."""

    data: Path
    joiner: Joiner
    limits: RunLimits = field(default_factory=RunLimits)
    readable: tuple[Path, ...] = ()
    slots: Slots = field(default_factory=lambda: Slots(base=0, directories=()))
    cli: Path | None = None


async def choose_tier(wanted: Wanted, machine: Machine) -> Isolation:
    """The best that holds, or the wanted one. Raises IsolationUnavailable."""
    launcher = await asyncio.to_thread(install_launcher, machine.data)
    if wanted == "none":
        return Isolation(tier=unconfined(launcher), failures=("OVERNIGHT_ISOLATION is set to none",))
    await asyncio.to_thread(_check_readable, machine.readable, machine.data)
    failures: list[str] = []
    for name in tuple(reversed(LADDER))[:-1] if wanted == "auto" else (wanted,):
        tried = await try_tier(name, launcher, machine)
        if tried.tier is not None and not tried.broken:
            told = (*failures, *tried.notes)
            return Isolation(tier=tried.tier, properties=tried.findings.properties, failures=told)
        failures.append(_explain(name, tried.broken))
    if wanted != "auto":
        raise IsolationUnavailable(
            f"{failures[-1]}. Or set OVERNIGHT_ISOLATION=auto to take the best that holds."
        )
    return Isolation(tier=unconfined(launcher), failures=tuple(failures))


async def attack_every_tier(machine: Machine) -> dict[str, Findings]:
    """What an agent could do here in each tier, whichever is in force."""
    launcher = await asyncio.to_thread(install_launcher, machine.data)
    return {name: (await try_tier(name, launcher, machine)).findings for name in reversed(LADDER)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What an attack on a tier found, and what of it its name forbids. `notes`: what the operator should know of
    a tier that holds all the same."""

    tier: Tier | None
    findings: Findings
    broken: list[str]
    notes: tuple[str, ...] = ()


async def try_tier(name: str, launcher: Path, machine: Machine) -> Tried:
    """With a user of its own for the run, if there can be one; else, or if that does not hold, without."""
    tier = make_tier(name, launcher, machine)
    if tier is None:
        missing = Findings(complaint="bubblewrap is not here")
        return Tried(tier=None, findings=missing, broken=missing.failures(name))
    notes: tuple[str, ...] = ()
    if machine.slots.owned and name != "none":
        owned = await _try_with_owner(name, tier, machine)
        if not owned.broken or name == "uid":
            return owned
        notes = (f"Runs have no user of their own: {'; '.join(owned.broken)}. Remedy: {_REMEDIES['uid']}",)
    findings = await attack(tier, machine.data, cli=machine.cli)
    return Tried(tier=tier, findings=findings, broken=findings.failures(name), notes=notes)


async def _try_with_owner(name: str, tier: Tier, machine: Machine) -> Tried:
    """The way to the workspaces is left open only if that was of use."""
    before = (await asyncio.to_thread(machine.data.stat)).st_mode
    try:
        async with machine.slots.taken() as owner:
            if tier.on_host:
                await asyncio.to_thread(open_data, machine.data)
            findings = await attack(tier, machine.data, owner=owner, cli=machine.cli)
    except OSError as error:
        findings = Findings(complaint=str(error))
    broken = findings.failures(name)
    if broken and tier.on_host:
        await asyncio.to_thread(machine.data.chmod, stat.S_IMODE(before))
    return Tried(tier=tier, findings=findings, broken=broken)


def make_tier(name: str, launcher: Path, machine: Machine) -> Tier | None:
    """None if what it is made of is not installed."""
    if name == "none":
        return unconfined(launcher)
    if name == "landlock":
        return Landlock(
            launcher=launcher, limits=machine.limits, readable=machine.readable, as_root=os.geteuid() == 0
        )
    if name == "uid":
        return OwnUser(launcher=launcher, limits=machine.limits)
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or bwrap is None:
        return None
    return Namespace(
        launcher=launcher,
        bwrap=Path(bwrap),
        etc=machine.data / "sandbox" / "etc",
        joiner=machine.joiner,
        limits=machine.limits,
        readable=machine.readable,
        setpriv=_setpriv(),
    )


def unconfined(launcher: Path) -> Unconfined:
    return Unconfined(launcher=launcher, setpriv=_setpriv(), as_root=os.geteuid() == 0)


def _setpriv() -> Path | None:
    found = shutil.which("setpriv")
    return Path(found) if found else None


def _explain(name: str, failures: list[str]) -> str:
    return f"The tier `{name}` does not hold here: {'; '.join(failures)}. Remedy: {_REMEDIES[name]}"


def _check_readable(readable: tuple[Path, ...], data: Path) -> None:
    """A wrong setting must not lead to a run without isolation, so `auto` does not forgive it."""
    for path in readable:
        if not path.is_absolute() or not path.exists():
            raise IsolationUnavailable(
                f"OVERNIGHT_SANDBOX_READABLE: {path} is not an absolute path that exists."
            )
        if data.resolve().is_relative_to(path.resolve()):
            raise IsolationUnavailable(
                f"OVERNIGHT_SANDBOX_READABLE: {path} holds the data directory, so runs could read each other's "
                "sessions. Name a directory beside it."
            )
