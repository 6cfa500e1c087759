"""The real Claude Code on the rehearsal API, with full permissions, doing what an attacker would have it do."""

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from overnight.agent.run import ClaudeAgent, IsolationUnavailable, claude_agent
from overnight.domain.job import JobRequest
from overnight.domain.outcome import Outcome
from overnight.ports import RunOrder, Workspace
from overnight.rehearsal import serve_rehearsal
from overnight.settings import Settings


def _fixtures_of(package: str) -> ModuleType:
    path = Path(__file__).parent.parent / package / "conftest.py"
    spec = importlib.util.spec_from_file_location(f"overnight_{package}_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_agent, _e2e = _fixtures_of("agent"), _fixtures_of("e2e")
stage, give_away, workspace_at = _agent.stage, _agent.give_away, _agent.workspace_at
start, service = _e2e.start, _e2e.service


class Machine:
    """Clock, and the part of Entropy that an agent uses."""

    def now(self) -> float:
        return time.time()

    def token(self) -> str:
        return secrets.token_urlsafe(32)

    def job_id(self) -> str:
        raise NotImplementedError

    session_id = delivery_id = job_id

    def chance(self) -> float:
        return 0.5


class Never:
    """A Stop that is not set."""

    async def wait(self) -> None:
        await asyncio.Event().wait()

    def is_set(self) -> bool:
        return False


@dataclass
class Attacker:
    """What is put into `files` lies in the workspace; what the agent printed comes back."""

    agent: ClaudeAgent
    workspace: Workspace
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    @property
    def files(self) -> Path:
        return self.workspace.files

    async def run(self, *lines: str) -> Outcome:
        """`lines` are directives of the rehearsal (docs/rehearsal.md)."""
        give_away(self.workspace)
        prompt = "\n".join(("attack", *(f"rehearsal: {line}" for line in lines)))
        order = RunOrder(
            job_id="job_1",
            attempt=1,
            session_id=str(uuid.uuid4()),
            prompt=prompt,
            request=JobRequest(prompt=prompt),
            workspace=self.workspace,
        )
        return await self.agent.run(order, emit=lambda *event: self.events.append(event), stop=Never())

    async def bash(self, script: str) -> str:
        await self.run(f"tool Bash {json.dumps({'command': script})}")
        return self.output

    async def python(self, program: str) -> Any:
        """Run it in the sandbox; returns the JSON that it prints."""
        (self.files / "attack.py").write_text(program)
        return json.loads(await self.bash("python3 attack.py"))

    def moved_to(self, root: Path) -> Workspace:
        """An empty workspace of the same owner."""
        return workspace_at(root, self.workspace.owner)  # type: ignore[no-any-return]  # a fixture of tests/agent

    @property
    def output(self) -> str:
        return "\n".join(str(told["content"]) for kind, told in self.events if kind == "tool.finished")


Opened = Callable[..., contextlib.AbstractAsyncContextManager[Attacker]]


@pytest.fixture
def attacker_in(tmp_path: Path) -> Opened:
    """For a tier, and whether the run is the service's own user."""

    @contextlib.asynccontextmanager
    async def opened(tier: str, *, shared: bool = False, **more: Any) -> AsyncIterator[Attacker]:
        async with contextlib.AsyncExitStack() as stack:
            given: dict[str, Any] = {
                "anthropic_base_url": await stack.enter_async_context(serve_rehearsal()),
                "anthropic_api_key": "the-real-key",
                "data": tmp_path / "data",
                "isolation": tier,
                "uid_base": 0 if shared else 42_000,
                **more,
            }
            settings = Settings(**given)
            try:
                agent = await stack.enter_async_context(
                    claude_agent(settings, clock=Machine(), entropy=Machine())
                )
            except IsolationUnavailable as unavailable:
                pytest.skip(str(unavailable))
            slot = await stack.enter_async_context(agent.slot())
            assert (slot.owner is not None) == (os.geteuid() == 0 and not shared), agent.chosen.report
            yield Attacker(agent, workspace_at(tmp_path / "data" / "runs" / "session", slot.owner))

    return opened


# Without a user of its own too, as a service has it that is not root.
TIERS = ("namespace", "landlock", "namespace as the service", "landlock as the service")


@pytest.fixture(params=TIERS)
async def attacker(request: pytest.FixtureRequest, attacker_in: Opened) -> AsyncIterator[Attacker]:
    """In every tier that this machine can show."""
    tier, _, shared = request.param.partition(" ")
    async with attacker_in(tier, shared=bool(shared)) as opened:
        yield opened


@pytest.fixture(params=["uid", *TIERS])
async def resident(request: pytest.FixtureRequest, attacker_in: Opened) -> AsyncIterator[Attacker]:
    """Also in the tier that keeps the agent from nothing but what belongs to others."""
    tier, _, shared = request.param.partition(" ")
    async with attacker_in(tier, shared=bool(shared)) as opened:
        yield opened
