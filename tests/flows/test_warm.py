"""Workspaces kept for the next job of their session: used only if they are exactly what its archive holds."""

import asyncio
import os
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.domain.job import Status
from overnight.domain.keys import LOCAL
from overnight.domain.outcome import Ending, Outcome
from overnight.flows.kept_here import KeptHere
from overnight.flows.places import make_empty
from overnight.flows.preparing import Source
from overnight.flows.sessions import erase
from overnight.flows.warm import WarmWorkspaces
from overnight.ports import RunOrder, Stop


@pytest.fixture
def world(world: Any) -> Any:
    return replace(world, warm=2)


class Sight:
    """What an agent found in its workspace."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.home: list[str] = []
        self.talk = ""

    async def act(self, order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        root = order.workspace.files
        found = (Path(top) / name for top, _, names in os.walk(root) for name in names)
        self.files = {str(path.relative_to(root)): path.read_text() for path in sorted(found)}
        self.home = sorted(path.name for path in order.workspace.home.iterdir())
        self.talk = (order.workspace.transcripts / "talk.jsonl").read_text()
        return Outcome(ending=Ending.DONE, result="looked", cost_usd=0.5)


async def builds(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
    root = order.workspace.files
    (root / "sub" / "dist").mkdir(parents=True)
    (root / "sub" / "dist" / "built.js").write_text("left out")
    (root / "sub" / "b.txt").write_text("b")
    (root / "a.txt").write_text("a")
    (root / "run").symlink_to("a.txt")
    (order.workspace.home / ".bashrc").write_text("alias ls=rm")
    (order.workspace.transcripts / "talk.jsonl").write_text("{}\n")
    return Outcome(ending=Ending.DONE, result="built", cost_usd=0.25)


async def first_of(world: Any, **options: Any) -> Any:
    """The session after a job that built something, and the place where its workspace is kept."""
    job = await world.submit(**options)
    await world.run_next(builds)
    session = await world.store.session(job.session_id)
    return session, world.data / "warm" / session.session_id


async def next_of(world: Any, session: Any, **more: Any) -> tuple[Sight, Any]:
    job, sight = await world.submit(session_id=session.session_id), Sight()
    await world.run_next(sight.act, **more)
    assert (await world.job(job.job_id)).status is Status.COMPLETED
    [ready] = await world.told(job.job_id, "workspace.ready")
    return sight, ready


async def test_the_next_job_finds_what_it_would_have_restored_and_fetches_nothing(world: Any) -> None:
    session, kept = await first_of(world)
    assert kept.is_dir()

    async def unusable(name: str, target: Any) -> Any:
        raise OSError("the store is away")

    fetch, world.archives.fetch = world.archives.fetch, unusable
    warm, ready = await next_of(world, session)
    assert (ready["source"], ready["fetched_bytes"], ready["archive"]) == (
        Source.WARM,
        0,
        session.archive.name,
    )
    world.archives.fetch = fetch
    cold, ready = await next_of(world, session, on=world.machine("elsewhere"))
    assert ready["source"] == Source.ARCHIVE
    assert ready["fetched_bytes"] > 0
    assert (warm.files, warm.home, warm.talk) == (cold.files, cold.home, cold.talk)
    assert warm.files == {"a.txt": "a", "run": "a", "sub/b.txt": "b"}


@pytest.mark.parametrize("users", [(), ((43_100, 43_100), (43_101, 43_101))])
async def test_a_follow_up_that_starts_with_the_finish_waits_for_what_is_kept(world: Any, users: Any) -> None:
    if users and os.geteuid() != 0:
        pytest.skip("only root can give runs users of their own")
    world.agent.users = list(users[1:])
    first = await world.submit()
    second, sight = await world.submit(session_id=first.session_id), Sight()
    follow_up: list[asyncio.Task[None]] = []

    async def starts_the_next() -> None:
        await world.queue.send(second.job_id, at=world.clock.now())
        world.agent.users = list(users)
        follow_up.append(world.begin())
        await world.until(second.job_id, "job.started")

    at_its_end(world, first, starts_the_next)
    bell, early = await world.bell(), await world.bell()
    await world.queue.ack(early)
    world.agent.acts += [builds, sight.act]
    await world.runner().run(bell, leaving=world.leaving)
    await follow_up[0]
    [ready] = await world.told(second.job_id, "workspace.ready")
    assert (ready["source"], sight.files["a.txt"]) == (Source.WARM, "a")


def at_its_end(world: Any, job: Any, act: Callable[[], Awaitable[None]]) -> None:
    """Let something happen as soon as the job is over."""
    change = world.store.change

    async def changes(job_id: str, decide: Any, **more: Any) -> Any:
        changed = await change(job_id, decide, **more)
        if job_id == job.job_id and changed.job.status is Status.COMPLETED:
            await act()
        return changed

    world.store.change = changes


async def test_a_sweep_does_not_delete_what_is_about_to_be_kept(world: Any) -> None:
    job = await world.submit()
    at_its_end(world, job, lambda: world.sweep().once())
    await world.run_next(builds)
    _, ready = await next_of(world, await world.store.session(job.session_id))
    assert ready["source"] == Source.WARM


async def test_a_follow_up_does_not_wait_for_a_slow_copy_and_that_does_not_hide_what_it_leaves(
    world: Any,
) -> None:
    first, publish, ends = await world.submit(), world.archives.publish, asyncio.Event()

    async def slow(name: str, alias: str) -> None:
        if name.endswith(f"{first.job_id}.1.zip"):
            await ends.wait()
        await publish(name, alias)

    world.archives.publish = slow
    world.agent.acts.append(builds)
    run = world.begin()
    await world.until(first.job_id, "job.completed")
    _, ready = await next_of(world, first)
    assert ready["source"] == Source.WARM
    ends.set()
    await run
    alias, current = world.data / "alias", world.data / "current"
    await world.archives.fetch(f"claude-code/{first.session_id}.zip", alias)
    await world.archives.fetch((await world.store.session(first.session_id)).archive.name, current)
    assert alias.read_bytes() == current.read_bytes()


async def test_one_that_was_written_to_is_thrown_away(world: Any) -> None:
    session, kept = await first_of(world)
    (kept / "files" / "sub" / "b.txt").write_text("B")
    sight, ready = await next_of(world, session)
    assert (ready["source"], sight.files["sub/b.txt"]) == (Source.ARCHIVE, "b")


async def test_one_of_an_earlier_archive_is_thrown_away(world: Any) -> None:
    session, _ = await first_of(world)
    await next_of(world, session, on=world.machine("elsewhere"))  # The session has moved on.
    sight, ready = await next_of(world, session)
    assert ready["source"] == Source.ARCHIVE
    assert sight.files["a.txt"] == "a"


async def test_one_whose_note_is_damaged_is_thrown_away(world: Any) -> None:
    session, kept = await first_of(world)
    (kept / "about.json").write_text("{")
    assert (await next_of(world, session))[1]["source"] == Source.ARCHIVE


async def test_one_that_belongs_to_another_user_of_the_system_is_thrown_away(world: Any) -> None:
    session, kept = await first_of(world)
    warm = WarmWorkspaces(kept.parent, 2, 1 << 30, ("dist",))
    make_empty(world.data / "root")
    assert not warm.take(world.data / "root", session, (42001, 42001))
    assert not kept.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give runs users of their own")
async def test_a_follow_up_gets_the_user_whose_workspace_is_kept(world: Any) -> None:
    """Also where lower users are free by then."""
    first, second = (43_100, 43_100), (43_101, 43_101)
    world.agent.users = [second]
    session, _ = await first_of(world)
    world.agent.users = [first, second]
    _, ready = await next_of(world, session)
    assert ready["source"] == Source.WARM
    assert world.agent.orders[-1].workspace.owner == second
    world.agent.users = [first]
    _, ready = await next_of(world, session)
    assert ready["source"] == Source.ARCHIVE, "its user is another run's"
    world.agent.users = [second, first]
    _, ready = await next_of(world, session)
    assert (ready["source"], world.agent.orders[-1].workspace.owner) == (Source.WARM, first)


async def test_one_of_another_owner_is_thrown_away(world: Any) -> None:
    session, _ = await first_of(world)
    await world.store.change_session(session.session_id, lambda found: replace(found, owner="mallory"))
    assert (await next_of(world, session))[1]["source"] == Source.ARCHIVE


async def test_two_workers_of_one_machine_never_have_the_same_one(world: Any) -> None:
    session, _ = await first_of(world)
    warm = WarmWorkspaces(world.data / "warm", 2, 1 << 30, ("dist",))
    roots = [world.data / name for name in ("one", "two", "three")]
    taken = await asyncio.gather(*(asyncio.to_thread(take, warm, root, session) for root in roots))
    assert sorted(taken) == [False, False, True]


def take(warm: WarmWorkspaces, root: Path, session: Any) -> bool:
    make_empty(root)
    return warm.take(root, session, None)


async def test_the_longest_unused_are_evicted_over_the_number(world: Any) -> None:
    kept = [(await first_of(world))[1] for _ in range(3)]
    assert all(place.is_dir() for place in kept)
    await world.sweep().once()
    assert [place.is_dir() for place in kept] == [False, True, True]
    assert [path.name for path in (world.data / "warm").iterdir() if path.name.startswith(".")] == []


async def test_over_the_bytes_none_is_kept(world: Any) -> None:
    small = replace(world, warm_bytes=10)
    _, kept = await first_of(small)
    assert not kept.exists()


async def test_while_a_run_goes_on_nothing_large_is_deleted(world: Any) -> None:
    kept = [(await first_of(world))[1] for _ in range(3)]

    async def act(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        await world.sweep().once()
        assert all(place.is_dir() for place in kept)
        return Outcome(ending=Ending.DONE, result="", cost_usd=0.1)

    await world.submit()
    await world.run_next(act)
    await world.sweep().once()
    assert not kept[0].exists()


async def test_what_a_dead_process_left_half_way_is_deleted(world: Any) -> None:
    _, kept = await first_of(world)
    half, taken = kept.with_name(".new.j.1"), kept.with_name(".taken.j.1")
    half.mkdir()
    taken.mkdir()
    await world.sweep().once()
    world.clock.time = half.stat().st_ctime + 10
    await world.sweep().once()
    assert half.is_dir()
    world.clock.time += 4000
    await world.sweep().once()
    assert (half.exists(), taken.exists(), kept.exists()) == (False, False, True)


async def test_a_link_on_the_way_to_the_conversation_moves_nothing_foreign(
    world: Any, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign" / "projects" / "workspace"
    foreign.mkdir(parents=True)
    (foreign / "secret.txt").write_text("secret")

    async def plants(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        claude = order.workspace.home / ".claude"
        claude.rename(claude.with_name("moved"))
        claude.symlink_to(tmp_path / "foreign")
        return Outcome(ending=Ending.DONE, result="planted", cost_usd=0.1)

    await world.submit()
    await world.run_next(plants)
    assert (foreign / "secret.txt").read_text() == "secret"
    assert not list((world.data / "warm").rglob("secret.txt"))


@pytest.mark.parametrize("step", [".claude", ".claude/projects", ".claude/projects/workspace"])
async def test_a_link_on_the_way_to_the_conversation_leads_no_foreign_byte_into_the_archive(
    world: Any, tmp_path: Path, step: str
) -> None:
    foreign = tmp_path / "foreign"
    place = foreign / ".claude" / "projects" / "workspace"
    place.mkdir(parents=True)
    (place / "another.jsonl").write_text("secret")

    async def plants(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        (order.workspace.files / "mine.txt").write_text("mine")
        link = order.workspace.home / step
        link.rename(tmp_path / "moved")
        link.symlink_to(foreign / step)
        return Outcome(ending=Ending.DONE, result="planted", cost_usd=0.1)

    job = await world.submit()
    await world.run_next(plants)
    assert "workspace.saved" in await world.kinds(job.job_id)
    target = tmp_path / "archive.zip"
    await world.archives.fetch((await world.job(job.job_id)).archive, target)
    with zipfile.ZipFile(target) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".jsonl")]
        assert archive.read("mine.txt") == b"mine"
    assert (place / "another.jsonl").read_text() == "secret"


async def test_nothing_is_kept_of_a_session_that_was_erased_meanwhile(world: Any) -> None:
    job = await world.submit()

    async def erases() -> None:
        await erase(
            job.session_id,
            caller=LOCAL,
            store=world.store,
            archives=world.archives,
            kept=world.kept,
            clock=world.clock,
        )

    at_its_end(world, job, erases)
    await world.run_next(builds)
    assert not list((world.data / "warm").glob("**/a.txt"))
    assert await world.archives.listing("claude-code/") == []


async def test_an_alias_that_is_published_after_an_erasure_goes_too(world: Any) -> None:
    """A copy that began before it ends after it, in a store that is far away."""
    job, copy = await world.submit(), world.data / "copy"

    async def slow(name: str, alias: str) -> None:
        await world.archives.fetch(name, copy)
        await erase(
            job.session_id,
            caller=LOCAL,
            store=world.store,
            archives=world.archives,
            kept=world.kept,
            clock=world.clock,
        )
        await world.archives.put(alias, copy)

    world.archives.publish = slow
    await world.run_next(builds)
    assert await world.archives.listing("claude-code/") == []


async def test_a_workspace_is_deleted_once_its_session_was_erased_on_another_machine(world: Any) -> None:
    session, kept = await first_of(world)
    await world.housekeeping().once()
    assert kept.is_dir()
    await erase(
        session.session_id,
        caller=LOCAL,
        store=world.store,
        archives=world.archives,
        kept=KeptHere(world.data / "elsewhere"),
        clock=world.clock,
    )
    await world.housekeeping().once()
    assert not kept.exists()


async def test_one_whose_note_is_damaged_is_evicted(world: Any) -> None:
    _, kept = await first_of(world)
    (kept / "about.json").unlink()
    await world.sweep().once()
    assert not kept.exists()
