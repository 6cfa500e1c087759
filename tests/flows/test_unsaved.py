"""No file is lost because an archive could not be stored: the session goes on with it, here or where it is stored."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.domain.archive_names import alias_name, archive_name
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Status
from overnight.domain.keys import LOCAL
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import cancel, resend
from overnight.flows.bells import ring
from overnight.flows.kept_here import KeptHere
from overnight.flows.late_saving import LateSaving
from overnight.flows.preparing import Source
from overnight.flows.sessions import erase
from overnight.flows.unsaved import InUse
from overnight.ports import ArchiveTooLarge, RunOrder, Stop


class Store:
    """The archive store of a world, which can be away."""

    def __init__(self, world: Any) -> None:
        self._put = world.archives.put
        self.trouble: OSError | None = OSError("the store is away")
        self.asked = 0
        world.archives.put = self.put

    async def put(self, name: str, source: Path, **more: Any) -> Any:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return await self._put(name, source, **more)


@pytest.fixture
def store(world: Any) -> Store:
    return Store(world)


def late(world: Any, **more: Any) -> LateSaving:
    return LateSaving(store=world.store, workspaces=world.workspaces, clock=world.clock, **more)


def unsaved(world: Any) -> list[str]:
    place = world.data / "unsaved"
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


async def session_with(world: Any, agents: Any, name: str, session_id: str | None = None) -> Any:
    """A job that leaves a file of this name."""
    job = await world.submit(session_id=session_id)
    await world.run_next(agents.writes(name, name, agents.done(cost=0.5)))
    return job


async def next_job(
    world: Any, session_id: str, outcome: Outcome | None = None, **more: Any
) -> tuple[Any, Any]:
    """(its event `workspace.ready`, the names of the files it found)"""
    job, found = await world.submit(session_id=session_id), []

    async def look(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        found.extend(sorted(path.name for path in order.workspace.files.iterdir()))
        return outcome or Outcome(ending=Ending.DONE, result="", cost_usd=0.1)

    await world.run_next(look, **more)
    [ready] = await world.told(job.job_id, "workspace.ready")
    return ready, found


async def test_the_next_job_on_the_machine_goes_on_in_it(world: Any, agents: Any, store: Store) -> None:
    store.trouble = None
    first = await session_with(world, agents, "old")
    store.trouble = OSError("away")

    async def hides(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / "new").write_text("new")
        (order.workspace.transcripts / "talk.jsonl").write_text("{}\n")
        (order.workspace.home / ".bashrc").write_text("alias ls=rm")
        return Outcome(ending=Ending.DONE, result="")

    await world.submit(session_id=first.session_id)
    await world.run_next(hides)
    assert len(unsaved(world)) == 1
    ready, found = await next_job(world, first.session_id)
    assert (ready["source"], found) == (Source.UNSAVED, ["new", "old"])
    workspace = world.agent.orders[-1].workspace
    assert "aside" not in ready
    [place] = (world.data / "unsaved").iterdir()
    assert sorted(path.name for path in (place / "home").iterdir()) == [".claude"], "HOME is new"
    assert (place / "home" / workspace.transcripts.relative_to(workspace.home) / "talk.jsonl").exists()
    store.trouble = None
    ready, found = await next_job(world, first.session_id)
    assert (ready["source"], found) == (Source.UNSAVED, ["new", "old"])
    assert unsaved(world) == []
    ready, found = await next_job(world, first.session_id, on=world.machine("elsewhere"))
    assert (ready["source"], found) == (Source.ARCHIVE, ["new", "old"])


async def test_it_is_stored_when_the_store_takes_it(world: Any, agents: Any, store: Store) -> None:
    first = await session_with(world, agents, "a")
    saving = late(world)
    await saving.once()
    assert len(unsaved(world)) == 1
    store.trouble, asked = None, store.asked
    await saving.once()
    assert store.asked == asked, "not every round tries again"
    world.clock.time += 60
    await saving.once()
    assert unsaved(world) == []
    job, session = await world.job(first.job_id), await world.store.session(first.session_id)
    assert (job.archive, session.archive.name) == (archive_name(job), archive_name(job))
    assert [event["late"] for event in await world.told(job.job_id, "workspace.saved")] == [True]
    assert await world.archives.listing(alias_name(session.session_id))
    ready, found = await next_job(world, first.session_id, on=world.machine("elsewhere"))
    assert (ready["source"], found) == (Source.ARCHIVE, ["a"])


async def test_it_is_not_stored_over_what_came_later(world: Any, agents: Any, store: Store) -> None:
    """It stays, and the next job of the session on this machine says so."""
    first = await session_with(world, agents, "a")
    [name] = unsaved(world)
    store.trouble = None
    await session_with_elsewhere(world, agents, first.session_id)
    before = await world.store.session(first.session_id)
    await late(world).once()
    assert await world.store.session(first.session_id) == before
    ready, found = await next_job(world, first.session_id)
    assert (ready["source"], ready["aside"], found) == (Source.ARCHIVE, [name], ["b"])
    assert (world.data / "unsaved" / name / "files" / "a").exists()


async def session_with_elsewhere(world: Any, agents: Any, session_id: str) -> None:
    await world.submit(session_id=session_id)
    await world.run_next(agents.writes("b", "b", agents.done()), on=world.machine("elsewhere"))


async def test_it_is_not_stored_under_a_job_that_is_open(world: Any, agents: Any, store: Store) -> None:
    first = await session_with(world, agents, "a")
    await world.submit(session_id=first.session_id)
    asked = store.asked
    await late(world).once()
    assert (store.asked, len(unsaved(world))) == (asked, 1)


async def test_a_job_that_comes_while_it_is_stored_goes_first(world: Any, agents: Any, store: Store) -> None:
    first = await session_with(world, agents, "a")
    put = store._put

    async def slow(name: str, source: Path, **more: Any) -> Any:
        stored = await put(name, source, **more)
        if name == archive_name(await world.job(first.job_id)):
            await session_with_elsewhere(world, agents, first.session_id)
        return stored

    store._put, store.trouble = slow, None
    await late(world).once()
    job, session = await world.job(first.job_id), await world.store.session(first.session_id)
    assert job.archive is None
    assert session.archive.name != archive_name(job)
    assert await world.archives.listing(archive_name(job)) == [], "nothing points at it"
    assert len(unsaved(world)) == 1


async def test_what_retention_deleted_in_between_is_stored_again(
    world: Any, agents: Any, store: Store
) -> None:
    first = await session_with(world, agents, "a")
    put = store._put

    async def deleted_at_once(name: str, source: Path, **more: Any) -> Any:
        stored = await put(name, source, **more)
        await world.retention().tidy(first.session_id)
        return stored

    store._put, store.trouble = deleted_at_once, None
    await late(world).once()
    ready, found = await next_job(world, first.session_id, on=world.machine("elsewhere"))
    assert (ready["source"], found) == (Source.ARCHIVE, ["a"])


async def test_a_death_after_the_pointer_moved_leaves_nothing(world: Any, agents: Any, store: Store) -> None:
    first = await session_with(world, agents, "a")
    [name] = unsaved(world)
    store.trouble = None
    await late(world).once()
    place = world.data / "unsaved" / name
    (place / "files").mkdir(parents=True)
    await late(world).once()
    assert unsaved(world) == []
    assert (await world.job(first.job_id)).archive is not None


async def test_a_job_that_took_it_and_left_nothing_puts_it_back(
    world: Any, agents: Any, store: Store
) -> None:
    first = await session_with(world, agents, "a")
    [name] = unsaved(world)
    second = await world.submit(session_id=first.session_id)
    await dies_and_is_cancelled(world, second)
    assert unsaved(world) == [name]
    store.trouble = None
    ready, found = await next_job(world, first.session_id)
    assert (ready["source"], found) == (Source.UNSAVED, ["a"])


async def its_worker_dies(world: Any) -> None:
    """The worker "dead" takes the next job, and is cut off in the middle of its run."""
    started = asyncio.Event()

    async def hangs(_order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.agent.acts.append(hangs)
    running = world.begin(worker="dead")
    await started.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def dies_and_is_cancelled(world: Any, job: Any) -> None:
    await its_worker_dies(world)
    await cancel_of(world, job)
    world.roster.dead.add("dead")
    await world.sweep().once()
    assert (await world.job(job.job_id)).status is Status.CANCELLED
    await world.sweep().once()


@pytest.mark.parametrize("ending", ["cancelled", "dead letter"])
async def test_the_session_goes_on_in_it_before_a_sweep_has_put_it_back(
    world: Any, agents: Any, store: Store, ending: str
) -> None:
    first = await session_with(world, agents, "a")
    second = await world.submit(session_id=first.session_id)
    if ending == "cancelled":
        await world.run_next(agents.writes("b", "b", failed(ErrorCode.OVERLOADED, "busy")))
        await ring(world.queue, (await cancel_of(world, second)).rings)
    else:
        world.policy = replace(world.policy, max_losses=0)
        await its_worker_dies(world)
        world.roster.dead.add("dead")
        await world.sweep().once()
        assert (await world.job(second.job_id)).status is Status.FAILED
    left = world.workspaces.root(second.job_id, 1)
    assert left.is_dir()
    store.trouble = None
    ready, found = await next_job(world, first.session_id)
    assert (ready["source"], "a" in found, "aside" in ready) == (Source.UNSAVED, True, False)
    assert left in world.agent.reaped
    assert unsaved(world) == []


async def cancel_of(world: Any, job: Any) -> Any:
    return await world.store.change(job.job_id, cancel(now=world.clock.now(), delivery_id="msg_c"))


async def test_a_dead_letter_that_was_not_saved_is_sent_again_in_it(
    world: Any, agents: Any, store: Store
) -> None:
    world.fail_too_large = True
    store.trouble = ArchiveTooLarge(1)
    first = await session_with(world, agents, "a")
    assert (await world.job(first.job_id)).status is Status.FAILED
    store.trouble = None
    change = await world.store.change(first.job_id, resend(now=world.clock.now()))
    await ring(world.queue, change.rings)
    await world.run_next(agents.writes("b", "b", agents.done()))
    prompt = world.agent.orders[-1].prompt
    assert "do it" in prompt
    assert (await world.told(first.job_id, "workspace.ready"))[-1]["source"] == Source.LEFTOVER
    assert unsaved(world) == []


async def test_an_erased_session_leaves_none(world: Any, agents: Any, store: Store) -> None:
    first = await session_with(world, agents, "a")
    await KeptHere(world.data).delete(first.session_id)
    await world.store.erase(first.session_id)
    assert unsaved(world) == []
    await late(world).once()


async def test_one_of_an_older_version_is_only_kept(world: Any, agents: Any, store: Store) -> None:
    """Nothing says what it grew from."""
    first = await session_with(world, agents, "a")
    [name] = unsaved(world)
    (world.data / "unsaved" / name / "baseline" / "origin.json").unlink()
    store.trouble = None
    await late(world).once()
    ready, found = await next_job(world, first.session_id)
    assert (ready["source"], ready["aside"], found) == (Source.NEW, [name], [])


async def test_a_failed_run_is_kept_as_well(world: Any, store: Store) -> None:
    job = await world.submit()

    async def fails(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / "half").write_text("half")
        return failed(ErrorCode.MAX_TURNS, "enough")

    await world.run_next(fails)
    store.trouble = None
    await late(world).once()
    assert (await world.job(job.job_id)).archive is not None
    assert (await world.job(job.job_id)).status is Status.FAILED


async def test_what_a_dead_worker_had_taken_is_not_lost_when_the_job_ends_elsewhere(
    world: Any, agents: Any, store: Store
) -> None:
    first = await session_with(world, agents, "a")
    [name] = unsaved(world)
    second = await world.submit(session_id=first.session_id)
    await its_worker_dies(world)
    world.roster.dead.add("dead")
    await world.sweep().once()
    store.trouble = None
    await world.run_next(agents.writes("b", "b", agents.done()), on=world.machine("elsewhere"))
    assert (await world.job(second.job_id)).archive is not None
    await world.sweep().once()
    assert unsaved(world) == [name]


async def test_what_a_job_set_aside_goes_before_its_checkpoint(world: Any, agents: Any, store: Store) -> None:
    world.checkpoint_seconds, world.fail_too_large = 0.01, True
    store.trouble = None
    job = await world.submit()

    async def works_on(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / "a").write_text("early")
        await world.until(job.job_id, "checkpoint.saved")
        store.trouble = ArchiveTooLarge(1)
        (order.workspace.files / "a").write_text("late")
        return Outcome(ending=Ending.DONE, result="")

    await world.run_next(works_on)
    failed_job = await world.job(job.job_id)
    assert (failed_job.status, failed_job.checkpoint is None) == (Status.FAILED, False)
    store.trouble, found = None, []

    async def look(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        found.append((order.workspace.files / "a").read_text())
        return Outcome(ending=Ending.DONE, result="")

    change = await world.store.change(job.job_id, resend(now=world.clock.now()))
    await ring(world.queue, change.rings)
    await world.run_next(look)
    assert found == ["late"]
    assert unsaved(world) == []


class Slow:
    """Puts into the store of a world that have begun, and end when they may."""

    def __init__(self, world: Any, store: Store) -> None:
        self._archives, self._put = world.archives, store._put
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        store._put, store.trouble = self.put, None

    async def put(self, name: str, source: Path, **more: Any) -> Any:
        stored = await self._put(name, source, **more)
        self.begun.set()
        await self.go_on.wait()
        return stored


async def test_a_session_that_is_erased_while_it_is_stored_leaves_nothing(
    world: Any, agents: Any, store: Store
) -> None:
    first = await session_with(world, agents, "a")
    slow = Slow(world, store)
    saving = asyncio.create_task(late(world, look_seconds=0.01).once())
    await slow.begun.wait()
    assert await erase(
        first.session_id,
        caller=LOCAL,
        store=world.store,
        archives=world.archives,
        kept=KeptHere(world.data),
        clock=world.clock,
    )
    await saving
    assert unsaved(world) == []
    assert await world.archives.listing("claude-code/") == []


async def test_an_alias_that_is_published_late_after_an_erasure_goes_too(
    world: Any, agents: Any, store: Store
) -> None:
    first, copy = await session_with(world, agents, "a"), world.data / "copy"
    store.trouble = None

    async def slow(name: str, alias: str) -> None:
        await world.archives.fetch(name, copy)
        await erase(
            first.session_id,
            caller=LOCAL,
            store=world.store,
            archives=world.archives,
            kept=KeptHere(world.data),
            clock=world.clock,
        )
        await world.archives.put(alias, copy)

    world.archives.publish = slow
    await late(world).once()
    assert await world.archives.listing("claude-code/") == []


async def test_two_workers_on_one_directory_do_not_store_it_at_once(
    world: Any, agents: Any, store: Store
) -> None:
    await session_with(world, agents, "a")
    slow, asked = Slow(world, store), store.asked
    one = asyncio.create_task(late(world).once())
    await slow.begun.wait()
    async with asyncio.timeout(30):
        await late(world).once()
    assert store.asked == asked + 1
    slow.go_on.set()
    await one
    assert unsaved(world) == []


async def test_a_job_that_comes_while_it_is_stored_calls_that_off_and_goes_on_in_it(
    world: Any, agents: Any, store: Store
) -> None:
    first = await session_with(world, agents, "a")
    slow = Slow(world, store)
    saving = asyncio.create_task(late(world, look_seconds=0.01).once())
    await slow.begun.wait()
    store._put = slow._put
    async with asyncio.timeout(90):
        ready, found = await next_job(world, first.session_id)
        await saving
    assert (ready["source"], found) == (Source.UNSAVED, ["a"])
    assert await world.archives.listing(archive_name(await world.job(first.job_id))) == []
    assert unsaved(world) == []


HOLDS = """
import pathlib, sys
from overnight.flows.unsaved import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


async def test_what_another_process_holds_is_left_alone_until_that_dies(
    world: Any, agents: Any, store: Store
) -> None:
    first = await session_with(world, agents, "a")
    [name] = unsaved(world)
    store.trouble, asked = None, store.asked
    place = world.data / "unsaved" / name
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS, str(place), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    await late(world).once()
    assert store.asked == asked
    session = await world.store.session(first.session_id)
    with pytest.raises(InUse):
        world.workspaces.unsaved.take(session, world.data / "taken")
    process.kill()
    await process.communicate()
    await late(world).once()
    assert (await world.job(first.job_id)).archive is not None
    assert unsaved(world) == []


async def loses_its_conversation(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
    order.workspace.transcripts.rmdir()
    order.workspace.transcripts.symlink_to(order.workspace.files)
    (order.workspace.files / "a").write_text("a")
    return Outcome(ending=Ending.DONE, result="")


async def test_a_conversation_that_is_left_out_is_an_event(world: Any, agents: Any) -> None:
    job = await world.submit()
    await world.run_next(loses_its_conversation)
    archive = (await world.job(job.job_id)).archive
    assert await world.told(job.job_id, "conversation.left_out") == [{"archive": archive}]
    other = await session_with(world, agents, "a")
    assert await world.told(other.job_id, "conversation.left_out") == []


async def test_a_conversation_that_is_left_out_late_is_an_event_too(world: Any, store: Store) -> None:
    job = await world.submit()
    await world.run_next(loses_its_conversation)
    store.trouble = None
    await late(world).once()
    archive = (await world.job(job.job_id)).archive
    assert await world.told(job.job_id, "conversation.left_out") == [{"archive": archive, "late": True}]


async def test_there_is_a_place_for_it_before_the_disk_can_fill(world: Any, store: Store) -> None:
    seen = []

    async def looks(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        seen.append([path.name for path in order.workspace.root.parents[1].iterdir()])
        return Outcome(ending=Ending.DONE, result="", cost_usd=0.1)

    await world.submit()
    await world.run_next(looks)
    assert "unsaved" in seen[0]
