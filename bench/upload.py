"""Pack and upload: at once, against each alone. Run as `python -m bench.upload`; see bench/README.md."""

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from overnight.adapters.supabase import Access, SupabaseArchives, supabase_archives
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.archive import Part, pack
from overnight.flows.growth import GrowingFile

MIB = 1024 * 1024
FILE_MIB = 32
NAME = "claude-code/bench/job.1.zip"
KEY = "sb_secret_made_up"
ROOT = Path(__file__).parent.parent


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--mib", type=int, default=2048)
    options.add_argument(
        "--uplinks", type=float, nargs="*", default=[40.0, 150.0, 0.0], help="MB/s; 0: no limit"
    )
    options.add_argument("--runs", type=int, default=1)
    options.add_argument("--client", nargs=4, metavar=("MODE", "URL", "TREE", "ZIP"))
    chosen = options.parse_args()
    if chosen.client:
        mode, url, tree, archive = chosen.client
        print(json.dumps(asyncio.run(client(mode, url, Path(tree), Path(archive)))))
    else:
        compare(chosen.mib, chosen.uplinks, chosen.runs)


def compare(mib: int, uplinks: list[float], runs: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        tree = made_tree(Path(place) / "tree", mib)
        print(f"{mib} MiB, medians of {runs}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(
            "| uplink MB/s | pack s | upload s | at once s | to the slower | CPU s | MB above idle: up, down |"
        )
        print("|---|---|---|---|---|---|---|")
        for uplink in uplinks:
            rounds = [one_round(Path(place), tree, uplink) for _ in range(runs)]
            print(row(uplink, rounds), flush=True)


def row(uplink: float, rounds: list[dict[str, dict[str, float]]]) -> str:
    def middle(mode: str, what: str = "seconds") -> float:
        return median(found[mode][what] for found in rounds)

    alone, both = max(middle("pack"), middle("upload")), middle("both")
    cpu = ", ".join(f"{middle(mode, 'cpu'):.1f}" for mode in ("pack", "upload", "both"))
    return (
        f"| {uplink or 'none'} | {middle('pack'):.1f} | {middle('upload'):.1f} | {both:.1f} | {both / alone:.2f} | "
        f"{cpu} | {middle('both', 'memory') / 1e6:.0f}, {middle('download', 'memory') / 1e6:.0f} |"
    )


def one_round(place: Path, tree: Path, uplink: float) -> dict[str, dict[str, float]]:
    """The archive of `pack` is what is uploaded alone; that of `both` is downloaded."""
    archive = place / "a.zip"
    found: dict[str, dict[str, float]] = {}
    for modes in (("pack", "upload"), ("both", "download")):
        with server(emptied(place / "bucket"), uplink) as url:
            found |= {mode: run(mode, url, tree, archive) for mode in modes}
    return found


def run(mode: str, url: str, tree: Path, archive: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.upload", "--client", mode, url, str(tree), str(archive)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


@contextlib.contextmanager
def server(bucket: Path, uplink: float) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.supabase_server", str(bucket), str(uplink * 1e6)]
    with subprocess.Popen(
        command, cwd=ROOT, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


async def client(mode: str, url: str, tree: Path, archive: Path) -> dict[str, float]:
    access = Access(url=url, key=KEY)
    async with supabase_archives(
        access, notes=archive.parent / "notes", clock=SystemClock(), entropy=SystemEntropy()
    ) as archives:
        await archives.check()
        work = MODES[mode]
        idle = highest_memory(reset=True)
        started, spent = time.monotonic(), time.process_time()
        await work(archives, tree, archive)
        return {
            "seconds": time.monotonic() - started,
            "cpu": time.process_time() - spent,
            "memory": highest_memory() - idle,
        }


async def pack_alone(_: SupabaseArchives, tree: Path, archive: Path) -> None:
    await asyncio.to_thread(packed, tree, archive, lambda _: None)


async def upload_alone(archives: SupabaseArchives, _: Path, archive: Path) -> None:
    await archives.put(NAME, archive)


async def at_once(archives: SupabaseArchives, tree: Path, archive: Path) -> None:
    growth = GrowingFile()
    await asyncio.to_thread(archive.touch)

    async def packing() -> None:
        growth.finish(await asyncio.to_thread(packed, tree, archive, growth.wrote))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(packing())
        tasks.create_task(archives.put(NAME, archive, growth=growth))


async def download(archives: SupabaseArchives, _: Path, archive: Path) -> None:
    await archives.fetch(NAME, archive.with_suffix(".back"))


MODES: dict[str, Callable[[SupabaseArchives, Path, Path], Awaitable[None]]] = {
    "pack": pack_alone,
    "upload": upload_alone,
    "both": at_once,
    "download": download,
}


class Telling(io.FileIO):
    """A new file that tells how much was written to it."""

    def __init__(self, path: Path, wrote: Callable[[int], None]) -> None:
        super().__init__(path, "w")
        self._wrote = wrote
        self.size = 0

    def write(self, data: Any) -> int:
        self.size += super().write(data)
        self._wrote(self.size)
        return len(data)


def packed(tree: Path, archive: Path, wrote: Callable[[int], None]) -> int:
    with Telling(archive, wrote) as file:
        pack([Part(tree, "")], file)
        return file.size


def made_tree(tree: Path, mib: int) -> Path:
    """Half of every block is noise, so that deflate has work and finds something."""
    tree.mkdir()
    for number in range(mib // FILE_MIB):
        with (tree / f"{number:04}.bin").open("wb") as file:
            for _ in range(FILE_MIB):
                file.write(os.urandom(MIB // 2) + bytes(range(256)) * (MIB // 512))
    return tree


def emptied(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    return directory


def highest_memory(*, reset: bool = False) -> int:
    """Bytes that were resident at the highest point since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
