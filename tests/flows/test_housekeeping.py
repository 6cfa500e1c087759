"""The slow repairs, and the archives that a session has outgrown."""

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.adapters.cloudflare.owed import OwnIndex
from overnight.adapters.memory_archives import MemoryArchives
from overnight.domain.errors import ErrorCode, SessionNotFound
from overnight.domain.job import Session
from overnight.domain.keys import LOCAL
from overnight.domain.outcome import failed
from overnight.domain.retention import RetentionPolicy
from overnight.domain.transitions import finish, start
from overnight.flows.housekeeping import SESSIONS_AT_ONCE
from overnight.flows.sessions import erase
from overnight.flows.unsaved import InUse


class RefusingArchives(MemoryArchives):
    """Deletes nothing while `refuses` is set."""

    refuses = False

    async def delete(self, name: str) -> None:
        if self.refuses:
            raise OSError(errno.EACCES, "the key may not delete")
        await super().delete(name)


@pytest.fixture
def refusing(world: Any) -> RefusingArchives:
    archives = RefusingArchives(world.clock)
    world.use(archives)
    return archives


async def names(world: Any, session_id: str) -> list[str]:
    return [archive.name for archive in await world.archives.listing(f"claude-code/{session_id}/")]


async def run_jobs(world: Any, agents: Any, count: int, session_id: str | None = None) -> Sequence[Any]:
    jobs = []
    for number in range(count):
        world.clock.time += 1
        job = await world.submit(session_id=session_id)
        session_id = job.session_id
        await world.run_next(agents.writes(f"file-{number}", f"{number}", agents.done()))
        jobs.append(await world.job(job.job_id))
    return jobs


async def stored(world: Any, name: str, tmp_path: Path) -> str:
    source = tmp_path / "source.zip"
    source.write_bytes(name.encode())
    await world.archives.put(name, source)
    return name


async def erase_session(world: Any, session_id: str) -> bool:
    return await erase(
        session_id,
        caller=LOCAL,
        store=world.store,
        archives=world.archives,
        kept=world.kept,
        clock=world.clock,
    )


async def test_a_finished_job_leaves_the_newest_versions(world: Any, agents: Any) -> None:
    world.retention_policy = RetentionPolicy(versions=3)
    jobs = await run_jobs(world, agents, 5)
    assert await names(world, jobs[0].session_id) == sorted(job.archive for job in jobs[-3:])


async def test_of_a_dead_attempt_nothing_stays(world: Any, agents: Any, tmp_path: Path) -> None:
    [job] = await run_jobs(world, agents, 1)
    place = f"claude-code/{job.session_id}/{job.job_id}"
    for name in (f"{place}.7.zip", f"{place}.1.c3.zip"):
        await stored(world, name, tmp_path)
    await world.retention().tidy(job.session_id)
    assert await names(world, job.session_id) == [job.archive]


async def test_a_store_that_does_not_delete_fails_no_job(
    world: Any, agents: Any, refusing: RefusingArchives
) -> None:
    world.retention_policy = RetentionPolicy(versions=1)
    [first] = await run_jobs(world, agents, 1)
    refusing.refuses = True
    [second] = await run_jobs(world, agents, 1, first.session_id)
    assert second.status == "completed"
    assert len(await names(world, first.session_id)) == 2
    refusing.refuses = False
    await world.housekeeping().once()
    assert await names(world, first.session_id) == [second.archive]


async def test_archives_of_an_open_job_stay(world: Any, tmp_path: Path) -> None:
    job = await world.submit()
    name = await stored(world, f"claude-code/{job.session_id}/{job.job_id}.1.c1.zip", tmp_path)
    world.clock.time += 1_000_000.0
    await world.housekeeping().once()
    assert await names(world, job.session_id) == [name]


async def test_a_dead_letter_keeps_its_newest_checkpoint(world: Any, tmp_path: Path) -> None:
    job = await world.submit()
    place = f"claude-code/{job.session_id}/{job.job_id}"
    for name in (f"{place}.1.c9.zip", f"{place}.1.c10.zip"):
        await stored(world, name, tmp_path)
    now = world.clock.now()
    await world.store.change(job.job_id, start(worker="w", now=now, lease_seconds=15.0, isolation="test"))
    lost = failed(ErrorCode.MAX_TURNS, "It took all its turns.")
    await world.store.change(job.job_id, finish(lost, attempt=1, now=now, archive=None, delivery_id="msg_0"))
    await world.retention().tidy(job.session_id)
    assert await names(world, job.session_id) == [f"{place}.1.c10.zip"]


async def test_every_session_has_its_turn_in_the_end(world: Any, agents: Any) -> None:
    world.retention_policy = RetentionPolicy(versions=9)
    sessions = [(await run_jobs(world, agents, 2))[0].session_id for _ in range(SESSIONS_AT_ONCE + 2)]
    world.retention_policy = RetentionPolicy(versions=1)
    housekeeping = world.housekeeping()
    await housekeeping.once()
    assert len(await names(world, sessions[0])) == 2
    await housekeeping.once()
    assert [len(await names(world, session_id)) for session_id in sessions] == [1] * len(sessions)


async def test_without_a_list_of_sessions_the_rest_is_done(world: Any) -> None:
    place = world.data / "unsaved" / f"{world.entropy.session_id()}.{world.entropy.job_id()}.1"
    place.mkdir(parents=True)
    await replace(world.housekeeping(), index=OwnIndex(), walks=False).once()
    assert not place.exists()


async def test_an_erasure_deletes_what_is_kept_on_this_machine(
    world: Any, agents: Any, tmp_path: Path
) -> None:
    [job] = await run_jobs(world, agents, 1)
    own = [world.data / "unsaved" / f"{job.session_id}.{job.job_id}.1", world.data / "warm" / job.session_id]
    other = [world.data / "unsaved" / "lost+found", world.data / "warm" / ".waste.x"]
    for place in (*own, *other):
        (place / "files").mkdir(parents=True)
    assert await erase_session(world, job.session_id)
    assert [place.exists() for place in (*own, *other)] == [False, False, True, True]
    assert await world.archives.listing("claude-code/") == []


async def test_what_is_kept_of_a_session_that_is_gone_is_deleted(world: Any, agents: Any) -> None:
    [job] = await run_jobs(world, agents, 1)
    there, gone = (
        world.data / "unsaved" / f"{session}.{job.job_id}.1"
        for session in (job.session_id, world.entropy.session_id())
    )
    for place in (there, gone):
        place.mkdir(parents=True)
    await world.housekeeping().once()
    assert (there.exists(), gone.exists()) == (True, False)


async def test_what_cannot_be_deleted_here_does_not_keep_old_archives(world: Any, agents: Any) -> None:
    """Somebody stores it, and is not done with it."""
    jobs = await run_jobs(world, agents, 2)
    place = world.data / "unsaved" / f"{world.entropy.session_id()}.{jobs[0].job_id}.1"
    place.mkdir(parents=True)

    async def in_use(_session_id: str) -> None:
        raise InUse("somebody stores it")

    world.kept.delete = in_use
    world.retention_policy = RetentionPolicy(versions=1)
    await world.housekeeping().once()
    assert await names(world, jobs[0].session_id) == [jobs[1].archive]


async def test_an_erasure_that_the_store_refuses_stays_marked_until_it_is_done(
    world: Any, agents: Any, refusing: RefusingArchives
) -> None:
    jobs = [*await run_jobs(world, agents, 1), *await run_jobs(world, agents, 1)]
    refusing.refuses = True
    for job in jobs:
        assert not await erase_session(world, job.session_id)
        with pytest.raises(SessionNotFound):
            await world.store.session(job.session_id)
    await world.housekeeping().once()
    assert set(await world.store.erasing()) == {job.session_id for job in jobs}
    refusing.refuses = False
    await world.housekeeping().once()
    assert list(await world.store.erasing()) == []
    assert await world.archives.listing("claude-code/") == []


async def test_an_erasure_that_was_cut_off_is_finished(world: Any, agents: Any) -> None:
    [job] = await run_jobs(world, agents, 1)

    def mark(session: Session | None) -> Session:
        assert session is not None
        return replace(session, erased_at=world.clock.now())

    await world.store.change_session(job.session_id, mark)
    await world.housekeeping().once()
    assert list(await world.store.erasing()) == []
    assert await world.archives.listing("claude-code/") == []
