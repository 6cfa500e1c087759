"""A workspace, an agent over the rehearsal API, and a record of what the API was asked."""

import asyncio
import contextlib
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from overnight.agent import processes
from overnight.agent.grants import Allowance
from overnight.agent.run import ClaudeAgent, claude_agent
from overnight.archive import give_tree
from overnight.domain.job import JobRequest
from overnight.domain.outcome import Outcome
from overnight.ports import Owner, RunOrder, Workspace
from overnight.rehearsal.app import rehearsal_app
from overnight.serving import listen, serving, url_of
from overnight.settings import Settings

REAL_KEY = "sk-ant-the-real-key"


class WallClock:
    def now(self) -> float:
        return time.time()


class Chance:
    def job_id(self) -> str:
        return f"job_{uuid.uuid4().hex}"

    def session_id(self) -> str:
        return str(uuid.uuid4())

    def delivery_id(self) -> str:
        return f"msg_{uuid.uuid4().hex}"

    def chance(self) -> float:
        return 0.5

    def token(self) -> str:
        return secrets.token_urlsafe(32)


class Order:
    """A Stop, and the conditions a test waits for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    def is_set(self) -> bool:
        return self._event.is_set()


@dataclass
class Recorder:
    """Notes the body of every request, then passes it on."""

    app: ASGIApp
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[bytes, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        if body:
            self.bodies.append(json.loads(body))
            self.headers.append(dict(scope["headers"]))
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Any:
            return next(given, None) or await receive()

        await self.app(scope, again, send)

    @property
    def text(self) -> str:
        return json.dumps(self.bodies)


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    listener = listen("127.0.0.1", 0)
    async with serving(app, listener):
        yield url_of(listener)


@pytest.fixture
def serve() -> Callable[[ASGIApp], contextlib.AbstractAsyncContextManager[str]]:
    return served


@dataclass
class Stage:
    """An agent with one workspace. `events` are those of the last run."""

    agent: ClaudeAgent
    workspace: Workspace
    api: Recorder
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    stop: Order = field(default_factory=Order)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        json.dumps(fields, allow_nan=False)  # every event must be JSON
        self.events.append((kind, fields))
        self._news.set()

    def start(
        self, prompt: str, *, spent_usd: float = 0.0, attempt: int = 1, charged: int = 1, **options: Any
    ) -> "asyncio.Task[Outcome]":
        self.events.clear()
        self.stop = Order()
        give_away(self.workspace)
        order = RunOrder(
            job_id="job_1",
            attempt=attempt,
            charged_attempt=charged,
            session_id=self.session_id,
            prompt=prompt,
            request=JobRequest(prompt=prompt, **options),
            workspace=self.workspace,
            spent_usd=spent_usd,
        )
        return asyncio.create_task(self.agent.run(order, emit=self.emit, stop=self.stop))

    async def run(self, prompt: str, **options: Any) -> Outcome:
        outcome = await self.start(prompt, **options)
        assert self.survivors() == [], "a process of the run is still alive"
        return outcome

    async def seen(self, kind: str) -> Mapping[str, Any]:
        async with asyncio.timeout(20):
            while True:
                for name, fields in self.events:
                    if name == kind:
                        return fields
                self._news.clear()
                await self._news.wait()

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [fields for name, fields in self.events if name == kind]

    @property
    def mark(self) -> str | None:
        record = self.workspace.root / processes.RECORD
        return json.loads(record.read_text())["mark"] if record.exists() else None

    def survivors(self) -> list[processes.Process]:
        """By the working directory: another way than the code under test has."""
        return [p for p in processes._living() if lives_in(p.pid, self.workspace.root)]

    def move_to(self, root: Path) -> None:
        """What restoring the session on another machine comes to."""
        self.workspace.root.rename(root)
        self.workspace = workspace_at(root, self.workspace.owner)

    @property
    def transcript(self) -> Path:
        (path,) = self.workspace.transcripts.parent.glob(f"*/{self.session_id}.jsonl")
        return path


def lives_in(pid: int, root: Path) -> bool:
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        cwd = str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return False
    return str(root) in mounts or cwd.startswith(str(root))


def give_away(workspace: Workspace) -> None:
    """What the preparation of a workspace does for the user of its run."""
    for tree in (workspace.files, workspace.home):
        if workspace.owner is not None:
            give_tree(tree, workspace.owner)


def workspace_at(root: Path, owner: Owner | None = None) -> Workspace:
    home = root / "home"
    workspace = Workspace(
        root=root,
        files=root / "files",
        home=home,
        transcripts=home / ".claude" / "projects" / "session",
        owner=owner,
    )
    workspace.files.mkdir(parents=True, exist_ok=True)
    home.mkdir(exist_ok=True)
    return workspace


Staging = Callable[..., contextlib.AbstractAsyncContextManager[Stage]]


@pytest.fixture
def stage(tmp_path: Path) -> Staging:
    @contextlib.asynccontextmanager
    async def staged(
        isolation: str = "namespace", *, allowance: Allowance | None = None, **settings: Any
    ) -> AsyncIterator[Stage]:
        api = Recorder(rehearsal_app(new_id=lambda: secrets.token_hex(12), now=time.time))
        async with served(api) as url:
            given: dict[str, Any] = {
                "anthropic_api_key": REAL_KEY,
                "anthropic_base_url": url,
                "data": tmp_path / "data",
                "isolation": isolation,
                "agent_api_retries": 1,
                "stop_grace_seconds": 5.0,
            }
            options = Settings(**(given | settings))
            allowed = contextlib.nullcontext(allowance or Allowance())
            async with (
                claude_agent(options, clock=WallClock(), entropy=Chance(), allow=lambda _: allowed) as agent,
                agent.slot() as slot,
            ):
                yield Stage(agent, workspace_at(tmp_path / "workspace", slot.owner), api)

    return staged


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return workspace_at(tmp_path / "workspace")
