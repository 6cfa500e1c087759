"""What a service or a worker does not wait for when it is told to stop."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from overnight.domain.job import Session
from overnight.settings import Settings
from overnight.wiring.base import opened_base
from overnight.wiring.running import Running
from overnight.wiring.work import working


class Slow:
    """An archive store that has begun to list, and does not come to an end."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def listing(self, _prefix: str) -> Any:
        self.asked.set()
        await asyncio.Event().wait()


class NoAgent:
    refusal = "No jobs are run here."


async def test_it_does_not_wait_for_a_slow_archive_store(tmp_path: Path) -> None:
    slow: Any = Slow()
    agent: Any = NoAgent()
    given: dict[str, Any] = {"data": tmp_path}
    async with opened_base(Settings(**given), None) as base:
        session = Session(session_id=base.entropy.session_id(), created_at=0.0, updated_at=0.0)
        await base.store.change_session(session.session_id, lambda _: session)
        async with asyncio.timeout(30), working(replace(base, archives=slow), agent, Running("", ())):
            await slow.asked.wait()
