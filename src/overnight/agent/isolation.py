"""Choose the tier of isolation by running a probe inside it, never by looking at versions."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from overnight.agent import processes
from overnight.agent.tiers import Namespace, Tier, Unconfined, install_launcher
from overnight.ports import Workspace

PROBE_SECONDS = 20.0

_REMEDY = (
    "Install bubblewrap (`apt-get install bubblewrap`) and allow unprivileged user namespaces "
    "(`sysctl user.max_user_namespaces`, on Ubuntu also `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; "
    "a default Docker container does not allow them), or set OVERNIGHT_ISOLATION=none to run without isolation."
)

# Run in place of Claude Code. Each line that it prints is a finding; what must hold is in `_judge`.
_PROBE = """#!/bin/sh
echo "namespace $(readlink /proc/self/ns/pid)"
[ -e "$1" ] && echo outside
tr '\\0' '\\n' </proc/1/environ | grep -q "$2" && echo environment
: >./probe && echo writable
setsid sleep 600 </dev/null >/dev/null 2>&1 &
echo end
"""


class IsolationUnavailable(Exception):
    """The wanted tier does not hold here. The message says what failed and what to do."""


@dataclass(frozen=True, slots=True)
class _Finding:
    lines: tuple[str, ...]
    complaint: str


async def choose_tier(
    wanted: Literal["auto", "namespace", "none"], *, data: Path, readable: tuple[Path, ...] = ()
) -> Tier:
    """`data` is the directory that workspaces will lie in. Raises IsolationUnavailable."""
    launcher = await asyncio.to_thread(install_launcher, data)
    if wanted == "none":
        return _unconfined(launcher, "OVERNIGHT_ISOLATION is set to none")
    await asyncio.to_thread(_check_readable, readable, data)
    try:
        return await _proven_namespace(launcher, data, readable)
    except IsolationUnavailable as unavailable:
        if wanted == "namespace":
            raise
        return _unconfined(launcher, str(unavailable))


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


def _unconfined(launcher: Path, reason: str) -> Unconfined:
    setpriv = shutil.which("setpriv")
    return Unconfined(
        launcher=launcher,
        setpriv=Path(setpriv) if setpriv else None,
        as_root=os.geteuid() == 0,
        report=f"none: RUNS ARE NOT ISOLATED and can read and change all that this service can. {reason}",
    )


async def _proven_namespace(launcher: Path, data: Path, readable: tuple[Path, ...]) -> Namespace:
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or bwrap is None:
        raise IsolationUnavailable(f"The namespace tier needs bubblewrap, which is not here. {_REMEDY}")
    tier = Namespace(launcher=launcher, bwrap=Path(bwrap), readable=readable)
    failures = _judge(await _probe(tier, data))
    if failures:
        raise IsolationUnavailable(f"The namespace tier does not hold here: {'; '.join(failures)}. {_REMEDY}")
    return tier


async def _probe(tier: Tier, data: Path) -> _Finding:
    mark, canary = secrets.token_urlsafe(16), secrets.token_hex(16)
    with tempfile.TemporaryDirectory(dir=data, prefix="probe-") as directory:
        launcher, secret = await asyncio.to_thread(_prepare, tier, Path(directory), mark)
        process = await asyncio.create_subprocess_exec(
            launcher,
            secret,
            canary,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "CANARY": canary},
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), PROBE_SECONDS)
        except TimeoutError:
            return _Finding((), f"the probe did not end within {PROBE_SECONDS:.0f} s")
        finally:
            left = await processes.end(mark)
            await process.wait()
    lines = tuple(out.decode(errors="replace").splitlines())
    return _Finding((*lines, "survivor") if left else lines, err.decode(errors="replace").strip()[-300:])


def _prepare(tier: Tier, root: Path, mark: str) -> tuple[Path, Path]:
    home, files, probe, secret = root / "home", root / "files", root / "probe", root / "secret"
    workspace = Workspace(root=root, files=files, home=home, transcripts=home / ".claude/projects/probe")
    files.mkdir()
    home.mkdir()
    secret.touch()
    probe.write_text(_PROBE, encoding="utf-8")
    probe.chmod(0o700)
    return tier.launch(workspace, {processes.MARK: mark, "PATH": os.defpath}, probe), secret


def _judge(finding: _Finding) -> list[str]:
    lines = finding.lines
    if "end" not in lines:
        return [f"the probe did not run ({finding.complaint or 'it said nothing'})"]
    failures = {
        "it shares the PID namespace of the host": f"namespace {Path('/proc/self/ns/pid').readlink()}"
        in lines,
        "a file outside of the workspace can be seen": "outside" in lines,
        "the environment of the service can be read": "environment" in lines,
        "the workspace cannot be written": "writable" not in lines,
        "a process that was left behind cannot be killed": "survivor" in lines,
    }
    return [failure for failure, failed in failures.items() if failed]
