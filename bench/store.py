"""Durable creates per second, in turns: 64 waiters that share commits, and one commit per request."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.domain.job import JobRequest
from overnight.domain.transitions import submit

ROUNDS, SECONDS = 5, 1.5
REQUEST = JobRequest(prompt="p" * 250)


async def creates_per_second(database: Database, waiters: int) -> tuple[float, float]:
    store, entropy, clock = (
        SqliteStore(database, MemoryWakeups(), SystemClock()),
        SystemEntropy(),
        SystemClock(),
    )
    ends = time.perf_counter() + SECONDS

    async def wait_and_ask_again() -> int:
        made = 0
        while time.perf_counter() < ends:
            job_id, session_id = entropy.job_id(), entropy.session_id()
            admit = submit(REQUEST, job_id=job_id, session_id=session_id, continues=False, now=clock.now())
            await store.create(session_id, REQUEST, admit)
            made += 1
        return made

    before = database.commits
    made = sum(await asyncio.gather(*(wait_and_ask_again() for _ in range(waiters))))
    return made / SECONDS, made / (database.commits - before)


async def main() -> None:
    rates: dict[int, list[float]] = {64: [], 1: []}
    with tempfile.TemporaryDirectory() as directory:
        async with open_database(Path(directory)) as database:
            await creates_per_second(database, 64)  # warms up
            for number in range(ROUNDS):
                for waiters in sorted(rates, reverse=bool(number % 2)):
                    rate, batch = await creates_per_second(database, waiters)
                    rates[waiters].append(rate)
                    print(f"round {number}: {waiters:2} waiters {rate:7.0f} jobs/s, {batch:4.1f} a commit")
    ratio = statistics.median(many / one for many, one in zip(rates[64], rates[1], strict=True))
    print(
        f"medians: {statistics.median(rates[64]):.0f} and {statistics.median(rates[1]):.0f}, ratio {ratio:.1f}"
    )


asyncio.run(main())
