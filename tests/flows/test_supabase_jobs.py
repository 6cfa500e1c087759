"""Jobs whose sessions are kept in Supabase Storage: refusals and limits never cost a session its files."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.supabase_server.app import Server, storage_server
from tests.supabase_server.bucket import ALL, ANON, Project, false_miss

from overnight.adapters.supabase import Access, supabase_archives
from overnight.adapters.supabase.patience import Patience
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Status
from overnight.flows.workspace import Workspaces


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "bucket").mkdir()
    async with storage_server(Project(tmp_path / "bucket")) as running:
        yield running


@asynccontextmanager
async def on(server: Server, world: Any) -> AsyncIterator[None]:
    """The world keeps its archives on the server, by the public key and its policies."""
    async with supabase_archives(
        Access(url=server.url, key=ANON),
        notes=world.data / "uploads",
        clock=SystemClock(),
        entropy=SystemEntropy(),
        patience=Patience(chance=lambda: 0.0, delays=(0.0, 0.0)),
    ) as archives:
        world.archives = archives
        world.workspaces = Workspaces(world.data, archives, exclude=())
        yield


async def test_a_session_goes_on_from_the_bucket(server: Server, world: Any, agents: Any) -> None:
    async with on(server, world):
        first = await world.submit()
        await world.run_next(agents.writes("a.txt", "kept", agents.done()))
        await world.submit(session_id=first.session_id)
        seen: list[str] = []

        async def reads(order: Any, _emit: Any, _stop: Any) -> Any:
            seen.append((order.workspace.files / "a.txt").read_text())
            return agents.done()

        await world.run_next(reads)
    assert seen == ["kept"]
    assert f"claude-code/{first.session_id}.zip" in server.project.objects


@pytest.mark.parametrize("trouble", ["no right to read", "a false miss", "a key that is revoked"])
async def test_a_session_that_cannot_be_read_is_never_started_anew(
    server: Server, world: Any, agents: Any, trouble: str
) -> None:
    async with on(server, world):
        first = await world.submit()
        await world.run_next(agents.writes("a.txt", "kept", agents.done()))
        kept = dict(server.project.objects)
        second = await world.submit(session_id=first.session_id)
        match trouble:
            case "no right to read":
                server.project.rights[ANON] = ALL - {"select"}
            case "a false miss":
                server.faults.queued += [("GET", "/object", false_miss()) for _ in range(20)]
            case _:
                del server.project.rights[ANON]
        await world.run_next()
        ended = await world.job(second.job_id)
    assert len(world.agent.orders) == 1
    assert (ended.status, ended.failures) == (Status.QUEUED, 1) or ended.error.code is ErrorCode.STORAGE
    assert {name: server.project.objects.get(name) for name in kept} == kept


@pytest.mark.parametrize("fail", [False, True])
async def test_a_workspace_larger_than_the_store_takes_is_kept_on_disk(
    server: Server, world: Any, agents: Any, fail: bool
) -> None:
    server.project.largest = 100
    world.fail_too_large = fail
    async with on(server, world):
        job = await world.submit()
        await world.run_next(agents.writes("a.txt", "kept", agents.done("paid for")))
        ended = await world.job(job.job_id)
        [told] = [e.data for e in await world.events(job.job_id) if e.type == "workspace.not_saved"]
    [place] = (world.data / "unsaved").iterdir()
    assert told == {"kept_in": place.name, "reason": "too_large", "limit": 100}
    assert (place / "files" / "a.txt").read_text() == "kept"
    assert ended.result == "paid for"
    if fail:
        assert (ended.status, ended.error.code) == (Status.FAILED, ErrorCode.STORAGE)
    else:
        assert (ended.status, ended.archive) == (Status.COMPLETED, None)


async def test_a_store_that_refuses_is_not_asked_again_and_again(
    server: Server, world: Any, agents: Any
) -> None:
    async with on(server, world):
        job = await world.submit()
        server.project.rights[ANON] = ALL - {"insert"}
        await world.run_next(agents.writes("a.txt", "kept", agents.done("paid for")))
        ended = await world.job(job.job_id)
        [told] = [e.data for e in await world.events(job.job_id) if e.type == "workspace.not_saved"]
    assert (ended.status, told["reason"]) == (Status.COMPLETED, "denied")
    assert [path for method, path in server.requests if path.startswith("/object/content")] != []
    assert len([path for method, path in server.requests if path.startswith("/object/content")]) == 1
