"""kill -9, shutdowns and second workers: nothing accepted is lost, doubled, stuck or left running."""

import asyncio
import io
import json
import os
import random
import signal
import zipfile
from typing import Any

import pytest

from overnight.rehearsal import serve_rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

KILLS = int(os.environ.get("OVERNIGHT_TEST_KILLS", "12"))


def once_slow(seconds: int) -> str:
    """A step that hangs at its first try and passes at its second; its `sleep` is what a test waits to see."""
    return f"bash if [ -e again ]; then echo on; else touch again; exec sleep {seconds}; fi"


def lines(*directives: str, words: str = "Do it.") -> str:
    return "\n".join([words, *(f"rehearsal: {directive}" for directive in directives)])


async def test_a_run_that_was_cut_off_goes_on_from_its_workspace(start: Any, e2e: Any) -> None:
    service = await start()
    marker = "sleep 918273645"
    job = await service.submit(
        lines(
            "bash echo once >> count.txt",
            once_slow(918273645),
            "answer went on",
        )
    )
    await e2e.eventually(lambda: _some(e2e.processes(marker)))
    await e2e.eventually(lambda: second_step_is_written_down(service))
    await service.kill()
    await e2e.eventually(lambda: _none(e2e.processes(marker)), seconds=5)
    await service.start()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "went on", 2)
    archive = await service.call("GET", f"/sessions/{job['session_id']}/archive")
    assert zipfile.ZipFile(io.BytesIO(archive.content)).read("count.txt") == b"once\n"
    kinds = [event["type"] for event in await service.events(job["job_id"])]
    assert "job.worker_lost" in kinds


async def second_step_is_written_down(service: Any) -> bool | None:
    """Claude Code writes its transcript a moment after the fact: until then a kill makes it repeat a step."""
    transcripts = service.data.glob("runs/*/home/.claude/projects/workspace/*.jsonl")
    return True if any("toolu_rehearsal_1_" in path.read_text() for path in transcripts) else None


async def _some(found: list[str]) -> list[str] | None:
    return found or None


async def _none(found: list[str]) -> bool | None:
    return None if found else True


async def test_sigterm_hands_the_job_back_at_no_cost_and_it_goes_on(start: Any, e2e: Any) -> None:
    service = await start()
    job = await service.submit(lines(once_slow(918273646), "answer back"))
    await e2e.eventually(lambda: _some(e2e.processes("sleep 918273646")))
    assert await service.terminate() == 0
    await service.start()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"]) == ("completed", "back")
    kinds = [event["type"] for event in await service.events(job["job_id"])]
    assert "job.handed_back" in kinds
    assert "job.worker_lost" not in kinds
    assert "job.retry_scheduled" not in kinds


async def test_the_service_takes_over_from_a_worker_that_was_killed(start: Any, e2e: Any) -> None:
    async with serve_rehearsal() as url:
        upstream = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "rehearsal", "OVERNIGHT_CONCURRENCY": "1"}
        service = await start("serve", "--port", "0", **upstream)
        worker = await start("worker", data=service.data, **upstream)
        script = lines(once_slow(918273647), "answer on")
        jobs = [(await service.submit(script))["job_id"] for _ in range(2)]
        holders = {(await service.until_event(job, "job.started"))["data"]["worker"]: job for job in jobs}
        for job in jobs:
            await service.until_event(job, "tool.started")
        await e2e.eventually(lambda: _some(e2e.processes("sleep 918273647")[1:]))
        [lost] = [job for name, job in holders.items() if f"-{worker.process.pid}-" in name]
        [other] = set(jobs) - {lost}
        await worker.kill()
        await service.call("POST", f"/jobs/{other}/cancel")  # The service's only slot is free again.
        done = await service.finished(lost)
        assert (done["status"], done["result"], done["attempt"]) == ("completed", "on", 2)
        assert await service.terminate() == 0


async def test_a_worker_that_froze_past_its_lease_changes_nothing_when_it_wakes(start: Any, e2e: Any) -> None:
    async with serve_rehearsal() as url:
        upstream = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "rehearsal", "OVERNIGHT_CONCURRENCY": "1"}
        service = await start("serve", "--port", "0", **upstream)
        blocker = await service.submit(lines("bash exec sleep 918273649"))
        await e2e.eventually(lambda: _some(e2e.processes("sleep 918273649")))
        worker = await start("worker", data=service.data, **upstream)
        job = await service.submit(lines("bash echo once >> count.txt", once_slow(918273648), "answer on"))
        await e2e.eventually(lambda: _some(e2e.processes("sleep 918273648")))
        await e2e.eventually(lambda: second_step_is_written_down(service))
        worker.process.send_signal(signal.SIGSTOP)
        await service.call(
            "POST", f"/jobs/{blocker['job_id']}/cancel"
        )  # The service's only slot is free now.
        done = await service.finished(job["job_id"])
        assert (done["status"], done["result"], done["attempt"]) == ("completed", "on", 2)
        assert e2e.processes("sleep 918273648") == []
        events = await service.events(job["job_id"])
        worker.process.send_signal(signal.SIGCONT)
        assert await worker.terminate() == 0
        assert await service.job(job["job_id"]) == done
        assert await service.events(job["job_id"]) == events
        archive = await service.call("GET", f"/sessions/{job['session_id']}/archive")
        assert zipfile.ZipFile(io.BytesIO(archive.content)).read("count.txt") == b"once\n"


async def test_killed_at_random_moments_every_job_ends_once_and_nothing_is_left(start: Any, e2e: Any) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    service = await start()
    marker = "sleep 445566"
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
        await e2e.eventually(lambda: _none(e2e.processes(marker)), seconds=5)
        await service.start()
    for job_id in accepted:
        done = await service.finished(job_id, seconds=240)
        assert done["status"] == "completed", (seed, done)
    for session in sessions:
        last = await service.submit(lines("recall", words="Last."), session_id=session)
        recalled = (await service.finished(last["job_id"]))["result"].splitlines()
        steps = [line for line in dict.fromkeys(recalled) if line.startswith("Take ")]
        assert steps == orders[session], seed
        archive = await service.call("GET", f"/sessions/{session}/archive")
        files = zipfile.ZipFile(io.BytesIO(archive.content))
        for kill in range(KILLS):
            assert files.read(f"step{kill}.txt") == f"step{kill}".encode()
        for event_lists in [await service.events(j) for j, s in accepted.items() if s == session]:
            finals = [e for e in event_lists if e["type"] in {"job.completed", "job.failed", "job.cancelled"}]
            assert len(finals) == 1, (seed, json.dumps(finals))
            assert [e["seq"] for e in event_lists] == list(range(1, len(event_lists) + 1))
    assert e2e.processes(marker) == []
    assert list((service.data / "runs").iterdir()) == []
