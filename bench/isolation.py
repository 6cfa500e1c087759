"""What each tier adds to the start of a program: `true`, from the order to its exit. See bench/README.md."""

import argparse
import asyncio
import contextlib
import os
import secrets
import statistics
import tempfile
import time
from pathlib import Path

from overnight.agent.isolation import Machine, make_tier
from overnight.agent.network import Joiner
from overnight.agent.processes import MARK
from overnight.agent.tiers import Tier, install_launcher
from overnight.ports import Workspace

PLAIN = "plain exec"
TRUE = Path("/bin/true")
TARGET_MS = 20.0


def workspace_in(root: Path) -> Workspace:
    home = root / "home"
    workspace = Workspace(
        root=root, files=root / "files", home=home, transcripts=home / ".claude/projects/bench"
    )
    workspace.files.mkdir(parents=True)
    home.mkdir()
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
        tiers = [make_tier(name, launcher, machine) for name in ("none", "landlock", "namespace")]
        for number in range(rounds + 1):
            times[PLAIN].append(await run_plain())
            for tier in tiers:
                if tier is not None:
                    workspace = workspace_in(data / f"{tier.name}-{number}")
                    times.setdefault(tier.name, []).append(await run_in(tier, workspace))
        await joiner.close()
    return {name: taken[1:] for name, taken in times.items()}  # the first round starts the helper


def report(times: dict[str, list[float]]) -> bool:
    plain = statistics.median(times[PLAIN])
    print("| tier | median ms | [least-most] | over plain exec, ms |\n|---|---|---|---|")
    for name, taken in times.items():
        median = statistics.median(taken)
        spread = f"{min(taken) * 1000:.1f}-{max(taken) * 1000:.1f}"
        print(f"| {name} | {median * 1000:.1f} | [{spread}] | {(median - plain) * 1000:.1f} |")
    return (statistics.median(times["namespace"]) - plain) * 1000 <= TARGET_MS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    met = report(asyncio.run(measure(parser.parse_args().rounds)))
    print(f"\ntarget: `namespace` at most {TARGET_MS:.0f} ms over plain exec: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
