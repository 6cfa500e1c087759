"""A worker over memory adapters and a real directory, with an agent that does what a test tells it."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_archives import MemoryArchives
from overnight.domain import transitions
from overnight.domain.job import Event, Job, JobRequest
from overnight.domain.keys import LOCAL, Caller
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.redaction import Redactor
from overnight.domain.retention import RetentionPolicy
from overnight.domain.retry import RetryPolicy
from overnight.flows.bells import ring
from overnight.flows.finishing import Finisher
from overnight.flows.housekeeping import Housekeeping
from overnight.flows.kept_here import KeptHere
from overnight.flows.lease import Holder
from overnight.flows.limits import let_in
from overnight.flows.retention import Retention
from overnight.flows.run_job import Runner
from overnight.flows.sweep import Sweep
from overnight.flows.workspace import Workspaces
from overnight.ports import Bell, Owner, RunOrder, Slot, Stop

Act = Callable[[RunOrder, Callable[[str, Mapping[str, Any]], None], Stop], Awaitable[Outcome]]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time


class Entropy:
    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def _uuid(self) -> str:
        return f"00000000-0000-7000-8000-{next(self._numbers):012x}"

    def job_id(self) -> str:
        return self._uuid()

    def session_id(self) -> str:
        return self._uuid()

    def delivery_id(self) -> str:
        return f"msg_{next(self._numbers):032x}"

    def chance(self) -> float:
        return 0.5

    def token(self) -> str:
        return f"token{next(self._numbers)}"


class ScriptedAgent:
    isolation = "test"
    isolation_properties: Mapping[str, bool] = {"files": True}

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.orders: list[RunOrder] = []
        self.failed: list[AssertionError] = []
        """Of tests, in an act. A worker takes each for an agent that broke, tries the job again, and goes on."""
        self.reaped: list[Path] = []
        self.held = 0
        self.users: list[Owner] = []
        """Those that no run holds, the next one first; none: every run is the service's own user."""

    @contextlib.asynccontextmanager
    async def slot(self, *, prefer: Owner | None = None) -> AsyncIterator[Slot]:
        self.held += 1
        user = None
        if self.users:
            user = self.users.pop(self.users.index(prefer) if prefer in self.users else 0)
        try:
            yield Slot(owner=user)
        finally:
            self.held -= 1
            if user is not None:
                self.users = sorted([*self.users, user])

    async def run(
        self, order: RunOrder, *, emit: Callable[[str, Mapping[str, Any]], None], stop: Stop
    ) -> Outcome:
        self.orders.append(order)
        try:
            return await self.acts.pop(0)(order, emit, stop)
        except AssertionError as failed:
            self.failed.append(failed)
            raise

    async def reap(self, root: Path) -> None:
        self.reaped.append(root)


class Roster:
    def __init__(self) -> None:
        self.dead: set[str] = set()

    def is_dead(self, worker: str) -> bool:
        return worker in self.dead


def done(result: str = "done", *, cost: float = 0.5) -> Outcome:
    return Outcome(ending=Ending.DONE, result=result, cost_usd=cost)


def writes(name: str, content: str, outcome: Outcome) -> Act:
    async def act(order: RunOrder, emit: Callable[[str, Mapping[str, Any]], None], stop: Stop) -> Outcome:
        (order.workspace.files / name).write_text(content)
        emit("agent.text", {"text": f"wrote {name}"})
        return outcome

    return act


@dataclass
class World:
    data: Path
    clock: Clock = field(default_factory=Clock)
    entropy: Entropy = field(default_factory=Entropy)
    wakeups: MemoryWakeups = field(default_factory=MemoryWakeups)
    agent: ScriptedAgent = field(default_factory=ScriptedAgent)
    archives: MemoryArchives = field(init=False)
    roster: Roster = field(default_factory=Roster)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    retention_policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    refuse_secrets: bool = False
    fail_too_large: bool = False
    redactor: Redactor = field(default_factory=Redactor)
    checkpoint_seconds: float = 0.0
    archives_are_shared: bool = False
    warm: int = 0
    warm_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.wakeups, self.clock)
        self.kept = KeptHere(self.data)
        self.queue = MemoryQueue(self.wakeups, self.clock, self.entropy)
        self.use(MemoryArchives(self.clock))

    def use(self, archives: MemoryArchives) -> None:
        self.archives = archives
        self.workspaces = self.machine("here")

    def machine(self, name: str) -> Workspaces:
        """The directories of one machine. Those of "here" are the data directory's."""
        return Workspaces(
            self.data if name == "here" else self.data / name,
            self.archives,
            exclude=("dist",),
            refuse_secrets=self.refuse_secrets,
            warm=self.warm,
            warm_bytes=self.warm_bytes,
        )

    def runner(self, worker: str = "worker-1", *, workspaces: Workspaces | None = None) -> Runner:
        workspaces = workspaces or self.workspaces
        return Runner(
            worker=worker,
            store=self.store,
            queue=self.queue,
            agent=self.agent,
            workspaces=workspaces,
            holder=Holder(self.store, self.wakeups, self.clock, 15.0),
            clock=self.clock,
            entropy=self.entropy,
            policy=self.policy,
            redactor=self.redactor,
            finisher=self.finisher(workspaces),
            retention=self.retention(),
            lease_seconds=15.0,
            checkpoint_seconds=self.checkpoint_seconds,
            archives_are_shared=self.archives_are_shared,
            save_delays=(0.0, 0.01),
            let_in=self.let_in,
        )

    def finisher(self, workspaces: Workspaces) -> Finisher:
        return Finisher(
            store=self.store,
            queue=self.queue,
            workspaces=workspaces,
            clock=self.clock,
            entropy=self.entropy,
            fail_too_large=self.fail_too_large,
        )

    def sweep(self) -> Sweep:
        return Sweep(
            store=self.store,
            index=self.store,
            queue=self.queue,
            agent=self.agent,
            roster=self.roster,
            workspaces=self.workspaces,
            clock=self.clock,
            entropy=self.entropy,
            policy=self.policy,
            let_in=self.let_in,
        )

    def retention(self) -> Retention:
        return Retention(
            store=self.store, archives=self.archives, clock=self.clock, policy=self.retention_policy
        )

    def housekeeping(self) -> Housekeeping:
        return Housekeeping(
            store=self.store,
            index=self.store,
            archives=self.archives,
            kept=self.kept,
            retention=self.retention(),
        )

    @property
    def let_in(self) -> Callable[[str], Awaitable[None]]:
        return partial(let_in, owners=self.store, store=self.store, queue=self.queue, clock=self.clock)

    async def submit(
        self, prompt: str = "do it", session_id: str | None = None, caller: Caller = LOCAL, **options: Any
    ) -> Job:
        request = replace(JobRequest(prompt=prompt), **options)
        session = session_id or self.entropy.session_id()
        admit = transitions.submit(
            request,
            job_id=self.entropy.job_id(),
            session_id=session,
            continues=session_id is not None,
            now=self.clock.now(),
            caller=caller,
        )
        created = await self.store.create(session, request, admit)
        await ring(self.queue, created.change.rings)
        return created.change.job

    async def bell(self) -> Bell:
        [bell] = await self.queue.receive(limit=1, visibility_seconds=30, wait_seconds=0)
        return bell

    async def silence(self) -> bool:
        return not await self.queue.receive(limit=9, visibility_seconds=30, wait_seconds=0)

    async def run_next(self, *acts: Act, on: Workspaces | None = None) -> None:
        self.agent.acts.extend(acts)
        await self.runner(workspaces=on).run(await self.bell(), leaving=self.leaving)

    async def job(self, job_id: str) -> Job:
        return (await self.store.snapshot(job_id)).job

    async def events(self, job_id: str) -> list[Event]:
        return list(await self.store.events(job_id, limit=1000))

    async def kinds(self, job_id: str) -> list[str]:
        return [event.type for event in await self.events(job_id)]

    async def told(self, job_id: str, kind: str) -> list[Mapping[str, Any]]:
        return [event.data for event in await self.events(job_id) if event.type == kind]

    async def until(self, job_id: str, kind: str, *, times: int = 1) -> None:
        """Return when the job has that many events of this kind."""
        with self.wakeups.subscribe(f"job:{job_id}") as written:
            async with asyncio.timeout(20):
                while (await self.kinds(job_id)).count(kind) < times:
                    await written.wait(1.0)

    def begin(self, workspaces: Workspaces | None = None, *, worker: str = "worker-1") -> asyncio.Task[None]:
        """`run_next` as a task."""
        return asyncio.create_task(self._begun(workspaces, worker))

    async def _begun(self, workspaces: Workspaces | None, worker: str) -> None:
        await self.runner(worker, workspaces=workspaces).run(await self.bell(), leaving=self.leaving)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for failed in world.agent.failed:
        raise failed


@pytest.fixture
def agents() -> Any:
    """How tests script the agent: `agents.writes(name, content, outcome)`, `agents.done(result)`."""

    class Agents:
        done = staticmethod(done)
        writes = staticmethod(writes)

    return Agents
