"""The repairs: each is idempotent, and each mends what one kind of death leaves behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.adapters.sqlite.database import open_database
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.queue import SqliteQueue
from overnight.adapters.sqlite.store import SqliteStore
from overnight.domain import transitions
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Status
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import resend
from overnight.flows.bells import ring
from overnight.flows.sweep import sights_of
from overnight.ports import RunOrder, Stop, StorageFull


async def claim(world: Any, job: Any, worker: str = "worker-1") -> None:
    now = world.clock.now()
    start = transitions.start(worker=worker, now=now, lease_seconds=15.0, isolation="test")
    await world.store.change(job.job_id, start)


async def test_a_lapsed_lease_is_taken_back_and_rung(world: Any) -> None:
    job = await world.submit()
    await world.queue.ack(await world.bell())
    await claim(world, job)
    await world.sweep().once()
    assert (await world.job(job.job_id)).status is Status.PROCESSING
    world.clock.time += 15.0
    sweep = world.sweep()
    await sweep.once()
    await sweep.once()
    assert (await world.job(job.job_id)).status is Status.QUEUED
    assert world.agent.reaped == [world.workspaces.root(job.job_id, 1)]
    assert (await world.bell()).job_id == job.job_id


class FullDisk:
    """A store that can be read, and takes nothing."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def change(self, *_given: Any) -> Any:
        raise StorageFull("no room")


async def test_on_a_full_disk_room_is_made_and_lapsed_leases_are_counted_anew(world: Any) -> None:
    """A worker that lives could not have renewed its own, and tries to more often than it is looked for."""
    job = await world.submit()
    await claim(world, job)
    left = world.workspaces.root("0190a0a0-0000-7000-8000-000000000000", 1)
    left.mkdir(parents=True)
    world.clock.time += 15.0
    sweep = world.sweep()
    full = replace(sweep, store=FullDisk(world.store))
    await full.once()
    with pytest.raises(ExceptionGroup):
        await full.once()
    assert not left.exists()
    await sweep.once()
    assert (await world.job(job.job_id)).status is Status.PROCESSING
    await sweep.once()
    assert (await world.job(job.job_id)).status is Status.QUEUED


async def test_a_worker_that_slept_with_its_machine_and_renews_on_waking_keeps_its_job(world: Any) -> None:
    job = await world.submit()
    await claim(world, job)
    world.clock.time += 3600.0
    sweep = world.sweep()
    await sweep.once()
    renew = transitions.renew(attempt=1, now=world.clock.now(), lease_seconds=15.0)
    await world.store.change(job.job_id, renew)
    await sweep.once()
    world.clock.time += 15.0
    await sweep.once()
    assert (await world.job(job.job_id)).status is Status.PROCESSING


async def test_a_worker_has_the_time_between_two_renewals_to_renew_on_waking(world: Any) -> None:
    """The timers of a machine stand still while it sleeps: the next renewal is due then when it was before."""
    job = await world.submit()
    await claim(world, job)
    world.clock.time += 3600.0
    sweep = replace(world.sweep(), sights=sights_of(15.0, pause_seconds=1.0))
    for _ in range(5):
        await sweep.once()
        world.clock.time += 1.0
    assert (await world.job(job.job_id)).status is Status.PROCESSING, "five seconds have not gone by"
    await sweep.once()
    assert (await world.job(job.job_id)).status is Status.QUEUED


async def test_the_job_of_a_worker_known_to_be_dead_does_not_wait_for_its_lease(world: Any) -> None:
    job = await world.submit()
    await claim(world, job)
    world.roster.dead.add("worker-1")
    await world.sweep().once()
    assert (await world.job(job.job_id)).status is Status.QUEUED


async def test_a_job_that_kills_every_worker_ends_as_a_dead_letter(world: Any) -> None:
    job = await world.submit()
    sweep = world.sweep()
    for _ in range(world.policy.max_losses + 1):
        await claim(world, job)
        world.clock.time += 1000.0
        await sweep.once()
        await sweep.once()
        world.clock.time += 1000.0  # the delay before the next try
    dead = await world.job(job.job_id)
    assert (dead.status, dead.error.code) == (Status.FAILED, ErrorCode.WORKER_LOST)


async def test_a_lost_bell_is_rung_again(world: Any) -> None:
    job = await world.submit()
    await world.queue.ack(await world.bell())
    await world.sweep().once()
    assert (await world.bell()).job_id == job.job_id


async def test_a_long_queue_costs_a_sweep_few_transactions(world: Any) -> None:
    async with open_database(world.data) as database:
        world.store = SqliteStore(database, world.wakeups, world.clock)
        world.queue = SqliteQueue(database, world.wakeups, world.clock, world.entropy)
        for _ in range(50):
            await world.submit()
        before = database.commits
        await replace(world.sweep(), index=SqliteIndex(database)).once()
        assert 1 <= database.commits - before <= 5


async def becomes_a_dead_letter(world: Any, agents: Any, job: Any) -> None:
    """Its first attempt leaves half of the work, and the later ones find no place to run."""
    await world.run_next(agents.writes("half", "half", failed(ErrorCode.OVERLOADED, "busy")))
    with pytest.MonkeyPatch.context() as full:
        full.setattr(world.agent, "slot", no_slot)
        while (await world.job(job.job_id)).status is Status.QUEUED:
            world.clock.time += 1000.0
            await world.run_next()
    dead = await world.job(job.job_id)
    assert (dead.status, dead.error.code, dead.archive) == (Status.FAILED, ErrorCode.STORAGE, None)


def no_slot(**_: Any) -> Any:
    raise OSError("the disk is full")


async def test_a_dead_letter_whose_work_is_in_no_archive_is_sent_again_in_it(world: Any, agents: Any) -> None:
    job, found = await world.submit(), list[str]()
    await becomes_a_dead_letter(world, agents, job)
    await world.sweep().once()

    async def look(order: RunOrder, _emit: Any, _stop: Stop) -> Outcome:
        found.extend(path.name for path in order.workspace.files.iterdir())
        return Outcome(ending=Ending.DONE, result="")

    await ring(world.queue, (await world.store.change(job.job_id, resend(now=world.clock.now()))).rings)
    await world.run_next(look)
    assert found == ["half"]


async def test_what_a_dead_letter_left_goes_once_its_session_has_gone_on(world: Any, agents: Any) -> None:
    job = await world.submit()
    await becomes_a_dead_letter(world, agents, job)
    await world.submit(session_id=job.session_id)
    await world.run_next(agents.writes("other", "other", agents.done()))
    await world.sweep().once()
    assert list((world.data / "runs").iterdir()) == []


async def test_what_cannot_be_ended_does_not_stop_the_sweep(
    world: Any, agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck: list[Path] = []
    for _ in range(3):
        job = await world.submit()
        await world.run_next(agents.writes("a", "a", agents.done()))
        world.workspaces.root(job.job_id, 1).mkdir(parents=True)

    async def reap(root: Path) -> None:
        if not stuck:
            stuck.append(root)
            raise OSError("in a call that never returns")

    monkeypatch.setattr(world.agent, "reap", reap)
    await world.sweep().once()
    assert list((world.data / "runs").iterdir()) == stuck


async def test_directories_of_finished_jobs_are_deleted_and_those_of_waiting_ones_stay(
    world: Any, agents: Any
) -> None:
    finished = await world.submit()
    await world.run_next(agents.writes("a", "a", agents.done()))
    waiting = await world.submit()
    kept, gone = world.workspaces.root(waiting.job_id, 1), world.workspaces.root(finished.job_id, 1)
    for root in (kept, gone):
        root.mkdir(parents=True)
    await world.sweep().once()
    assert (kept.exists(), gone.exists()) == (True, False)
    assert gone in world.agent.reaped
