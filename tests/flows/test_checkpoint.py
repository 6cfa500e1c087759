"""What is stored while a run lasts, and where the next attempt goes on, on this machine or another."""

import asyncio
import io
import json
import zipfile
from dataclasses import replace
from typing import Any

import pytest

from overnight.domain import transitions
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Status
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.ports import RunOrder, Stop

SOON = 0.01
TALK = '{"type":"user"}\n'


@pytest.fixture
def world(world: Any) -> Any:
    return replace(world, checkpoint_seconds=SOON)


def transcript(order: RunOrder) -> Any:
    return order.workspace.transcripts / f"{order.session_id}.jsonl"


def looks(seen: dict[str, str], name: str = "half.txt") -> Any:
    """An agent that notes what it finds, and is done."""

    async def act(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        path, talk = order.workspace.files / name, transcript(order)
        seen.update(prompt=order.prompt, file=path.read_text() if path.exists() else "")
        seen.update(talk=talk.read_text() if talk.exists() else "")
        return Outcome(ending=Ending.DONE, result="went on")

    return act


def works_until(
    world: Any, job_id: str, kind: str | None, outcome: Outcome | None = None, *, text: str = "half"
) -> Any:
    """An agent that writes, waits for an event of its job, and ends, or else waits to be stopped."""

    async def act(order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        (order.workspace.files / "half.txt").write_text(text)
        transcript(order).write_text(TALK)
        if kind is not None:
            await world.until(job_id, kind)
        if outcome is not None:
            return outcome
        await stop.wait()
        return Outcome(ending=Ending.INTERRUPTED)

    return act


async def lose(world: Any, run: asyncio.Task[None], worker: str = "worker-1") -> None:
    """The worker dies: it is cut off, and the sweep takes its job back."""
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    world.roster.dead.add(worker)
    await world.sweep().once()


async def names(world: Any) -> list[str]:
    return [archive.name for archive in await world.archives.listing("claude-code/")]


async def test_a_run_that_dies_with_its_machine_goes_on_from_its_checkpoint(world: Any) -> None:
    job = await world.submit("the task")
    world.agent.acts.append(works_until(world, job.job_id, None))
    run = world.begin(world.machine("first"))
    await world.until(job.job_id, "checkpoint.saved")
    await lose(world, run)
    seen: dict[str, str] = {}
    await world.run_next(looks(seen), on=world.machine("second"))
    assert (seen["file"], seen["talk"]) == ("half", TALK)
    assert "<task>\nthe task\n</task>" in seen["prompt"]
    assert "last checkpoint" in seen["prompt"]
    done = await world.job(job.job_id)
    assert (done.status, done.result, done.checkpoint) == (Status.COMPLETED, "went on", None)
    ready = (await world.told(job.job_id, "workspace.ready"))[-1]
    assert (ready["source"], ready["continued"], ready["fetched_bytes"] > 0) == ("checkpoint", True, True)


async def test_after_the_finish_no_checkpoint_is_left(world: Any) -> None:
    job = await world.submit()
    await world.run_next(
        works_until(world, job.job_id, "checkpoint.saved", Outcome(ending=Ending.DONE, result=""))
    )
    assert await names(world) == [
        f"claude-code/{job.session_id}.zip",
        f"claude-code/{job.session_id}/{job.job_id}.1.zip",
    ]


async def test_a_job_that_is_sent_again_at_its_end_keeps_its_new_checkpoint(world: Any) -> None:
    job, publish = await world.submit(), world.archives.publish
    newer, content = f"claude-code/{job.session_id}/{job.job_id}.2.c1.zip", world.data / "checkpoint"

    async def meanwhile(name: str, alias: str) -> None:
        """The next attempt is on another machine, and stores what it has done."""
        await publish(name, alias)
        await world.archives.fetch(name, content)
        await world.archives.put(newer, content)
        await world.store.change(job.job_id, transitions.resend(now=world.clock.now()))

    world.archives.publish = meanwhile
    too_slow = failed(ErrorCode.TIMEOUT, "too slow")
    await world.run_next(works_until(world, job.job_id, "checkpoint.saved", too_slow))
    assert newer in await names(world)


async def test_a_newer_checkpoint_takes_the_place_of_the_one_before(world: Any) -> None:
    job = await world.submit()

    async def act(order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        for number in range(1, 4):
            (order.workspace.files / "half.txt").write_text(str(number))
            await world.until(job.job_id, "checkpoint.saved", times=number)
        await stop.wait()
        return Outcome(ending=Ending.INTERRUPTED)

    world.agent.acts.append(act)
    run = world.begin()
    await world.until(job.job_id, "checkpoint.saved", times=3)
    await lose(world, run)
    found = await names(world)
    assert (await world.job(job.job_id)).checkpoint.archive.name in found
    assert len(found) <= 2  # One more may have been on its way.


async def test_the_directory_of_the_same_attempt_is_newer_than_its_checkpoint(world: Any) -> None:
    job = await world.submit()

    async def act(order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        (order.workspace.files / "half.txt").write_text("checkpoint")
        await world.until(job.job_id, "checkpoint.saved")
        world.archives.put = unusable
        (order.workspace.files / "half.txt").write_text("later")
        return failed(ErrorCode.OVERLOADED, "busy")

    put = world.archives.put
    await world.run_next(act)
    world.archives.put = put
    world.clock.time += 60.0
    seen: dict[str, str] = {}
    await world.run_next(looks(seen))
    assert seen["file"] == "later"
    assert [ready["source"] for ready in await world.told(job.job_id, "workspace.ready")] == [
        "new",
        "leftover",
    ]


async def unusable(name: str, source: Any, **more: Any) -> Any:
    raise OSError("the store is away")


async def test_a_directory_from_before_the_checkpoint_is_not_gone_on_from(world: Any) -> None:
    job = await world.submit()
    here, there = world.machine("first"), world.machine("second")
    await world.run_next(
        works_until(world, job.job_id, "checkpoint.saved", failed(ErrorCode.OVERLOADED, "")), on=here
    )
    world.clock.time += 60.0
    world.agent.acts.append(works_until(world, job.job_id, None, text="second"))
    run = world.begin(there, worker="worker-2")
    saved = (await world.kinds(job.job_id)).count("checkpoint.saved")
    await world.until(job.job_id, "checkpoint.saved", times=saved + 1)
    await lose(world, run, "worker-2")
    seen: dict[str, str] = {}
    await world.run_next(looks(seen), on=here)
    assert seen["file"] == "second"


async def test_a_transcript_caught_in_the_middle_of_a_line_is_cut_to_its_last_whole_one(world: Any) -> None:
    job = await world.submit()

    async def act(order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        side = order.workspace.transcripts / order.session_id / "subagents"
        side.mkdir(parents=True)
        (side / "agent-1.jsonl").write_text('{"torn')
        transcript(order).write_text(TALK * 3 + '{"type":"assis')
        await stop.wait()
        return Outcome(ending=Ending.INTERRUPTED)

    world.agent.acts.append(act)
    run = world.begin(world.machine("first"))
    await world.until(job.job_id, "checkpoint.saved")
    await lose(world, run)
    seen: dict[str, str] = {}
    await world.run_next(looks(seen), on=world.machine("second"))
    assert seen["talk"] == TALK * 3


async def test_a_checkpoint_that_fails_is_told_and_tried_again(world: Any) -> None:
    job = await world.submit()
    put, failures = world.archives.put, [OSError("away"), OSError("away")]

    async def flaky(name: str, source: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await put(name, source, **more)

    world.archives.put = flaky
    await world.run_next(
        works_until(world, job.job_id, "checkpoint.saved", Outcome(ending=Ending.DONE, result=""))
    )
    kinds = await world.kinds(job.job_id)
    assert kinds.count("checkpoint.failed") == 2
    assert kinds.index("checkpoint.failed") < kinds.index("checkpoint.saved")
    assert await world.told(job.job_id, "checkpoint.failed") == [{"reason": "storage"}] * 2
    assert (await world.job(job.job_id)).status is Status.COMPLETED


async def test_what_is_handed_back_is_stored_if_another_machine_may_go_on(world: Any) -> None:
    shared = replace(world, checkpoint_seconds=3600.0, archives_are_shared=True)
    job = await shared.submit()
    shared.agent.acts.append(works_until(shared, job.job_id, "workspace.ready"))
    run = shared.begin(shared.machine("first"))
    await shared.until(job.job_id, "workspace.ready")
    shared.leaving.set()
    await run
    kinds = await shared.kinds(job.job_id)
    assert kinds[-2:] == ["checkpoint.saved", "job.handed_back"]
    shared.leaving.clear()
    seen: dict[str, str] = {}
    await shared.run_next(looks(seen), on=shared.machine("second"))
    assert seen["file"] == "half"


async def test_a_checkpoint_that_breaks_on_the_way_back_costs_the_job_nothing(world: Any) -> None:
    shared = replace(world, checkpoint_seconds=3600.0, archives_are_shared=True)
    job = await shared.submit()

    async def broken(_name: str, _source: Any, **_more: Any) -> Any:
        raise RuntimeError("a bug of ours")

    shared.archives.put = broken
    shared.leaving.set()
    await shared.run_next(works_until(shared, job.job_id, "workspace.ready"))
    back = await shared.job(job.job_id)
    assert (back.status, back.losses) == (Status.QUEUED, 0)
    assert await shared.told(job.job_id, "checkpoint.failed") == [{"reason": "internal"}]


async def test_without_a_shared_store_nothing_is_stored_on_the_way_back(world: Any) -> None:
    alone = replace(world, checkpoint_seconds=3600.0)
    job = await alone.submit()
    alone.agent.acts.append(works_until(alone, job.job_id, "workspace.ready"))
    run = alone.begin()
    await alone.until(job.job_id, "workspace.ready")
    alone.leaving.set()
    await run
    assert await names(alone) == []


async def test_a_dead_letter_of_lost_workers_is_resent_from_its_checkpoint(world: Any) -> None:
    world = replace(world, policy=replace(world.policy, max_losses=0))
    job = await world.submit()
    world.agent.acts.append(works_until(world, job.job_id, None))
    run = world.begin(world.machine("first"))
    await world.until(job.job_id, "checkpoint.saved")
    await lose(world, run)
    assert (await world.job(job.job_id)).error.code is ErrorCode.WORKER_LOST
    await world.store.change(job.job_id, transitions.resend(now=world.clock.now()))
    await world.queue.send(job.job_id, at=world.clock.now())
    seen: dict[str, str] = {}
    await world.run_next(looks(seen), on=world.machine("second"))
    assert seen["file"] == "half"


async def test_a_resent_job_does_not_undo_the_jobs_that_ran_since(world: Any, agents: Any) -> None:
    world = replace(world, policy=replace(world.policy, max_losses=0))
    job = await world.submit()
    world.agent.acts.append(works_until(world, job.job_id, None))
    run = world.begin()
    await world.until(job.job_id, "checkpoint.saved")
    await lose(world, run)
    await world.submit(session_id=job.session_id)
    await world.run_next(agents.writes("other.txt", "other", agents.done()))
    await world.store.change(job.job_id, transitions.resend(now=world.clock.now()))
    await world.queue.send(job.job_id, at=world.clock.now())
    seen: dict[str, str] = {}
    await world.run_next(looks(seen, "other.txt"))
    assert seen["file"] == "other"
    assert "is lost" in seen["prompt"]


async def test_a_lost_checkpoint_is_no_lost_session(world: Any, agents: Any) -> None:
    first = await world.submit()
    await world.run_next(agents.writes("base.txt", "base", agents.done()))
    job = await world.submit(session_id=first.session_id)
    world.agent.acts.append(works_until(world, job.job_id, None))
    run = world.begin(world.machine("first"))
    await world.until(job.job_id, "checkpoint.saved")
    await lose(world, run)
    await world.archives.delete((await world.job(job.job_id)).checkpoint.archive.name)
    seen: dict[str, str] = {}
    await world.run_next(looks(seen, "base.txt"), on=world.machine("second"))
    assert seen["file"] == "base"


async def test_a_worker_frozen_in_a_checkpoint_changes_nothing_when_it_wakes(world: Any, agents: Any) -> None:
    world = replace(world, checkpoint_seconds=3600.0, archives_are_shared=True)
    job = await world.submit()
    frozen, awake = asyncio.Event(), asyncio.Event()
    put = world.archives.put

    async def freezes(name: str, source: Any, **more: Any) -> Any:
        if ".1.c" in name:
            frozen.set()
            await awake.wait()
        return await put(name, source, **more)

    world.archives.put = freezes
    busy = works_until(world, job.job_id, "workspace.ready", failed(ErrorCode.OVERLOADED, "busy"))
    world.agent.acts.append(busy)
    run = world.begin(world.machine("first"), worker="frozen")
    await frozen.wait()
    world.roster.dead.add("frozen")
    await world.sweep().once()
    await world.run_next(agents.writes("a", "second", agents.done("second")), on=world.machine("second"))
    before = (await world.job(job.job_id), await world.events(job.job_id), await names(world))
    session = await world.store.session(job.session_id)
    awake.set()
    await run
    assert (await world.job(job.job_id), await world.events(job.job_id), await names(world)) == before
    assert await world.store.session(job.session_id) == session


async def test_no_checkpoint_holds_a_secret_if_none_is_to_be_stored(world: Any) -> None:
    strict = replace(world, refuse_secrets=True)
    job = await strict.submit()
    stored: list[str] = []
    put = strict.archives.put

    async def noting(name: str, source: Any, **more: Any) -> Any:
        done = await put(name, source, **more)
        stored.append(name)
        return done

    strict.archives.put = noting

    async def act(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / "deploy.sh").write_text("export K=ghp_" + "a1B2" * 9)
        await strict.until(job.job_id, "checkpoint.failed")
        return Outcome(ending=Ending.DONE, result="")

    await strict.run_next(act)
    assert stored == []
    assert {"reason": "secrets"} in await strict.told(job.job_id, "checkpoint.failed")


async def test_a_checkpoint_is_a_plain_zip_of_files_and_conversation(world: Any) -> None:
    job = await world.submit()
    found: list[bytes] = []

    async def act(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / "half.txt").write_text("half")
        transcript(order).write_text(TALK)
        await world.until(job.job_id, "checkpoint.saved")
        checkpoint = (await world.job(job.job_id)).checkpoint
        target = world.data / "read.zip"
        await world.archives.fetch(checkpoint.archive.name, target)
        found.append(target.read_bytes())
        return Outcome(ending=Ending.DONE, result="")

    await world.run_next(act)
    archive = zipfile.ZipFile(io.BytesIO(found[0]))
    assert archive.read("half.txt") == b"half"
    assert archive.read(f".overnight/transcript/{job.session_id}.jsonl") == TALK.encode()
    assert json.loads(archive.read(".overnight/session.json"))["attempt"] == 1
