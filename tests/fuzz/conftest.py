"""The API over the memory adapters, and what must hold of every answer that it gives."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.memory_keys import MemoryKeys
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.api import ApiParts, Limits, Readiness, create_app
from overnight.api.problems import KINDS, Code
from overnight.domain.address import CallbackPolicy
from overnight.domain.redaction import Redactor
from overnight.flows.kept_here import KeptHere
from overnight.flows.keyring import KeyRing

LIMITS = Limits(max_body_bytes=64 * 1024, max_archive_bytes=256 * 1024, max_timeout_seconds=1500.0)
CANARY = "cnry7f3a"
"""Planted in inputs: no answer may hold it."""


@dataclass(frozen=True)
class Api:
    parts: ApiParts
    app: Starlette
    runner: asyncio.Runner

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://overnight.test") as client:
            yield client

    async def left(self) -> tuple[int, int]:
        """How many jobs and sessions there are, up to 100."""
        jobs = await self.parts.index.jobs(statuses=(), session_id=None, limit=100, before=None)
        sessions = await self.parts.index.sessions(limit=100, before=None)
        return len(jobs.rows), len(sessions.rows)

    def run(self, story: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        """Hypothesis calls plain functions; all its examples share one event loop."""

        async def told() -> None:
            async with self.client() as client:
                await story(client)

        self.runner.run(told())


def make(scratch: Path, runner: asyncio.Runner) -> Api:
    clock, entropy, wakeups = SystemClock(), SystemEntropy(), MemoryWakeups()
    store = MemoryStore(wakeups, clock)
    parts = ApiParts(
        store=store,
        index=store,
        queue=MemoryQueue(wakeups, clock, entropy),
        archives=MemoryArchives(clock),
        wakeups=wakeups,
        clock=clock,
        entropy=entropy,
        callback_policy=CallbackPolicy(),
        limits=LIMITS,
        scratch=scratch,
        allowed_hosts=("overnight.test",),
        keys=KeyRing(MemoryKeys(), clock),
        kept=KeptHere(scratch / "data"),
        free_bytes=lambda: 1 << 30,
        redactor=Redactor(),
        ready=lambda: Readiness(ok=True, draining=False, isolation="namespace"),
        version="1.2.3",
    )
    return Api(parts, create_app(parts), runner)


def check_refusal(answer: httpx.Response) -> Mapping[str, Any]:
    """A documented problem of the caller's making, that repeats nothing of what was sent."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = dict(json.loads(answer.content))
    assert KINDS[Code(problem["code"])].status == problem["status"] == answer.status_code
    assert CANARY not in answer.text
    assert CANARY not in str(answer.headers)
    return problem


@pytest.fixture
def canary() -> str:
    return CANARY


@pytest.fixture
def refusal() -> Callable[[httpx.Response], Mapping[str, Any]]:
    return check_refusal


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """One for all examples of a test: making it costs more than most of them."""
    with asyncio.Runner() as runner:
        yield make(tmp_path, runner)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the API keeps what is under way: empty, whenever nothing is."""
    return tmp_path
