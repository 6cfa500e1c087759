"""The status of jobs in Workers KV: a cache for GET /status, and never a lock.

KV takes one write a second for a key and shows it elsewhere after a minute or more (facts: cloudflare 4). So only
transitions are written, each entry says when, and what may have changed since is asked of the ledger.
"""

import asyncio
import logging

import msgspec
from pyodide.ffi import JsException
from starlette.requests import Request
from starlette.responses import Response

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch, Documents, Read
from overnight.adapters.cloudflare.sights import moved_jobs
from overnight.api.access import caller_of
from overnight.api.jobs import status as from_ledger
from overnight.api.parts import ApiParts
from overnight.api.requests import job_id_of
from overnight.api.views import job_view
from overnight.domain.job import Job, Session, Snapshot, Status
from overnight.ports import Clock

log = logging.getLogger(__name__)

TTL_SECONDS = 7 * 86400
"""Given with every write: one without it would drop it."""
SETTLED = frozenset({Status.COMPLETED, Status.CANCELLED})
"""A job never leaves these."""
FRESH_SECONDS = 60.0
AGAIN_SECONDS = 1.1


class Mirror:
    def __init__(self, namespace, clock: Clock):
        self._namespace = namespace
        self._clock = clock

    async def follow(self, name: str, batch: Batch, documents: Documents) -> None:
        """Show what a written batch has changed."""
        for job_id in _erased(batch):
            await self._forget(job_id)
        for job_id in moved_jobs(batch):
            session = batch.put.get(codec.SESSION)
            if session is None:
                found = await documents.read(name, Read(keys=[codec.SESSION]))
                session = found[codec.SESSION].body
            job = codec.decode(Job, batch.put[codec.JOBS + job_id])
            await self._show(Snapshot(job=job, session=codec.decode(Session, session)))

    async def status(self, parts: ApiParts, request: Request) -> Response:
        """A job as it was a moment ago: at most a minute, while it runs."""
        entry = await self._entry(job_id_of(request))
        if entry is None or not self._answers(entry["metadata"]):
            return await from_ledger(parts, request)
        if not caller_of(request).sees(entry["metadata"]["owner"]):
            return await from_ledger(parts, request)  # it says that there is no such job
        return Response(entry["value"].encode(), 200, {"Cache-Control": "no-store"}, "application/json")

    def _answers(self, metadata) -> bool:
        """The place in the line is not mirrored when others move, so a queued job is asked about in the ledger. So is
        a failed one: it may have been sent again."""
        status = Status(metadata["status"])
        fresh = self._clock.now() - metadata["at"] < FRESH_SECONDS
        return status in SETTLED or (status is Status.PROCESSING and fresh)

    async def _entry(self, job_id: str):
        try:
            found = await self._namespace.getWithMetadata(_key(job_id))
        except JsException:
            log.exception("could not read the mirror")
            return None
        return found if found["value"] is not None and found["metadata"] is not None else None

    async def _show(self, snapshot: Snapshot) -> None:
        if not await self._put(snapshot) and snapshot.job.status.final:
            await asyncio.sleep(AGAIN_SECONDS)
            await self._put(snapshot)

    async def _put(self, snapshot: Snapshot) -> bool:
        job = snapshot.job
        metadata = {"owner": job.owner, "status": str(job.status), "at": self._clock.now()}
        try:
            await self._namespace.put(
                _key(job.job_id),
                msgspec.json.encode(job_view(snapshot)).decode(),
                {"expirationTtl": TTL_SECONDS, "metadata": metadata},
            )
        except JsException:
            log.exception("could not mirror the status of job %s", job.job_id)
            return False
        return True

    async def _forget(self, job_id: str) -> None:
        try:
            await self._namespace.delete(_key(job_id))
        except JsException:
            log.exception("could not erase job %s from the mirror", job_id)


def _key(job_id: str) -> str:
    return f"status:{job_id}"


def _erased(batch: Batch) -> list[str]:
    return [key.removeprefix(codec.JOBS) for key in batch.delete if key.startswith(codec.JOBS)]
