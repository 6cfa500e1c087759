"""The API over the memory adapters, and a way to move jobs along without a worker."""

import asyncio
import io
import socket
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from tests.api.keyed import World

from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.memory_keys import MemoryKeys
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.api import ApiParts, Limits, Readiness, close_streams, create_app
from overnight.domain import transitions
from overnight.domain.address import CallbackPolicy
from overnight.domain.archive_names import archive_name
from overnight.domain.errors import ErrorCode
from overnight.domain.job import ArchiveRef, Origin
from overnight.domain.late import saved_late
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.redaction import Redactor
from overnight.flows.kept_here import KeptHere
from overnight.flows.keyring import KeyRing

LIMITS = Limits(max_body_bytes=256 * 1024, max_archive_bytes=1024 * 1024, max_timeout_seconds=1500.0)


@dataclass
class Service:
    """The parts of an API, its application, and the part of a worker."""

    parts: ApiParts
    app: Starlette
    readiness: list[Readiness] = field(default_factory=list)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://overnight.test") as client:
            yield client

    async def start(self, job_id: str) -> None:
        await self.parts.store.change(
            job_id,
            transitions.start(
                worker="w",
                now=self.parts.clock.now(),
                lease_seconds=60,
                isolation="namespace",
                properties={"files": True, "process_limit": False},
            ),
        )

    async def tell(self, job_id: str, *words: str) -> None:
        attempt = (await self.parts.store.snapshot(job_id)).job.attempt
        notes = [transitions.Note("agent.text", self.parts.clock.now(), {"text": word}) for word in words]
        await self.parts.store.change(job_id, transitions.record(notes, attempt=attempt))

    async def finish(self, job_id: str, outcome: Outcome, files: dict[str, bytes] | None = None) -> None:
        job = (await self.parts.store.snapshot(job_id)).job
        archive = None
        if files is not None:
            name = f"claude-code/{job.session_id}/{job_id}.{job.attempt}.zip"
            archive = await self._store(name, files)
        await self.parts.store.change(
            job_id,
            transitions.finish(
                outcome,
                attempt=job.attempt,
                now=self.parts.clock.now(),
                archive=archive,
                delivery_id=self.parts.entropy.delivery_id(),
            ),
        )

    async def run(self, job_id: str, result: str = "done", files: dict[str, bytes] | None = None) -> None:
        await self.start(job_id)
        await self.finish(job_id, Outcome(ending=Ending.DONE, result=result, cost_usd=0.25), files)

    async def fail(self, job_id: str) -> None:
        await self.start(job_id)
        await self.finish(job_id, failed(ErrorCode.MAX_TURNS, "It took all its turns."))

    async def save_late(self, job_id: str) -> None:
        """What a worker does whose archive store comes back after the job has ended."""
        job = (await self.parts.store.snapshot(job_id)).job
        archive = await self._store(archive_name(job), {"late.txt": b"late"})
        now = self.parts.clock.now()
        told = [("workspace.saved", {"archive": archive.name})]
        await self.parts.store.change(
            job_id, saved_late(archive, attempt=job.attempt, base=None, now=now, told=told)
        )

    async def _store(self, name: str, files: dict[str, bytes]) -> ArchiveRef:
        source = self.parts.scratch / "made.zip"
        await asyncio.to_thread(source.write_bytes, zip_of(files))
        stored = await self.parts.archives.put(name, source)
        await asyncio.to_thread(source.unlink, missing_ok=True)
        return ArchiveRef(name=name, size=stored.size, sha256=stored.sha256, origin=Origin.RUN)

    def left_in_scratch(self) -> list[Path]:
        return list(self.parts.scratch.iterdir())


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Archives(MemoryArchives):
    """Deletes nothing while `refuses` is set, and hands out other bytes while it `damages`."""

    refuses = False
    damages = False

    async def delete(self, name: str) -> None:
        if self.refuses:
            raise OSError("the key may not delete")
        await super().delete(name)

    async def part(self, name: str, *, start: int, length: int) -> bytes:
        found = await super().part(name, start=start, length=length)
        return found[:-1] + bytes([found[-1] ^ 1]) if self.damages else found


def make_service(scratch: Path, /, **changes: Any) -> Service:
    clock, entropy, wakeups = SystemClock(), SystemEntropy(), MemoryWakeups()
    store = MemoryStore(wakeups, clock)
    readiness = [Readiness(ok=True, draining=False, isolation="namespace")]
    parts = ApiParts(
        store=store,
        index=store,
        queue=MemoryQueue(wakeups, clock, entropy),
        archives=Archives(clock),
        wakeups=wakeups,
        keys=KeyRing(MemoryKeys(), clock),
        kept=KeptHere(scratch / "data"),
        clock=clock,
        entropy=entropy,
        callback_policy=CallbackPolicy(),
        limits=LIMITS,
        scratch=scratch,
        allowed_hosts=("overnight.test", "127.0.0.1"),
        ready=lambda: readiness[-1],
        free_bytes=lambda: 1 << 30,
        version="1.2.3",
        redactor=Redactor(),
    )
    parts = replace(parts, **changes)
    return Service(parts, create_app(parts), readiness)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return make_service(tmp_path)


@pytest.fixture
def service_with(tmp_path: Path) -> Callable[..., Service]:
    return lambda **changes: make_service(tmp_path, **changes)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client() as client:
        yield client


@pytest.fixture
def pack() -> Callable[[dict[str, bytes]], bytes]:
    return zip_of


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
async def url(service: Service, listener: socket.socket) -> AsyncIterator[str]:
    """The service on a real port, by uvicorn."""
    server = uvicorn.Server(uvicorn.Config(service.app, log_level="warning", lifespan="off"))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        close_streams(service.app)
        server.should_exit = True


@pytest.fixture
def world(service_with: Callable[..., Any]) -> World:
    return World(service_with)
