"""How an owner stands, kept in an object of its own: an entry for each open job, and what was spent today.

Entries are written as they are and never counted up, so writing one again harms nothing. A job's entry comes before
the job (a limit holds however many requests come at once) and changes after it. What a crash in between leaves is
wrong in one direction, too full, and is mended by whoever is refused because of it.
"""

import logging
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Documents, Read, Span
from overnight.domain.errors import Refused
from overnight.domain.job import Job, Status
from overnight.domain.standing import Check, Standing, day_of
from overnight.ports import Books, Clock, StorageBusy, StorageError

log = logging.getLogger(__name__)

TRIES = 50
MOST = 10_000
"""Entries that are counted: more open jobs than that no key should allow."""
MENDED = 50
"""Entries that one refusal looks after."""
YOUNG_SECONDS = 30.0
"""The job of an entry may still be on its way."""
_GUARD, _OPEN, _SPENT = "guard", "open:", "spent:"

Found = Mapping[str, Document]


class Entry(Struct, frozen=True):
    session_id: str
    status: Status
    at: float
    attempt: int = 0


_entry = msgspec.json.Decoder(Entry)
_amount = msgspec.json.Decoder(float)


class Owners:
    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock

    async def reserve(self, job: Job, check: Check) -> None:
        """Make room for the job as it is about to be. Raises what `check` raises, StorageError."""
        name, mended = codec.owner_object(job.owner), False
        for _ in range(TRIES):
            found = await self._documents.read(
                name, Read(keys=[_GUARD], spans=[Span(_OPEN, limit=MOST), Span(_SPENT, limit=MOST)])
            )
            try:
                check(job, self._standing(found))
            except Refused:
                if mended or not await self._mend(name, found):
                    raise
                mended = True
                continue
            version = found[_GUARD].version if _GUARD in found else ABSENT
            put = {_GUARD: "", _OPEN + job.job_id: self._entry(job)}
            if await self._documents.write(
                name, Batch(expect={_GUARD: version}, put=put, delete=self._old(found))
            ):
                return
        raise StorageBusy("The owner's jobs are changed by too many at once. Nothing was written: try again.")

    async def follow(self, before: Job | None, after: Job, *, reserved: bool) -> None:
        """Note what a written change has made of a job. What cannot be noted now is mended later."""
        batch = self._moved(before, after, reserved=reserved)
        if batch.put or batch.delete:
            try:
                await self._documents.write(codec.owner_object(after.owner), batch)
            except StorageError:
                log.exception("could not note how the owner of job %s stands", after.job_id)

    async def forget(self, owner: str, job_ids: Iterable[str]) -> None:
        entries = [_OPEN + job_id for job_id in job_ids]
        await self._documents.write(codec.owner_object(owner), Batch(delete=entries))

    async def books(self, owner: str, *, day: int) -> Books:
        """What the owner's jobs have cost in that day, and the attempts that run. Raises StorageError."""
        spans = [Span(_OPEN, limit=MOST), Span(f"{_SPENT}{day}:", limit=MOST)]
        found = await self._documents.read(codec.owner_object(owner), Read(spans=spans))
        running = frozenset(
            (key.removeprefix(_OPEN), entry.attempt)
            for key, entry in _entries(found).items()
            if entry.status is Status.PROCESSING
        )
        return Books(spent_usd=sum(_amounts(found, day)), running=running)

    def _moved(self, before: Job | None, after: Job, *, reserved: bool) -> Batch:
        put, delete = {}, []
        if after.status.final:
            delete = [_OPEN + after.job_id]
        elif not reserved and (before is None or before.status is not after.status):
            put[_OPEN + after.job_id] = self._entry(after)
        spent = after.cost_usd - (before.cost_usd if before is not None else 0.0)
        if spent:
            day = day_of(self._clock.now())
            put[f"{_SPENT}{day}:{after.job_id}:{after.attempt}"] = codec.encode(spent)
        return Batch(put=put, delete=delete)

    def _standing(self, found: Found) -> Standing:
        statuses = [entry.status for entry in _entries(found).values()]
        queued = statuses.count(Status.QUEUED)
        return Standing(
            queued=queued,
            processing=statuses.count(Status.PROCESSING),
            spent_today_usd=sum(_amounts(found, day_of(self._clock.now()))),
            queued_by_all=queued,
        )

    def _old(self, found: Found) -> list[str]:
        """What was spent on other days."""
        today = f"{_SPENT}{day_of(self._clock.now())}:"
        return [key for key in found if key.startswith(_SPENT) and not key.startswith(today)]

    def _entry(self, job: Job) -> str:
        return codec.encode(Entry(job.session_id, job.status, self._clock.now(), job.attempt))

    async def _mend(self, name: str, found: Found) -> bool:
        """Compare the oldest entries with the jobs themselves. True if there was something to mend."""
        put: dict[str, str] = {}
        delete: list[str] = []
        for key, entry in sorted(_entries(found).items())[:MENDED]:
            if self._clock.now() - entry.at < YOUNG_SECONDS:
                continue
            job = await self._job(key.removeprefix(_OPEN), entry.session_id)
            if job is None or job.status.final:
                delete.append(key)
            elif job.status is not entry.status:
                put[key] = self._entry(job)
        if put or delete:
            await self._documents.write(name, Batch(put=put, delete=delete))
        return bool(put or delete)

    async def _job(self, job_id: str, session_id: str) -> Job | None:
        key = codec.JOBS + job_id
        found = await self._documents.read(codec.session_object(session_id), Read(keys=[key]))
        if key not in found or found[key].body == codec.ABANDONED:
            return None
        return codec.decode(Job, found[key].body)


def _entries(found: Found) -> dict[str, Entry]:
    return {key: _entry.decode(found[key].body) for key in found if key.startswith(_OPEN)}


def _amounts(found: Found, day: int) -> list[float]:
    return [_amount.decode(found[key].body) for key in found if key.startswith(f"{_SPENT}{day}:")]
