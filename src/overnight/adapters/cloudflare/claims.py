"""Idempotency keys in a ledger: a key is of an owner, a job of a session, and no write reaches both at once.

So a key is claimed first, for the job that is about to be written. Whoever finds a claim whose job is not there
waits a moment for it, then abandons that job (from then on its writer cannot write it) and claims the key anew.
Exactly one of the two happens, because both count on the job's document being absent.
"""

import asyncio
from dataclasses import dataclass

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.codec import Claim
from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Documents, Read
from overnight.domain.errors import IdempotencyConflict
from overnight.domain.job import Job, Session, Snapshot
from overnight.domain.retention import IDEMPOTENCY_SECONDS
from overnight.ports import Clock, Idempotency

PATIENCE_SECONDS = 5.0
"""How long the writer of a claim may take to write its job, before another request takes over."""
LOOK_SECONDS = 0.05
_KEY = "claim"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a key: the job that it stands for, or the version that a new claim must count on."""

    version: int
    replay: Snapshot | None = None


class Claims:
    def __init__(self, documents: Documents, clock: Clock, patience: float = PATIENCE_SECONDS) -> None:
        self._documents = documents
        self._clock = clock
        self._patience = patience

    async def look(self, idempotency: Idempotency) -> Standing:
        """Raises IdempotencyConflict, StorageError."""
        found = await self._documents.read(codec.claim_object(idempotency), Read(keys=[_KEY]))
        document = found.get(_KEY)
        if document is None:
            return Standing(ABSENT)
        claim = codec.decode(Claim, document.body)
        if claim.created_at <= self._clock.now() - IDEMPOTENCY_SECONDS:
            return Standing(document.version)
        if claim.fingerprint != idempotency.fingerprint:
            raise IdempotencyConflict("the idempotency key was used before with another request")
        return Standing(document.version, await self._settled(claim))

    async def take(self, idempotency: Idempotency, job: Job, *, version: int) -> bool:
        """False: another request was faster."""
        claim = Claim(
            fingerprint=idempotency.fingerprint,
            job_id=job.job_id,
            session_id=job.session_id,
            created_at=self._clock.now(),
        )
        batch = Batch(expect={_KEY: version}, put={_KEY: codec.encode(claim)})
        return await self._documents.write(codec.claim_object(idempotency), batch)

    async def free(self, name: str, job_id: str) -> None:
        """Forget the key if it still stands for this job."""
        document = (await self._documents.read(name, Read(keys=[_KEY]))).get(_KEY)
        if document is not None and codec.decode(Claim, document.body).job_id == job_id:
            await self._documents.write(name, Batch(expect={_KEY: document.version}, delete=[_KEY]))

    async def _settled(self, claim: Claim) -> Snapshot | None:
        """The job that was claimed for, or None once it is sure that it never comes."""
        name, key = codec.session_object(claim.session_id), codec.JOBS + claim.job_id
        waited = 0.0
        while waited < self._patience:
            found = await self._documents.read(name, Read(keys=[key, codec.SESSION]))
            if key in found:
                return _snapshot(found[key], found.get(codec.SESSION))
            await asyncio.sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
        if await self._documents.write(name, Batch(expect={key: ABSENT}, put={key: codec.ABANDONED})):
            return None
        found = await self._documents.read(name, Read(keys=[key, codec.SESSION]))
        return _snapshot(found[key], found.get(codec.SESSION)) if key in found else None


def _snapshot(job: Document, session: Document | None) -> Snapshot | None:
    if session is None or job.body == codec.ABANDONED:
        return None
    return Snapshot(job=codec.decode(Job, job.body), session=codec.decode(Session, session.body))
