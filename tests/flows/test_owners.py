"""A workspace belongs to the user of its run, from before the run on and in each attempt."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.domain.errors import ErrorCode
from overnight.domain.outcome import failed
from overnight.ports import RunOrder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

FIRST, SECOND = (42_911, 42_911), (42_912, 42_912)


def owners(order: RunOrder) -> set[tuple[int, int]]:
    trees = (order.workspace.files, order.workspace.home)
    paths: list[Path] = [path for tree in trees for path in (tree, *tree.rglob("*"))]
    return {(status.st_uid, status.st_gid) for status in (path.lstat() for path in paths)}


def looking(world: Any, seen: list[Any], act: Any) -> Any:
    async def look(order: RunOrder, emit: Any, stop: Any) -> Any:
        seen.append((world.agent.held, order.workspace.owner, owners(order)))
        return await act(order, emit, stop)

    return look


async def test_restored_files_are_the_slots_user_s_and_the_slot_is_held_for_the_run(
    world: Any, agents: Any
) -> None:
    seen: list[Any] = []
    world.agent.users = [FIRST]
    first = await world.submit()
    await world.run_next(looking(world, seen, agents.writes("kept.txt", "x", agents.done())))
    world.agent.users = [SECOND]
    await world.submit(session_id=first.session_id)
    await world.run_next(looking(world, seen, agents.writes("more.txt", "x", agents.done())))
    assert seen == [(1, FIRST, {FIRST}), (1, SECOND, {SECOND})]
    assert world.agent.held == 0


async def test_the_next_attempt_s_user_gets_what_the_last_one_left(world: Any, agents: Any) -> None:
    seen: list[Any] = []
    broke = failed(ErrorCode.INTERNAL, "for now")
    world.agent.users = [FIRST]
    await world.submit()
    await world.run_next(looking(world, seen, agents.writes("kept.txt", "x", broke)))
    world.clock.time += 60
    world.agent.users = [SECOND]
    await world.run_next(looking(world, seen, agents.writes("more.txt", "x", agents.done())))
    assert [owned for _, _, owned in seen] == [{FIRST}, {SECOND}]
    (order, again) = world.agent.orders
    assert order.workspace.root != again.workspace.root


async def test_a_kept_workspace_is_taken_by_the_same_user_only(world: Any, agents: Any) -> None:
    world = replace(world, warm=1)
    sources: list[str] = []
    seen: list[Any] = []
    session_id = None
    for owner in (FIRST, FIRST, SECOND):
        world.agent.users = [owner]
        job = await world.submit(session_id=session_id)
        session_id = job.session_id
        await world.run_next(looking(world, seen, agents.writes("kept.txt", str(owner), agents.done())))
        [ready] = await world.told(job.job_id, "workspace.ready")
        sources.append(ready["source"])
    assert sources == ["new", "warm", "archive"]
    assert [owned for _, _, owned in seen] == [{FIRST}, {FIRST}, {SECOND}]
