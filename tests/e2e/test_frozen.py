"""A worker freezes past its lease, in a run or while it stores a checkpoint or the run's archive, and wakes when
another worker has the job: it changes nothing. With the real Claude Code, over a directory and a bucket of Supabase.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.e2e.service import Service, Start, archive_of, lines, processes, step_is_written_down
from tests.supabase_server.app import Hold, Server, storage_server
from tests.supabase_server.bucket import SECRET, Project
from tests.waiting import until

from overnight.rehearsal import serve_rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

CHECKPOINT, ARCHIVE = r"\.1\.c\d+\.zip", r"\.1\.zip"
"""How the names end that attempt 1 gives."""
NAMED_BY_THE_FIRST = re.compile(rf"{CHECKPOINT}|{ARCHIVE}")
OF_THE_FIRST = re.compile(rf"{CHECKPOINT}|{ARCHIVE}|\.incoming/")
"""Whatever attempt 1 left in the store, once the second has stored all that it had to."""
MORE_THAN_A_PART = 8_000_000
"""Bytes that do not deflate: an upload of them takes more than one request."""


class Store(Protocol):
    """Where archives are kept, and how a worker is held at a moment of storing one."""

    @property
    def settings(self) -> Mapping[str, str]: ...

    def contents(self) -> dict[str, str]:
        """SHA-256 by name, of all that is stored."""
        ...

    def halts(self, moment: str, name: str) -> tuple[str, str] | None:
        """The audit event at which a worker halts; None: it is held in a request."""
        ...

    def lie_in_wait(self, moment: str) -> None:
        """For the first request of the moment. Not before the worker runs: it tries the store when it starts."""
        ...

    async def reached(self, worker: Service) -> None: ...

    async def let_go(self, worker: Service) -> None: ...


@dataclass
class Directory:
    archives: Path
    settings: Mapping[str, str]

    def contents(self) -> dict[str, str]:
        """Records and what is not yet whole count too."""
        files = (path for path in self.archives.rglob("*") if path.is_file())
        return {path.relative_to(self.archives).as_posix(): sha256(path) for path in files}

    def halts(self, moment: str, name: str) -> tuple[str, str]:
        return {
            "packing": ("open", r"^big\.bin$"),
            "naming": ("os.link", rf"{name}$"),
        }[moment]

    def lie_in_wait(self, moment: str) -> None:
        pass

    async def reached(self, worker: Service) -> None:
        await until(worker.halted)

    async def let_go(self, worker: Service) -> None:
        await worker.go_on()


@dataclass
class Bucket:
    server: Server
    settings: Mapping[str, str]

    def contents(self) -> dict[str, str]:
        return {name: sha256(made.path) for name, made in self.server.project.objects.items()}

    def halts(self, moment: str, name: str) -> None:
        pass

    def lie_in_wait(self, moment: str) -> None:
        sending, naming = Hold("PATCH", "/upload/resumable/", inside=True), Hold("POST", "/object/move")
        self.server.faults.held = [{"sending": sending, "naming": naming}[moment]]

    async def reached(self, worker: Service) -> None:
        [hold] = self.server.faults.held
        await asyncio.wait_for(hold.reached.wait(), 120)

    async def let_go(self, worker: Service) -> None:
        for hold in self.server.faults.held:
            hold.released.set()


@asynccontextmanager
async def opened(kind: str, tmp_path: Path) -> AsyncIterator[Store]:
    if kind == "directory":
        yield Directory(tmp_path / "data" / "archives", {})
        return
    (tmp_path / "bucket").mkdir()
    async with storage_server(Project(tmp_path / "bucket")) as server:
        yield Bucket(server, {"SUPABASE_URL": server.url, "SUPABASE_SECRET_KEY": SECRET})


@dataclass
class Stage:
    """A service that only accepts jobs, and the settings of the workers that run them."""

    service: Service
    store: Store
    start: Start
    settings: Mapping[str, str]

    async def worker(self, halts: tuple[str, str] | None = None) -> Service:
        return await self.start("worker", data=self.service.data, settings=self.settings, halts=halts)

    async def worker_to_freeze(self, moment: str, name: str) -> Service:
        worker = await self.worker(self.store.halts(moment, name))
        self.store.lie_in_wait(moment)
        return worker

    async def freeze(self, worker: Service) -> None:
        """At the moment that it was started for."""
        await self.store.reached(worker)
        await worker.freeze()

    async def wake(self, worker: Service) -> None:
        """And see it to its end."""
        worker.wake()
        await self.store.let_go(worker)
        assert await worker.terminate() == 0

    async def until_lost(self, job: Mapping[str, Any]) -> None:
        await self.service.until_event(job["job_id"], "job.worker_lost")

    async def changes_nothing_when_it_wakes(self, first: Service, job: Mapping[str, Any]) -> None:
        """Once the second attempt has ended well."""
        done = await self.service.finished(job["job_id"])
        assert (done["status"], done["result"], done["attempt"]) == ("completed", "on", 2)
        await until(lambda: self.has_settled(job["session_id"]))
        ledger, stored = self.ledger(), self.store.contents()

        await self.wake(first)

        assert self.ledger() == ledger
        left = {name: sha for name, sha in stored.items() if not OF_THE_FIRST.search(name)}
        assert self.store.contents() == left
        archive = await archive_of(self.service, job["session_id"])
        assert archive.read("count.txt") == b"once\n"
        assert [*(self.service.data / "runs").iterdir()] == []
        assert [*(self.service.data / "unsaved").iterdir()] == []

    def has_settled(self, session_id: str) -> bool:
        """Whether the second worker has done what comes after the final status."""
        published = f"claude-code/{session_id}.zip" in self.store.contents()
        return published and not [*(self.service.data / "runs").iterdir()]

    def ledger(self) -> dict[str, list[Any]]:
        """Every row of every job and session."""
        tables = ("jobs", "sessions", "requests", "events", "deliveries")
        with contextlib.closing(self.open_ledger()) as ledger:
            return {table: ledger.execute(f"SELECT * FROM {table}").fetchall() for table in tables}

    def second_is_pointed_at(self) -> bool:
        """Whether the job points at a checkpoint of its second attempt that the store has."""
        with contextlib.closing(self.open_ledger()) as ledger:
            [[body]] = ledger.execute("SELECT body FROM jobs").fetchall()
        checkpoint = json.loads(body)["checkpoint"]
        if checkpoint is None or checkpoint["attempt"] != 2:
            return False
        return checkpoint["archive"]["name"] in self.store.contents()

    def open_ledger(self) -> sqlite3.Connection:
        return sqlite3.connect(self.service.data / "overnight.db")


@asynccontextmanager
async def staged(kind: str, tmp_path: Path, start: Start, **settings: str) -> AsyncIterator[Stage]:
    async with serve_rehearsal() as url, opened(kind, tmp_path) as store:
        upstream = {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "rehearsal",
            "OVERNIGHT_LEASE_SECONDS": "5",  # On a busy machine too only the frozen worker loses its own.
        }
        chosen = {**upstream, **store.settings, **settings}
        service = await start("serve", "--port", "0", settings=chosen | {"OVERNIGHT_ISOLATION": "none"})
        yield Stage(service, store, start, chosen)


async def test_frozen_in_the_middle_of_a_run(tmp_path: Path, start: Start, mark: str) -> None:
    async with staged("directory", tmp_path, start, OVERNIGHT_CHECKPOINT_SECONDS="0") as stage:
        first = await stage.worker()
        hang = f"if [ -e again ]; then echo on; else touch again; exec sleep {mark}; fi"
        job = await stage.service.submit(lines("bash echo once >> count.txt", f"bash {hang}", "answer on"))
        await until(lambda: processes(mark) != [])
        await until(lambda: step_is_written_down(stage.service, 2))
        await first.freeze()
        await stage.until_lost(job)
        await until(lambda: processes(mark) == [])
        await stage.worker()
        await stage.changes_nothing_when_it_wakes(first, job)


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("directory", "packing"),
        ("directory", "naming"),
        ("bucket", "sending"),
        ("bucket", "naming"),
    ],
)
async def test_frozen_while_it_stores_the_archive_of_its_run(
    kind: str, moment: str, tmp_path: Path, start: Start
) -> None:
    async with staged(kind, tmp_path, start, OVERNIGHT_CHECKPOINT_SECONDS="0") as stage:
        first = await stage.worker_to_freeze(moment, ARCHIVE)
        job = await stage.service.submit(
            lines(
                f"bash echo once >> count.txt; head -c {MORE_THAN_A_PART} /dev/urandom > big.bin", "answer on"
            )
        )
        await stage.freeze(first)
        await stage.until_lost(job)
        await stage.worker()
        await stage.changes_nothing_when_it_wakes(first, job)


@pytest.mark.parametrize(
    ("kind", "moment"),
    [("directory", "packing"), ("bucket", "sending"), ("bucket", "naming")],
)
async def test_frozen_in_the_middle_of_a_checkpoint(
    kind: str, moment: str, tmp_path: Path, start: Start, mark: str
) -> None:
    async with staged(kind, tmp_path, start, OVERNIGHT_CHECKPOINT_SECONDS="0.5") as stage:
        first = await stage.worker_to_freeze(moment, CHECKPOINT)
        job = await stage.service.submit(
            lines(
                f"bash head -c {MORE_THAN_A_PART} /dev/urandom > big.bin",
                f"bash until [ -e go ]; do sleep 0.1; done; : {mark}",
                "answer on",
            )
        )
        await stage.freeze(first)
        await stage.until_lost(job)
        await until(lambda: processes(mark) == [])
        await stage.worker()
        await until(stage.second_is_pointed_at)

        await stage.wake(first)

        await until(stage.second_is_pointed_at)
        # What an upload was given up over lies under no name, until a sweep: only names count here.
        assert not any(NAMED_BY_THE_FIRST.search(name) for name in stage.store.contents())
        (stage.service.data / "runs" / f"{job['job_id']}.2" / "files" / "go").touch()
        done = await stage.service.finished(job["job_id"])
        assert (done["status"], done["result"], done["attempt"]) == ("completed", "on", 2)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
