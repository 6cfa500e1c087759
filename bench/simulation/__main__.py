"""A fleet and its jobs in virtual time: `python -m bench.simulation --workers 1000 --jobs 1000000`."""

import argparse
import gc
import resource
import sys
import time

from bench.simulation.plan import Fleet
from bench.simulation.world import Progress, Report, simulate


def main() -> None:
    asked = _asked()
    gc.disable()  # nothing here refers to itself, and millions of values would be looked through again and again
    fleet = Fleet(
        workers=asked.workers,
        jobs=asked.jobs,
        run_seconds=asked.run_seconds,
        load=asked.load,
        owners=asked.owners,
    )
    began = time.process_time(), time.perf_counter()
    report = simulate(fleet, seed=asked.seed, progress=_tell)
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{fleet.workers} workers, {fleet.jobs} jobs, seed {asked.seed}: every promise held.")
    print(
        f"{cpu:.0f} s of CPU, {wall:.0f} s of time, {memory:.1f} GB; {report.seconds / 3600:.1f} h of virtual time\n"
    )
    print("\n".join(_table(report, fleet.jobs)))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--run-seconds", type=float, default=15.0, help="mean of an attempt")
    parser.add_argument(
        "--load", type=float, default=0.6, help="with all that goes wrong 0.7 is more than all can do"
    )
    parser.add_argument("--owners", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _tell(progress: Progress) -> None:
    hours = progress.seconds / 3600
    print(
        f"{hours:.1f} h: {progress.ended:,} ended, {progress.open:,} open, {progress.messages:,} messages, "
        f"{progress.busy} workers busy",
        file=sys.stderr,
    )


def _table(report: Report, jobs: int) -> list[str]:
    half, most = report.waits[len(report.waits) // 2], report.waits[int(len(report.waits) * 0.99)]
    counts = {str(status): count for status, count in sorted(report.statuses.items())} | dict(
        sorted(report.tally.items())
    )
    rows = [f"| {what} | {count:,} | {count / jobs:.3f} |" for what, count in counts.items()]
    wait = f"\nFrom acceptance to the first start: {half:.1f} s at the median, {most:.0f} s for 99 of 100."
    return ["| what | count | per job |", "|---|---:|---:|", *rows, wait]


if __name__ == "__main__":
    main()
