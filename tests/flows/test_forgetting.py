"""Old jobs are forgotten by the housekeeping, in bounded steps, and their sessions go on."""

from typing import Any

from overnight.flows.forgetting import JOBS_AT_ONCE, TURNS, Forgetting

DAY = 86_400.0


async def test_old_jobs_are_forgotten_round_by_round(world: Any, agents: Any) -> None:
    first = await world.submit()
    await world.run_next(agents.writes("a", "a", agents.done()))
    for _ in range(4):
        await world.submit(session_id=first.session_id)
        await world.run_next(agents.writes("b", "b", agents.done()))
    forgetting = Forgetting(history=world.store, clock=world.clock, seconds=90 * DAY)
    await forgetting.once()
    assert len((await world.store.jobs(limit=99)).rows) == 5
    world.clock.time += 91 * DAY
    await forgetting.once()
    [left] = (await world.store.jobs(limit=99)).rows
    job = await world.submit(session_id=first.session_id)
    await world.run_next(agents.writes("c", "c", agents.done()))
    [ready] = await world.told(job.job_id, "workspace.ready")
    assert ready["archive"] == left.session.archive.name, "its archive is where it was"
    await world.housekeeping().once()
    assert {name.rpartition("/")[2] for name in await names(world, first.session_id)} >= {
        f"{left.job.job_id}.1.zip",
        f"{job.job_id}.1.zip",
    }


async def names(world: Any, session_id: str) -> list[str]:
    return [archive.name for archive in await world.archives.listing(f"claude-code/{session_id}/")]


async def test_a_round_is_bounded(world: Any) -> None:
    asked: list[tuple[str | None, int]] = []

    class Endless:
        async def forget(self, *, finished_before: float, after: str | None, limit: int) -> str | None:
            asked.append((after, limit))
            return str(len(asked))

    forgetting = Forgetting(history=Endless(), clock=world.clock, seconds=1.0)
    await forgetting.once()
    assert len(asked) == TURNS
    await forgetting.once()
    assert asked[TURNS] == (str(TURNS), JOBS_AT_ONCE), "the next round goes on there"
