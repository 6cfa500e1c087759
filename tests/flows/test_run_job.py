"""One attempt, from the bell to a final status or back to the queue."""

import asyncio
import errno
import io
import itertools
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.flows.stores import Unsteady

from overnight.archive import remove_tree
from overnight.domain import transitions
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Status, WaitingFor
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import resend
from overnight.flows.bells import ring
from overnight.flows.unsaved import UnsavedWorkspaces
from overnight.ports import RunOrder, Stop, StorageBusy, StorageFailed

BUSY = failed(ErrorCode.OVERLOADED, "busy")


def stopped(seen: asyncio.Event | None = None) -> Any:
    """An agent that works until it is told to stop."""

    async def act(order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        (order.workspace.files / "half.txt").write_text("half")
        if seen is not None:
            seen.set()
        await stop.wait()
        return Outcome(ending=Ending.INTERRUPTED, cost_usd=0.25)

    return act


async def read(world: Any, name: str) -> zipfile.ZipFile:
    target = world.data / "read.zip"
    await world.archives.fetch(name, target)
    return zipfile.ZipFile(io.BytesIO(target.read_bytes()))


async def test_a_job_runs_is_saved_published_and_leaves_no_directory(world: Any, agents: Any) -> None:
    job = await world.submit("write a note")
    await world.run_next(agents.writes("note.txt", "hello", agents.done("wrote it")))
    job = await world.job(job.job_id)
    assert (job.status, job.result, job.attempt, job.cost_usd) == (Status.COMPLETED, "wrote it", 1, 0.5)
    assert (await read(world, f"claude-code/{job.session_id}.zip")).read("note.txt") == b"hello"
    assert job.archive == f"claude-code/{job.session_id}/{job.job_id}.1.zip"
    assert (await world.store.session(job.session_id)).archive.name == job.archive
    assert list((world.data / "runs").iterdir()) == []
    assert await world.kinds(job.job_id) == [
        "job.queued",
        "job.started",
        "workspace.ready",
        "agent.text",
        "workspace.saved",
        "job.completed",
    ]
    assert await world.silence()


async def test_the_next_job_of_the_session_starts_from_the_saved_files(world: Any, agents: Any) -> None:
    first = await world.submit()
    second = await world.submit(session_id=first.session_id)
    await world.run_next(agents.writes("note.txt", "hello", agents.done(cost=0.5)))
    seen = []

    async def look(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        seen.append((order.prompt, (order.workspace.files / "note.txt").read_text()))
        return Outcome(ending=Ending.DONE, result="seen", cost_usd=0.7)

    await world.run_next(look)
    assert seen == [("do it", "hello")]
    assert (await world.job(second.job_id)).cost_usd == 0.7


async def test_a_bell_for_a_later_job_of_a_busy_session_is_dropped_until_the_first_ends(
    world: Any, agents: Any
) -> None:
    first = await world.submit()
    second = await world.submit(session_id=first.session_id)
    held, early = await world.bell(), await world.bell()
    await world.runner().run(early, leaving=world.leaving)
    assert (await world.job(second.job_id)).status is Status.QUEUED
    world.agent.acts.append(agents.writes("a", "a", agents.done()))
    await world.runner().run(held, leaving=world.leaving)
    assert (await world.bell()).job_id == second.job_id


async def test_a_transient_failure_goes_back_with_a_delay_and_goes_on_in_its_workspace(
    world: Any, agents: Any
) -> None:
    job = await world.submit("the task")
    await world.run_next(agents.writes("half.txt", "half", BUSY))
    waiting = await world.job(job.job_id)
    assert (waiting.status, waiting.waiting_for) == (Status.QUEUED, WaitingFor.RETRY)
    assert waiting.available_at == world.clock.now() + 10.0
    assert await world.silence()
    world.clock.time += 10.0
    found = []

    async def look(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        found.append((order.workspace.files / "half.txt").read_text())
        return Outcome(ending=Ending.DONE, result="finished")

    await world.run_next(look)
    assert found == ["half"]
    assert "<task>\nthe task\n</task>" in world.agent.orders[1].prompt
    assert world.agent.reaped == [world.workspaces.root(job.job_id, 1)]
    assert (await world.job(job.job_id)).status is Status.COMPLETED


async def test_after_three_retries_the_job_is_a_dead_letter_with_its_files_kept(
    world: Any, agents: Any
) -> None:
    job = await world.submit()
    for _ in range(4):
        await world.run_next(agents.writes("half.txt", "half", BUSY))
        world.clock.time += 400.0
    dead = await world.job(job.job_id)
    assert (dead.status, dead.attempt, dead.error.code) == (Status.FAILED, 4, ErrorCode.OVERLOADED)
    assert (await read(world, dead.archive)).read("half.txt") == b"half"
    assert await world.silence()


async def test_a_rate_limit_parks_the_job_until_it_resets_and_costs_no_retry(world: Any, agents: Any) -> None:
    job = await world.submit()
    resume_at = world.clock.now() + 3600
    limited = Outcome(ending=Ending.FAILED, code=ErrorCode.RATE_LIMITED, message="limit", resume_at=resume_at)
    await world.run_next(agents.writes("a", "a", limited))
    parked = await world.job(job.job_id)
    assert (parked.status, parked.waiting_for, parked.failures) == (Status.QUEUED, WaitingFor.RATE_LIMIT, 0)
    assert resume_at <= parked.available_at <= resume_at + 5


async def test_a_permanent_failure_is_not_tried_again(world: Any, agents: Any) -> None:
    job = await world.submit()
    await world.run_next(agents.writes("a", "a", failed(ErrorCode.AUTHENTICATION, "no key")))
    assert (await world.job(job.job_id)).status is Status.FAILED
    assert await world.silence()


async def test_a_shutdown_hands_the_job_back_at_no_cost(world: Any) -> None:
    job = await world.submit()
    running = asyncio.Event()
    world.agent.acts.append(stopped(running))
    run = asyncio.create_task(world.runner().run(await world.bell(), leaving=world.leaving))
    await running.wait()
    world.leaving.set()
    await run
    back = await world.job(job.job_id)
    assert (back.status, back.failures, back.losses, back.lease) == (Status.QUEUED, 0, 0, None)
    assert (world.workspaces.root(job.job_id, 1) / "files" / "half.txt").read_text() == "half"
    assert (await world.bell()).job_id == job.job_id


async def test_a_cancel_stops_the_run_and_keeps_its_files(world: Any) -> None:
    job = await world.submit()
    running = asyncio.Event()
    world.agent.acts.append(stopped(running))
    run = asyncio.create_task(world.runner().run(await world.bell(), leaving=world.leaving))
    await running.wait()
    await world.store.change(job.job_id, transitions.cancel(now=world.clock.now(), delivery_id="msg_1"))
    await run
    ended = await world.job(job.job_id)
    assert (ended.status, ended.cost_usd) == (Status.CANCELLED, 0.25)
    assert (await read(world, ended.archive)).read("half.txt") == b"half"


async def test_a_run_over_its_time_fails_for_good(world: Any) -> None:
    job = await world.submit(timeout_seconds=0.05)
    await world.run_next(stopped())
    ended = await world.job(job.job_id)
    assert (ended.status, ended.error.code, ended.error.retryable) == (
        Status.FAILED,
        ErrorCode.TIMEOUT,
        False,
    )
    assert (await read(world, ended.archive)).read("half.txt") == b"half"


async def test_an_attempt_that_lost_its_job_changes_nothing(world: Any, agents: Any) -> None:
    job = await world.submit()
    running = asyncio.Event()
    world.agent.acts.append(stopped(running))
    frozen = asyncio.create_task(world.runner("frozen").run(await world.bell(), leaving=world.leaving))
    await running.wait()
    world.roster.dead.add("frozen")
    await world.sweep().once()
    assert (await world.job(job.job_id)).status is Status.QUEUED
    await frozen
    after = await world.job(job.job_id)
    assert (after.status, after.losses, after.archive) == (Status.QUEUED, 1, None)
    await world.run_next(agents.writes("a", "a", agents.done("second")))
    assert (await world.job(job.job_id)).result == "second"
    assert (await world.kinds(job.job_id)).count("job.completed") == 1


async def test_saving_is_tried_again_and_the_run_is_not(world: Any, agents: Any) -> None:
    job = await world.submit()
    put, failures = world.archives.put, [OSError("disk"), OSError("disk")]

    async def flaky(name: str, source: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await put(name, source, **more)

    world.archives.put = flaky
    await world.run_next(agents.writes("a", "a", agents.done()))
    assert (await world.job(job.job_id)).status is Status.COMPLETED
    assert len(world.agent.orders) == 1


@pytest.mark.parametrize("trouble", [OSError("disk"), RuntimeError("a bug of ours")])
async def test_an_outcome_is_recorded_even_if_the_files_cannot_be_saved(
    world: Any, agents: Any, trouble: Exception
) -> None:
    job = await world.submit()

    async def broken(name: str, source: Any, **more: Any) -> Any:
        raise trouble

    world.archives.put = broken
    await world.run_next(agents.writes("a.txt", "kept", agents.done("paid for")))
    ended = await world.job(job.job_id)
    assert (ended.status, ended.result, ended.archive) == (Status.COMPLETED, "paid for", None)
    [place] = (world.data / "unsaved").iterdir()
    assert (place / "files" / "a.txt").read_text() == "kept"
    told = [e.data for e in await world.events(job.job_id) if e.type == "workspace.not_saved"]
    assert told == [{"kept_in": place.name}]


async def test_setting_a_workspace_aside_is_tried_again_and_the_run_is_not(
    world: Any, agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, put, troubles = await world.submit(), UnsavedWorkspaces.put, [OSError("the disk is full")]

    async def broken(_name: str, _source: Any, **_more: Any) -> Any:
        raise OSError("away")

    def flaky(*given: Any) -> None:
        if troubles:
            raise troubles.pop()
        put(*given)

    world.archives.put = broken
    monkeypatch.setattr(UnsavedWorkspaces, "put", flaky)
    await world.run_next(agents.writes("a.txt", "kept", agents.done("paid for")))
    assert (await world.job(job.job_id)).status is Status.COMPLETED
    [place] = (world.data / "unsaved").iterdir()
    assert (place / "files" / "a.txt").read_text() == "kept"


async def test_a_bell_that_cannot_be_rung_costs_a_job_nothing_that_comes_after_its_end(
    world: Any, agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await world.submit()
    second = await world.submit(session_id=first.session_id)
    held, early = await world.bell(), await world.bell()
    await world.queue.ack(early)

    async def fails(_job_id: str, **_more: Any) -> None:
        raise StorageFailed("The queue did not answer.")

    world.agent.acts.append(agents.writes("a", "a", agents.done()))
    with monkeypatch.context() as away:
        away.setattr(world.queue, "send", fails)
        await world.runner().run(held, leaving=world.leaving)
    assert (await read(world, f"claude-code/{first.session_id}.zip")).read("a") == b"a"
    assert list((world.data / "runs").iterdir()) == []
    await world.sweep().once()
    assert (await world.bell()).job_id == second.job_id


async def test_a_job_that_is_sent_again_at_its_end_keeps_the_directory_it_runs_in(
    world: Any, agents: Any
) -> None:
    """What the first attempt still has to delete is its own, wherever the second one is by then."""
    job, publish, started, over = (
        await world.submit(),
        world.archives.publish,
        asyncio.Event(),
        asyncio.Event(),
    )
    runs: list[asyncio.Task[None]] = []

    async def works(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        started.set()
        await over.wait()
        (order.workspace.files / "second").write_text("second")
        return Outcome(ending=Ending.DONE, result="")

    async def slow(*names: str) -> None:
        await publish(*names)
        if not runs:
            await ring(
                world.queue, (await world.store.change(job.job_id, resend(now=world.clock.now()))).rings
            )
            world.agent.acts.append(works)
            runs.append(world.begin(world.machine("here")))
            await started.wait()

    world.archives.publish = slow
    await world.run_next(agents.writes("first", "first", failed(ErrorCode.TIMEOUT, "too slow")))
    over.set()
    await runs[0]
    assert (await world.job(job.job_id)).status is Status.COMPLETED
    names = (await read(world, f"claude-code/{job.session_id}.zip")).namelist()
    assert {"first", "second"} <= set(names)


async def test_nobody_goes_on_in_what_is_half_deleted(
    world: Any, agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.submit()

    def cut_off(path: Path) -> None:
        if (path / "files" / "first").exists():
            shutil.rmtree(path / "baseline")
            shutil.rmtree(path / "files")
            raise OSError("the power went")
        remove_tree(path)

    with monkeypatch.context() as power:
        power.setattr("overnight.flows.places.remove_tree", cut_off)
        power.setattr("overnight.flows.preparing.remove_tree", cut_off)
        await world.run_next(agents.writes("first", "first", failed(ErrorCode.TIMEOUT, "too slow")))
    await ring(world.queue, (await world.store.change(job.job_id, resend(now=world.clock.now()))).rings)
    await world.run_next(agents.writes("second", "second", agents.done()))
    names = (await read(world, f"claude-code/{job.session_id}.zip")).namelist()
    assert {"first", "second"} <= set(names)
    await world.sweep().once()
    assert list((world.data / "runs").iterdir()) == []


async def test_a_session_whose_archive_is_gone_fails_clearly_and_once(world: Any, agents: Any) -> None:
    first = await world.submit()
    await world.run_next(agents.writes("a", "a", agents.done()))
    await world.archives.delete((await world.job(first.job_id)).archive)
    second = await world.submit(session_id=first.session_id)
    await world.run_next()
    ended = await world.job(second.job_id)
    assert (ended.status, ended.error.code) == (Status.FAILED, ErrorCode.SESSION_UNAVAILABLE)
    assert len(world.agent.orders) == 1


async def test_a_restore_that_filled_the_disk_leaves_nothing_on_it_while_the_job_waits(
    world: Any, agents: Any
) -> None:
    first = await world.submit()
    await world.run_next(agents.writes("a", "a", agents.done()))

    async def fills(_name: str, target: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left")

    world.archives.fetch = fills
    second = await world.submit(session_id=first.session_id)
    await world.run_next()
    assert (await world.job(second.job_id)).status is Status.QUEUED
    assert list((world.data / "runs").iterdir()) == []


async def test_a_broken_agent_is_an_internal_error_and_the_job_is_tried_again(world: Any) -> None:
    job = await world.submit()

    async def breaks(_order: Any, _emit: Any, _stop: Any) -> Outcome:
        raise RuntimeError("bug")

    await world.run_next(breaks)
    back = await world.job(job.job_id)
    assert (back.status, back.failures) == (Status.QUEUED, 1)


class Shaky(Unsteady):
    """A store whose every second call is not answered, once `shakes` is set."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self._calls = itertools.count()
        self.shakes = False

    def _answer(self) -> None:
        if self.shakes and next(self._calls) % 2 == 0:
            raise StorageBusy("The store restarts.")


@pytest.mark.parametrize("first", [None, BUSY], ids=["it ends", "it goes back"])
async def test_a_store_that_stumbles_at_the_end_of_a_run_does_not_have_it_run_again(
    world: Any, agents: Any, first: Outcome | None
) -> None:
    world.store = store = Shaky(world.store)
    job = await world.submit()

    async def ends(order: RunOrder, emit: Any, stop: Stop) -> Outcome:
        outcome: Outcome = await agents.writes("a", "a", first or agents.done())(order, emit, stop)
        store.shakes = True
        return outcome

    await world.run_next(ends)
    store.shakes = False
    seen = await world.job(job.job_id)
    assert (seen.status, seen.attempt) == (Status.COMPLETED if first is None else Status.QUEUED, 1)
    assert seen.cost_usd == (0.5 if first is None else 0.0)


class Unacknowledging:
    """A queue that gives its bells and takes no word of them back."""

    def __init__(self, queue: Any) -> None:
        self.receive = queue.receive

    async def ack(self, _bell: Any) -> None:
        raise StorageFailed("The queue did not answer.")


async def test_a_bell_that_cannot_be_acknowledged_does_not_cost_the_job_its_attempt(
    world: Any, agents: Any
) -> None:
    job = await world.submit()
    world.queue = Unacknowledging(world.queue)
    await world.run_next(agents.writes("a", "a", agents.done()))
    assert (await world.job(job.job_id)).status is Status.COMPLETED
