"""Gigabytes of a session from one machine to the next, with the real Claude Code.

Run as `python -m bench.large_workspace`; see bench/README.md.

One job makes the files, half of them noise and half of them base64, which deflates by a quarter. Another, of a service
with a new data directory that has only the ledger and the archive store, must find the same checksums. The verdict is
on that and on the memory of the services, beside what they take when idle.
"""

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.e2e.service import Service, lines, services
from tests.supabase_server.app import storage_server
from tests.supabase_server.bucket import SECRET, Project

MIB = 1024 * 1024
PAIRS = 4
MOST_ABOVE_IDLE = 80 * 10**6
"""Bytes of resident memory that a service may take for its busiest moment, beside what it takes when idle."""
STORES = ("directory", "supabase")


@dataclass(frozen=True)
class Job:
    """`seconds` from start to final status; `busiest` is resident bytes above idle, of the service that ran it."""

    seconds: float
    busiest: int
    events: Mapping[str, Mapping[str, Any]]
    """The last of each type."""


@dataclass(frozen=True)
class Carried:
    made: Job
    found: Job

    @property
    def whole(self) -> bool:
        """Whether the second machine restored the archive and found every file as it was."""
        ready, saved = self.found.events["workspace.ready"], self.made.events["workspace.saved"]
        fetched = ready["source"] == "archive" and ready["fetched_bytes"] == saved["size"]
        return fetched and SAME in str(self.found.events["tool.finished"])

    @property
    def busiest(self) -> int:
        return max(self.made.busiest, self.found.busiest)


SAME = f"{2 * PAIRS} files are the same"
MAKE = (
    "bash for n in {numbers}; do head -c {size} /dev/urandom > noise.$n; "
    "base64 /dev/urandom | head -c {size} > text.$n; done"
)
SUM = "bash sha256sum noise.* text.* > sums; wc -l < sums"
LOOK = 'bash sha256sum --quiet -c sums && echo "$(wc -l < sums) files are the same" > verdict; cat verdict'


async def carry(mib: int, kind: str, place: Path) -> Carried:
    """Raises AssertionError if a job does not complete. `place` is an empty directory; all is left there."""
    async with services(place) as start, settings_of(kind, place) as settings:
        first = await start(data=place / "first", settings=settings)
        numbers = " ".join(map(str, range(PAIRS)))
        size = mib * MIB // (2 * PAIRS)
        made, session = await run(first, lines(MAKE.format(numbers=numbers, size=size), SUM, words="Make."))
        await first.terminate()
        second = place / "second"
        await asyncio.to_thread(move_the_ledger, place / "first", second)
        found, _ = await run(await start(data=second, settings=settings), lines(LOOK, words="Look."), session)
    return Carried(made, found)


async def run(service: Service, prompt: str, session: str | None = None) -> tuple[Job, str]:
    idle = measure_from_here(service)
    job = await service.submit(prompt, **({"session_id": session} if session else {}))
    done = await service.finished(job["job_id"], seconds=1500)
    assert done["status"] == "completed", done
    told = {event["type"]: event["data"] for event in await service.events(job["job_id"])}
    seconds = at(done["completed_at"]) - at(done["started_at"])
    return Job(seconds, resident(service, "VmHWM") - idle, told), job["session_id"]


@asynccontextmanager
async def settings_of(kind: str, place: Path) -> AsyncIterator[Mapping[str, str]]:
    """As they are by default, but for a kept workspace: its space is wanted."""
    common = {"OVERNIGHT_LEASE_SECONDS": "15", "OVERNIGHT_WARM_WORKSPACES": "0"}
    if kind == "directory":
        yield common
        return
    bucket = place / "bucket"
    bucket.mkdir()
    async with storage_server(Project(bucket)) as server:
        yield common | {"SUPABASE_URL": server.url, "SUPABASE_SECRET_KEY": SECRET}


def move_the_ledger(old: Path, new: Path) -> None:
    """And the archives, if they are kept beside it. Everything else of the old machine is gone."""
    new.mkdir()
    for kept in [*old.glob("overnight.db*"), *old.glob("archives")]:
        kept.rename(new / kept.name)
    shutil.rmtree(old)


def measure_from_here(service: Service) -> int:
    """Bytes that are resident now; VmHWM begins anew."""
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")
    return resident(service, "VmRSS")


def resident(service: Service, what: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at the highest since it was reset."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{service.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--mib", type=int, default=2048)
    options.add_argument("--stores", nargs="*", choices=STORES, default=STORES)
    options.add_argument(
        "--place", type=Path, help="where to make a temporary directory; five times --mib are needed"
    )
    chosen = options.parse_args()
    print(f"{chosen.mib} MiB of files\n")
    print(
        "| store | archive MB | make and store s | restore, look and store s | MB above idle: first, second |"
    )
    print("|---|---|---|---|---|")
    verdicts = [measured(chosen.mib, kind, chosen.place) for kind in chosen.stores]
    print("\nOK" if all(verdicts) else "\nFAILED: a file differs, or more memory than allowed")
    sys.exit(not all(verdicts))


def measured(mib: int, kind: str, place: Path | None) -> bool:
    with tempfile.TemporaryDirectory(dir=place) as directory:
        Path(directory).chmod(0o711)  # users of runs pass through it
        carried = asyncio.run(carry(mib, kind, Path(directory)))
    made, found = carried.made, carried.found
    size = made.events["workspace.saved"]["size"]
    print(
        f"| {kind} | {size / 1e6:.0f} | {made.seconds:.1f} | {found.seconds:.1f} | "
        f"{made.busiest / 1e6:.0f}, {found.busiest / 1e6:.0f} |",
        flush=True,
    )
    return carried.whole and carried.busiest <= MOST_ABOVE_IDLE


if __name__ == "__main__":
    main()
