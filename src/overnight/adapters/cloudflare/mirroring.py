"""The status of jobs as Workers KV shows it: a copy that follows the ledger, never fails a write, and outlives no job.

KV takes one write a second for a key (facts: cloudflare 4). So only transitions are written, and what it refuses is
tried once more after that time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.changes import session_in
from overnight.adapters.cloudflare.documents import Batch, Document, Documents, Read
from overnight.adapters.cloudflare.sights import moved_jobs
from overnight.domain.job import Job, Session, Snapshot
from overnight.ports import Clock, StorageError

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.1
SHOWN_SECONDS = 7 * 86_400
"""How long KV has a status, from its last transition on."""


class Shown(Protocol):
    """Where statuses are shown, by key. Both may raise StorageError."""

    async def put(self, key: str, value: str, metadata: Mapping[str, object]) -> None:
        """`metadata` says whose job it is, its status, and when that was shown (seconds since 1970)."""
        ...

    async def delete(self, key: str) -> None:
        """Also of a key that is not there."""
        ...


class MirroredDocuments:
    """The port `Documents`. `view` makes of a job what users see: the JSON of `GET /status`."""

    def __init__(
        self,
        documents: Documents,
        shown: Shown,
        view: Callable[[Snapshot], bytes],
        clock: Clock,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._documents = documents
        self._shown = shown
        self._view = view
        self._clock = clock
        self._again_seconds = again_seconds

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        return await self._documents.read(name, read)

    async def write(self, name: str, batch: Batch) -> bool:
        """A job leaves the mirror before it leaves the ledger: afterwards nobody would know its name."""
        for job_id in [key.removeprefix(codec.JOBS) for key in batch.delete if key.startswith(codec.JOBS)]:
            await self._insistently(partial(self._shown.delete, status_key(job_id)))
        written = await self._documents.write(name, batch)
        if written:
            for job_id in moved_jobs(batch):
                await self._follow(name, batch, job_id)
        return written

    async def _follow(self, name: str, batch: Batch, job_id: str) -> None:
        """The batch is written, so this does not fail: what is not shown is asked of the ledger."""
        job = codec.decode(Job, batch.put[codec.JOBS + job_id])
        try:
            session = await self._session(name, batch)
            if session is None:
                return  # erased meanwhile
            put = partial(self._put, Snapshot(job=job, session=session))
            await (self._insistently(put) if job.status.final else put())
        except StorageError:
            log.exception("could not mirror the status of job %s", job_id)

    async def _session(self, name: str, batch: Batch) -> Session | None:
        """As the batch has left it. Raises StorageError."""
        if codec.SESSION in batch.put:
            return codec.decode(Session, batch.put[codec.SESSION])
        return session_in(await self._documents.read(name, Read(keys=[codec.SESSION])))

    async def _put(self, snapshot: Snapshot) -> None:
        job = snapshot.job
        metadata = {"owner": job.owner, "status": str(job.status), "at": self._clock.now()}
        await self._shown.put(status_key(job.job_id), self._view(snapshot).decode(), metadata)

    async def _insistently(self, call: Callable[[], Awaitable[None]]) -> None:
        """Once more if it is refused. Raises StorageError."""
        try:
            await call()
        except StorageError:
            await asyncio.sleep(self._again_seconds)
            await call()


def status_key(job_id: str) -> str:
    return f"status:{job_id}"
