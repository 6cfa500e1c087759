"""What each tier adds to the start of a program: `true`, from the order to its exit. See bench/README.md."""

import argparse
import asyncio
import contextlib
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from overnight.agent.isolation import Machine, make_tier
from overnight.agent.network import Joiner
from overnight.agent.processes import MARK
from overnight.agent.slots import MACHINE_WIDE, Slots
from overnight.agent.tiers import Tier, install_launcher, open_data
from overnight.ports import Owner, Workspace
from overnight.settings import load

PLAIN = "plain exec"
TRUE = Path("/bin/true")
TARGET_MS = 20.0


def workspace_in(root: Path, owner: Owner | None) -> Workspace:
    home = root / "home"
    workspace = Workspace(
        root=root, files=root / "files", home=home, transcripts=home / ".claude/projects/bench", owner=owner
    )
    for directory in (workspace.files, home):
        directory.mkdir(parents=True)
        if owner is not None:
            os.chown(directory, *owner)
    return workspace


async def run_plain() -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(TRUE)
    await process.wait()
    return time.perf_counter() - started


async def run_in(tier: Tier, workspace: Workspace) -> float:
    """All that a run pays: its network, the files of its launcher, the sandbox, and the hand-over."""
    started = time.perf_counter()
    async with tier.network(workspace) as network:
        opening = asyncio.create_task(network.listeners())
        environment = {MARK: secrets.token_urlsafe(16), "PATH": os.defpath}
        launcher = tier.launch(workspace, environment, TRUE, network)
        process = await asyncio.create_subprocess_exec(launcher, env={})
        assert await process.wait() == 0
        elapsed = time.perf_counter() - started
        with contextlib.closing(await opening):
            return elapsed


async def measure(rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {PLAIN: []}
    with tempfile.TemporaryDirectory() as directory:
        data, joiner = Path(directory), Joiner()
        machine, launcher = Machine(data=data, joiner=joiner), install_launcher(data)
        slots = Slots(load().uid_base, (data / "slots", MACHINE_WIDE))
        open_data(data)
        async with slots.taken() as owner:
            for number in range(rounds + 1):
                times[PLAIN].append(await run_plain())
                for label, name, user in variants(owner):
                    if (tier := make_tier(name, launcher, machine)) is not None:
                        workspace = workspace_in(data / f"{label}-{number}", user)
                        times.setdefault(label, []).append(await run_in(tier, workspace))
        await joiner.close()
    return {name: taken[1:] for name, taken in times.items()}  # the first round starts the helper


def variants(owner: Owner | None) -> Iterator[tuple[str, str, Owner | None]]:
    """Label, tier, and user of the run."""
    for name in ("none", "landlock", "namespace"):
        yield name, name, None
    if owner is not None:
        for name in ("uid", "landlock", "namespace"):
            yield f"{name}, own user", name, owner


def report(times: dict[str, list[float]]) -> bool:
    plain = statistics.median(times[PLAIN])
    print("| tier | median ms | [least-most] | over plain exec, ms |\n|---|---|---|---|")
    for name, taken in times.items():
        median = statistics.median(taken)
        spread = f"{min(taken) * 1000:.1f}-{max(taken) * 1000:.1f}"
        print(f"| {name} | {median * 1000:.1f} | [{spread}] | {(median - plain) * 1000:.1f} |")
    slowest = max(statistics.median(taken) for name, taken in times.items() if name.startswith("namespace"))
    return (slowest - plain) * 1000 <= TARGET_MS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    met = report(asyncio.run(measure(parser.parse_args().rounds)))
    print(f"\ntarget: `namespace` at most {TARGET_MS:.0f} ms over plain exec: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
