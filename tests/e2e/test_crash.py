"""kill -9, shutdowns and second workers: nothing accepted is lost, doubled, stuck or left running.

Of workers that only froze is test_frozen.py.
"""

import asyncio
import json
import os
import random

import pytest
from tests.e2e.service import Start, archive_of, lines, processes, step_is_written_down
from tests.waiting import until

from overnight.rehearsal import serve_rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

KILLS = int(os.environ.get("OVERNIGHT_TEST_KILLS", "12"))


def once_slow(mark: str) -> str:
    """A step that hangs at its first try and passes at its second; its `sleep` is what a test waits to see."""
    return f"bash if [ -e again ]; then echo on; else touch again; exec sleep {mark}; fi"


async def test_a_run_that_was_cut_off_goes_on_from_its_workspace(start: Start, mark: str) -> None:
    service = await start()
    marker = f"sleep {mark}"
    job = await service.submit(
        lines(
            "bash echo once >> count.txt",
            once_slow(mark),
            "answer went on",
        )
    )
    await until(lambda: processes(marker) != [])
    await until(lambda: step_is_written_down(service, 2))
    await service.kill()
    await until(lambda: processes(marker) == [])
    await service.start()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "went on", 2)
    archive = await archive_of(service, job["session_id"])
    assert archive.read("count.txt") == b"once\n"
    kinds = [event["type"] for event in await service.events(job["job_id"])]
    assert "job.worker_lost" in kinds


async def test_sigterm_hands_the_job_back_at_no_cost_and_it_goes_on(start: Start, mark: str) -> None:
    service = await start()
    job = await service.submit(lines(once_slow(mark), "answer back"))
    await until(lambda: processes(f"sleep {mark}") != [])
    assert await service.terminate() == 0
    await service.start()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"]) == ("completed", "back")
    kinds = [event["type"] for event in await service.events(job["job_id"])]
    assert "job.handed_back" in kinds
    assert "job.worker_lost" not in kinds
    assert "job.retry_scheduled" not in kinds


async def test_the_service_takes_over_from_a_worker_that_was_killed(start: Start, mark: str) -> None:
    async with serve_rehearsal() as url:
        upstream = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "rehearsal", "OVERNIGHT_CONCURRENCY": "1"}
        service = await start("serve", "--port", "0", settings=upstream)
        worker = await start("worker", data=service.data, settings=upstream)
        script = lines(once_slow(mark), "answer on")
        jobs = [(await service.submit(script))["job_id"] for _ in range(2)]
        holders = {(await service.until_event(job, "job.started"))["data"]["worker"]: job for job in jobs}
        for job in jobs:
            await service.until_event(job, "tool.started")
        await until(lambda: len(processes(f"sleep {mark}")) > 1)
        [lost] = [job for name, job in holders.items() if f"-{worker.pid}-" in name]
        [other] = set(jobs) - {lost}
        await worker.kill()
        await service.call("POST", f"/jobs/{other}/cancel")  # The service's only slot is free again.
        done = await service.finished(lost)
        assert (done["status"], done["result"], done["attempt"]) == ("completed", "on", 2)
        assert await service.terminate() == 0


async def test_killed_at_random_moments_every_job_ends_once_and_nothing_is_left(
    start: Start, mark: str
) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    # Each kill may hit the same job again: how many losses end a job is another test's matter.
    service = await start(settings={"OVERNIGHT_MAX_WORKER_LOSSES": str(KILLS)})
    marker = f"sleep {mark}"
    first = [
        await service.submit(lines("write who.txt base", words=f"Session {n} begins.")) for n in range(2)
    ]
    sessions = [job["session_id"] for job in first]
    accepted = {job["job_id"]: job["session_id"] for job in first}
    orders: dict[str, list[str]] = {session: [] for session in sessions}
    for kill in range(KILLS):
        for session in sessions:
            name = f"step{kill}"
            job = await service.submit(
                lines(
                    f"write {name}.txt {name}",
                    f"bash (setsid nohup {marker} >/dev/null 2>&1 &) ; cat {name}.txt",
                    words=f"Take {name}.",
                ),
                session_id=session,
            )
            accepted[job["job_id"]] = session
            orders[session].append(f"Take {name}.")
        await asyncio.sleep(dice.uniform(0.0, 2.5))  # The moment of the kill is what is drawn at random.
        await service.kill()
        await until(lambda: processes(marker) == [])
        await service.start()
    for job_id in accepted:
        done = await service.finished(job_id, seconds=240)
        assert done["status"] == "completed", (seed, done)
    for session in sessions:
        last = await service.submit(lines("recall", words="Last."), session_id=session)
        recalled = (await service.finished(last["job_id"]))["result"].splitlines()
        steps = [line for line in dict.fromkeys(recalled) if line.startswith("Take ")]
        assert steps == orders[session], seed
        files = await archive_of(service, session)
        for kill in range(KILLS):
            assert files.read(f"step{kill}.txt") == f"step{kill}".encode()
        for event_lists in [await service.events(j) for j, s in accepted.items() if s == session]:
            finals = [e for e in event_lists if e["type"] in {"job.completed", "job.failed", "job.cancelled"}]
            assert len(finals) == 1, (seed, json.dumps(finals))
            assert [e["seq"] for e in event_lists] == list(range(1, len(event_lists) + 1))
    assert processes(marker) == []
    assert list((service.data / "runs").iterdir()) == []
