"""An archive is sent while it is packed, becomes visible once it is whole and clean, and is packed only once."""

import asyncio
import io
import random
import zipfile
from dataclasses import replace
from typing import Any

import pytest

from overnight.domain.job import Status
from overnight.domain.keys import LOCAL
from overnight.domain.outcome import Ending, Outcome
from overnight.flows.sessions import erase
from overnight.ports import ArchiveConflict, RunOrder, Stop


def fills(size: int, name: str = "noise.bin") -> Any:
    """An agent that writes bytes which do not compress."""

    async def act(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / name).write_bytes(random.Random(1).randbytes(size))
        return Outcome(ending=Ending.DONE, result="", cost_usd=0.1)

    return act


async def stored(world: Any, name: str) -> zipfile.ZipFile:
    target = world.data / "read.zip"
    await world.archives.fetch(name, target)
    return zipfile.ZipFile(io.BytesIO(target.read_bytes()))


async def test_the_store_can_send_what_is_packed_before_all_of_it_is(world: Any) -> None:
    put, seen = world.archives.put, []

    async def follows(name: str, source: Any, *, growth: Any = None) -> Any:
        size, whole = await growth.beyond(0)
        seen.append((size <= source.stat().st_size, whole))
        return await put(name, source, growth=growth)

    world.archives.put = follows
    await world.submit()
    await world.run_next(fills(6 << 20))
    assert seen == [(True, False)]


async def test_what_is_refused_for_its_secrets_was_never_visible(world: Any) -> None:
    strict = replace(world, refuse_secrets=True)
    put, seen = strict.archives.put, []

    async def follows(name: str, source: Any, *, growth: Any = None) -> Any:
        seen.append((await growth.beyond(0))[1])
        return await put(name, source, growth=growth)

    strict.archives.put = follows

    async def act(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / "deploy.sh").write_text("export K=ghp_" + "a1B2" * 9)
        return Outcome(ending=Ending.DONE, result="", cost_usd=0.1)

    await strict.submit()
    await strict.run_next(act)
    assert seen == [False]
    assert await strict.archives.listing("") == []


async def test_an_upload_that_broke_is_sent_again_and_not_packed_again(world: Any) -> None:
    job = await world.submit()
    put, failures = world.archives.put, [OSError("away"), OSError("away")]

    async def flaky(name: str, source: Any, **more: Any) -> Any:
        if failures and more["growth"] is not None:
            raise failures.pop()
        if failures:
            (world.workspaces.root(job.job_id, 1) / "files" / "later.txt").write_text("not packed")
            source.unlink()  # A store may take what it is given.
            raise failures.pop()
        return await put(name, source, **more)

    world.archives.put = flaky
    await world.run_next(fills(100))
    done = await world.job(job.job_id)
    assert done.status is Status.COMPLETED
    assert "later.txt" not in (await stored(world, done.archive)).namelist()


async def test_an_upload_that_breaks_at_once_does_not_stop_the_packing(world: Any) -> None:
    job = await world.submit()
    put, tries = world.archives.put, []

    async def flaky(name: str, source: Any, *, growth: Any = None) -> Any:
        tries.append(growth)
        if len(tries) == 1:
            raise OSError("away")
        return await put(name, source, growth=growth)

    world.archives.put = flaky
    await world.run_next(fills(100))
    assert (len(tries), tries[1]) == (2, None)
    assert (await world.job(job.job_id)).archive is not None


async def test_a_worker_frozen_while_it_saves_changes_nothing_when_it_wakes(world: Any, agents: Any) -> None:
    job = await world.submit()
    frozen, awake = asyncio.Event(), asyncio.Event()
    put = world.archives.put

    async def freezes(name: str, source: Any, **more: Any) -> Any:
        if name.endswith(".1.zip"):
            frozen.set()
            await awake.wait()
        return await put(name, source, **more)

    world.archives.put = freezes
    world.agent.acts.append(agents.writes("a", "first", agents.done("first")))
    run = world.begin(world.machine("first"), worker="frozen")
    await frozen.wait()
    world.roster.dead.add("frozen")
    await world.sweep().once()
    await world.run_next(agents.writes("a", "second", agents.done("second")), on=world.machine("second"))
    before = await state(world, job)
    awake.set()
    await run
    assert await state(world, job) == before
    assert (await stored(world, f"claude-code/{job.session_id}.zip")).read("a") == b"second"


async def test_a_worker_that_wakes_after_its_session_was_erased_leaves_nothing_of_it(
    world: Any, agents: Any
) -> None:
    job = await world.submit()
    frozen, awake = asyncio.Event(), asyncio.Event()
    put = world.archives.put

    async def freezes(name: str, source: Any, **more: Any) -> Any:
        if name.endswith(".1.zip"):
            frozen.set()
            await awake.wait()
        return await put(name, source, **more)

    world.archives.put = freezes
    world.agent.acts.append(agents.writes("a", "first", agents.done("first")))
    run = world.begin(world.machine("first"), worker="frozen")
    await frozen.wait()
    world.roster.dead.add("frozen")
    await world.sweep().once()
    await world.run_next(agents.writes("a", "second", agents.done("second")), on=world.machine("second"))
    await erase(
        job.session_id,
        caller=LOCAL,
        store=world.store,
        archives=world.archives,
        kept=world.kept,
        clock=world.clock,
    )
    awake.set()
    await run
    assert await world.archives.listing("claude-code/") == []


@pytest.mark.parametrize("trouble", [OSError("gone"), ArchiveConflict()])
async def test_a_stale_attempt_that_cannot_save_leaves_its_workspace_to_the_next(
    world: Any, agents: Any, trouble: Exception
) -> None:
    job = await world.submit()
    frozen, awake, tries = asyncio.Event(), asyncio.Event(), []
    put = world.archives.put

    async def freezes(name: str, source: Any, **more: Any) -> Any:
        tries.append(name)
        if not name.endswith(".1.zip"):
            return await put(name, source, **more)
        frozen.set()
        await awake.wait()
        raise trouble

    world.archives.put = freezes
    world.agent.acts.append(agents.writes("a", "first", agents.done("first")))
    run = world.begin(worker="frozen")
    await frozen.wait()
    world.roster.dead.add("frozen")
    await world.sweep().once()
    awake.set()
    await run
    await world.run_next(agents.writes("b", "second", agents.done("second")))
    assert [name.rpartition("/")[2] for name in tries] == [f"{job.job_id}.1.zip", f"{job.job_id}.2.zip"]
    archive = await stored(world, (await world.job(job.job_id)).archive)
    assert (archive.read("a"), archive.read("b")) == (b"first", b"second")
    assert list((world.data / "unsaved").iterdir()) == []


async def test_an_older_archive_is_not_published_over_a_newer_one(world: Any, agents: Any) -> None:
    first = await world.submit()
    frozen, awake = asyncio.Event(), asyncio.Event()
    change = world.store.change

    async def freezes(job_id: str, decide: Any, **more: Any) -> Any:
        changed = await change(job_id, decide, **more)
        if job_id == first.job_id and changed.job.status is Status.COMPLETED:
            frozen.set()
            await awake.wait()
        return changed

    world.store.change = freezes
    world.agent.acts.append(agents.writes("a", "first", agents.done()))
    run = world.begin(world.machine("first"))
    await frozen.wait()
    await world.submit(session_id=first.session_id)
    await world.run_next(agents.writes("a", "second", agents.done()), on=world.machine("second"))
    awake.set()
    await run
    assert (await stored(world, f"claude-code/{first.session_id}.zip")).read("a") == b"second"


async def state(world: Any, job: Any) -> Any:
    session = await world.store.session(job.session_id)
    return (
        await world.job(job.job_id),
        await world.events(job.job_id),
        session,
        await world.archives.listing(""),
    )


async def test_one_that_is_called_off_leaves_nothing_visible_and_can_be_made_again(world: Any) -> None:
    job = await world.submit()
    begun, put = asyncio.Event(), world.archives.put

    async def follows(name: str, source: Any, *, growth: Any = None) -> Any:
        await growth.beyond(0)
        begun.set()
        return await put(name, source, growth=growth)

    await world.workspaces.prepare(replace(job, attempt=1), await world.store.session(job.session_id))
    (world.workspaces.root(job.job_id, 1) / "files" / "noise.bin").write_bytes(
        random.Random(2).randbytes(9 << 20)
    )
    saving = world.workspaces.saving(replace(job, attempt=1), await world.store.session(job.session_id), 0.0)
    world.archives.put = follows
    first = asyncio.create_task(saving.store())
    await begun.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    assert await world.archives.listing("") == []
    world.archives.put = put
    saved = await saving.store()
    assert "noise.bin" in (await stored(world, saved.archive.name)).namelist()


async def test_what_did_not_change_since_the_restore_is_copied(world: Any, agents: Any) -> None:
    first = await world.submit()
    await world.run_next(fills(1 << 20))
    second = await world.submit(session_id=first.session_id)
    await world.run_next(agents.writes("new.txt", "new", agents.done()), on=world.machine("elsewhere"))
    [ready] = await world.told(second.job_id, "workspace.ready")
    [saved] = await world.told(second.job_id, "workspace.saved")
    assert ready["source"] == "archive"
    assert saved["reused_entries"] >= 1
    assert saved["fresh_bytes"] < 1 << 16
    archive = await stored(world, (await world.job(second.job_id)).archive)
    assert archive.testzip() is None
    assert len(archive.read("noise.bin")) == 1 << 20


async def test_a_restored_tree_is_unchanged_until_something_is_written(world: Any, agents: Any) -> None:
    first = await world.submit()
    await world.run_next(agents.writes("a.txt", "a", agents.done()))
    job = replace(await world.submit(session_id=first.session_id), attempt=1)
    elsewhere = world.machine("elsewhere")
    await elsewhere.prepare(job, await world.store.session(job.session_id))
    assert await elsewhere.unchanged(job)
    (elsewhere.root(job.job_id, 1) / "files" / "a.txt").write_text("b")
    assert not await elsewhere.unchanged(job)
