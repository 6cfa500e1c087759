"""The real API over the memory adapters, with a worker that plays what the prompt says. Quick, and no agent."""

import asyncio
import contextlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.memory_keys import MemoryKeys
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.api.app import ApiParts, Limits, Readiness, close_streams, create_app
from overnight.cli.main import app
from overnight.domain.callback_url import CallbackPolicy
from overnight.domain.errors import ErrorCode, Refused
from overnight.domain.job import ArchiveRef, Job, Origin
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.redaction import Redactor
from overnight.domain.transitions import Note, finish, record, start
from overnight.flows.kept_here import KeptHere
from overnight.flows.keyring import KeyRing
from overnight.ports import Bell
from overnight.serving import listen, serving, url_of

EVIL = "safe\x1b[31m\u202eevil"


def notes(now: float) -> list[Note]:
    told: list[tuple[str, dict[str, Any]]] = [
        ("agent.text", {"text": f"I begin.\n{EVIL}"}),
        ("tool.started", {"id": "t1", "name": "Bash", "input": {"command": "python3 primes.py"}}),
        (
            "tool.finished",
            {"id": "t1", "is_error": True, "content": [{"type": "text", "text": "no such file"}]},
        ),
        ("agent.text", {"text": "All done."}),
        ("agent.result", {"cost_usd": 0.25}),
    ]
    return [Note(kind, now, data) for kind, data in told]


class ScriptedService:
    """A job whose prompt says `fail` fails, one that says `wait` runs until it is cancelled, others complete."""

    def __init__(self, scratch: Path) -> None:
        self.wakeups, self.clock, self.entropy = MemoryWakeups(), SystemClock(), SystemEntropy()
        self.store = MemoryStore(self.wakeups, self.clock)
        self.queue = MemoryQueue(self.wakeups, self.clock, self.entropy)
        self.archives = MemoryArchives(self.clock)
        self.scratch = scratch
        self.url = ""

    async def serve(self, ready: Callable[[], None], over: asyncio.Event) -> None:
        api = create_app(self._parts())
        with contextlib.closing(listen("127.0.0.1", 0)) as listener:
            self.url = url_of(listener)
            async with serving(api, listener), asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._work())
                ready()
                await over.wait()
                work.cancel()
                close_streams(api)

    def _parts(self) -> ApiParts:
        return ApiParts(
            store=self.store,
            index=self.store,
            queue=self.queue,
            archives=self.archives,
            wakeups=self.wakeups,
            keys=KeyRing(MemoryKeys(), self.clock),
            kept=KeptHere(self.scratch / "data"),
            clock=self.clock,
            entropy=self.entropy,
            callback_policy=CallbackPolicy(),
            limits=Limits(max_body_bytes=2**20, max_archive_bytes=2**20, max_timeout_seconds=1500.0),
            scratch=self.scratch,
            allowed_hosts=("127.0.0.1",),
            ready=lambda: Readiness(ok=True, draining=False, isolation="none"),
            free_bytes=lambda: 1 << 30,
            version="0",
            redactor=Redactor(),
        )

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as runs:
            while True:
                for bell in await self.queue.receive(limit=1, visibility_seconds=60, wait_seconds=60):
                    runs.create_task(self._run(bell))

    async def _run(self, bell: Bell) -> None:
        begin = start(worker="w", now=self.clock.now(), lease_seconds=600, isolation="none")
        with contextlib.suppress(Refused):
            job = (await self.store.change(bell.job_id, begin)).job
            await self.queue.ack(bell)
            said = record(notes(self.clock.now()), attempt=job.attempt)
            await self.store.change(job.job_id, said)
            outcome = await self._outcome(job)
            await self._finish(job, outcome)

    async def _outcome(self, job: Job) -> Outcome:
        prompt = (await self.store.request(job.job_id)).prompt
        if "wait" in prompt:
            await self._cancelled(job)
            return Outcome(ending=Ending.CANCELLED)
        if "fail" in prompt and job.attempt == 1:
            return failed(ErrorCode.MAX_TURNS, f"It went on for too long. {EVIL}")
        return Outcome(ending=Ending.DONE, result="All done.", cost_usd=0.25, num_turns=2)

    async def _cancelled(self, job: Job) -> None:
        with self.wakeups.subscribe(f"job:{job.job_id}") as changes:
            while (await self.store.snapshot(job.job_id)).job.cancel_requested_at is None:
                await changes.wait(60)

    async def _finish(self, job: Job, outcome: Outcome) -> None:
        path = self.scratch / f"{job.job_id}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("primes.py", "print(2, 3, 5)")
        stored = await self.archives.put(f"claude-code/{job.session_id}/{job.job_id}.{job.attempt}.zip", path)
        kept = ArchiveRef(name=stored.name, size=stored.size, sha256=stored.sha256, origin=Origin.RUN)
        end = finish(
            outcome,
            attempt=job.attempt,
            now=self.clock.now(),
            archive=kept,
            delivery_id=self.entropy.delivery_id(),
        )
        change = await self.store.change(job.job_id, end)
        for ring in change.rings:
            await self.queue.send(ring.job_id, at=ring.at)


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedService]:
    service = ScriptedService(tmp_path_factory.mktemp("scratch"))
    up = threading.Event()
    hosting: dict[str, Any] = {}

    async def host() -> None:
        hosting["loop"], hosting["over"] = asyncio.get_running_loop(), asyncio.Event()
        await service.serve(up.set, hosting["over"])

    thread = threading.Thread(target=asyncio.run, args=(host(),))
    thread.start()
    assert up.wait(20)
    yield service
    hosting["loop"].call_soon_threadsafe(hosting["over"].set)
    thread.join()


@dataclass(frozen=True)
class Shell:
    """Calls the command line in this process, as if `OVERNIGHT_URL` and `OVERNIGHT_DATA` were set."""

    url: str | None
    data: Path
    columns: str = "200"

    def __call__(self, *words: str, typed: str | None = None) -> typer.testing.Result:
        environment = {"OVERNIGHT_DATA": str(self.data), "OVERNIGHT_URL": self.url, "COLUMNS": self.columns}
        return typer.testing.CliRunner().invoke(
            app, list(words), input=typed, env=environment, catch_exceptions=False
        )

    def without_service(self) -> "Shell":
        return replace(self, url=None)


@pytest.fixture
def overnight(scripted: ScriptedService, tmp_path: Path) -> Shell:
    return Shell(scripted.url, tmp_path / "data")
