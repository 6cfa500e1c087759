"""The archive engine beside the standard library and the usual tools. See bench/README.md.

All is done below --dir, which should lie on tmpfs: on ext4 such a run measures ext4 (facts: archive 7).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.packers import COPY, EXTRACT_ALL, OURS, STDLIB, extract_all, pack_tree, pack_with_stdlib, run
from bench.repack import bench_repack, bench_warm
from bench.rounds import Contender, Target, report, take_turns
from bench.trees import MB, PLANS, make_tree

from overnight.archive import Base, Part, pack, unpack

PACK_TARGETS = {"S": 3.5, "M": 3.5, "L": 8.0}
LARGEST_SIZE = 1.20
MEMORY_TARGETS = {"S": 40, "M": 40, "L": 80}


def bench_pack(plan: str, tree: Path, rounds: int, place: Path) -> None:
    sizes: dict[str, int] = {}

    def noting_size(name: str, work: Callable[[Path, Path], None]) -> Contender:
        def contender(fresh: Path) -> None:
            work(tree, fresh / "a.zip")
            sizes[name] = (fresh / "a.zip").stat().st_size

        return contender

    contenders = {
        name: noting_size(name, work) for name, work in ((OURS, pack_tree), (STDLIB, pack_with_stdlib))
    }
    taken = take_turns(contenders, rounds, place)
    notes = {
        name: f"{size / MB:.1f} MB, {size / sizes[STDLIB]:.2f} of stdlib" for name, size in sizes.items()
    }
    report(taken, STDLIB, [Target(OURS, STDLIB, least=PACK_TARGETS[plan])], notes)
    share = sizes[OURS] / sizes[STDLIB]
    print(f"- size: {share:.2f}, at most {LARGEST_SIZE}: {'met' if share <= LARGEST_SIZE else 'MISSED'}")


def bench_unpack(_: str, tree: Path, rounds: int, place: Path) -> None:
    """All three write into fresh directories; ours also judges, restores modes, times and links."""
    archive = place / "tree.zip"
    pack_tree(tree, archive)
    contenders: dict[str, Contender] = {
        EXTRACT_ALL: lambda fresh: extract_all(archive, fresh / "out"),
        OURS: lambda fresh: unpack(archive, {"": fresh / "out"}),
        COPY: lambda fresh: run("cp", "-a", tree, fresh / "out"),
    }
    if shutil.which("unzip"):
        contenders["unzip"] = lambda fresh: run("unzip", "-q", archive, "-d", fresh / "out")
    taken = take_turns(contenders, rounds, place)
    report(taken, EXTRACT_ALL, [Target(OURS, EXTRACT_ALL, least=1.8), Target(OURS, COPY, most=1.5)], {})


def bench_memory(plan: str, tree: Path, rounds: int, place: Path) -> None:
    """Peak resident size of a process of its own, above what it had with all imports done."""
    archive = place / "tree.zip"
    pack([Part(tree, "")], archive, exclude=(), record=place / "tree.record")
    print("| work | MB above baseline, the most of the rounds | |\n|---|---|---|")
    for work, source in (("pack", tree), ("repack", tree), ("unpack", archive)):
        peaks = []
        for number in range(rounds):
            fresh = place / f"{work}-{number}"
            fresh.mkdir()
            command = [sys.executable, "-m", "bench.archive", "peak", work, str(source), str(fresh)]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            shutil.rmtree(fresh)
        met = "met" if max(peaks) <= MEMORY_TARGETS[plan] * MB else "MISSED"
        print(f"| {work} | {max(peaks) / MB:.0f} | at most {MEMORY_TARGETS[plan]}: {met} |")


def peak(work: str, source: Path, fresh: Path) -> int:
    before = _status_bytes("VmRSS")
    if work == "pack":
        pack_tree(source, fresh / "a.zip")
    elif work == "repack":
        base = Base(fresh.parent / "tree.zip", fresh.parent / "tree.record")
        pack([Part(source, "")], fresh / "a.zip", exclude=(), base=base, record=fresh / "a.record")
    else:
        unpack(source, {"": fresh / "out"})
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


BENCHES = {
    "pack": bench_pack,
    "unpack": bench_unpack,
    "repack": bench_repack,
    "warm": bench_warm,
    "memory": bench_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="bench", required=True)
    for name, bench in BENCHES.items():
        command = commands.add_parser(name, description=bench.__doc__)
        command.add_argument("--tree", choices=PLANS, default="M")
        command.add_argument("--rounds", type=int, default=5)
        command.add_argument("--dir", type=Path, required=True, help="all is made in here; best on tmpfs")
    inner = commands.add_parser("peak", description="What `memory` runs in a process of its own.")
    inner.add_argument("work", choices=["pack", "repack", "unpack"])
    inner.add_argument("source", type=Path)
    inner.add_argument("fresh", type=Path)
    asked = parser.parse_args()
    if asked.bench == "peak":
        print(peak(asked.work, asked.source, asked.fresh))
        return
    asked.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.dir, prefix="bench-") as scratch:
        place = Path(scratch)
        make_tree(PLANS[asked.tree], place / "tree")
        BENCHES[asked.bench](asked.tree, place / "tree", asked.rounds, place)


if __name__ == "__main__":
    main()
