"""How an owner stands, kept in an object of its own: a tally, and an entry for each open job (`tally.py`).

A job's entry comes before the job (a limit holds however many requests come at once) and changes after it. What a
crash in between leaves is wrong in one direction, too full, and is mended by whoever is refused because of it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

import msgspec

from overnight.adapters.cloudflare import codec, tally
from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Documents, Read, Span
from overnight.adapters.cloudflare.tally import Entry, Noted, Tally
from overnight.domain.errors import OwnerBusy, Refused
from overnight.domain.job import Job, Status
from overnight.domain.standing import Check
from overnight.ports import Books, Clock, StorageBusy, StorageError

log = logging.getLogger(__name__)

TRIES = 50
FAILURES = 3
"""Of a note, before it is left to be mended: to make it again is safe."""
FIRST_TRIES, PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 3, 0.01, 0.2
"""Collisions at once are over in the time of a round trip; after the first ones each waits a little longer."""
MOST = 10_000
"""Open jobs that one look at the books counts, and that are mended: the oldest, as ids begin with the time."""
MENDED = 50
"""Entries that one refusal looks after, and how often at most one does: a look at each job is paid for."""
MEND_SECONDS = 30.0
YOUNG_SECONDS = 30.0
"""The job of an entry may still be on its way."""
_TALLY, _OPEN = "tally", "open:"

Found = Mapping[str, Document]
_entry = msgspec.json.Decoder(Entry)
_tally = msgspec.json.Decoder(Tally)


class Owners:
    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock

    async def reserve(self, job: Job, check: Check) -> None:
        """Make room for the job as it is about to be. Raises what `check` raises, StorageError."""

        def room(noted: Noted) -> Noted:
            now = self._clock.now()
            check(job, tally.standing(noted, job, now=now))
            return tally.opened(noted, job, now=now)

        try:
            await self._note(job.owner, job.job_id, room)
        except Refused as refused:
            for_running = isinstance(refused, OwnerBusy)
            if not await self._mend(job.owner, for_running=for_running):
                raise
            await self._note(job.owner, job.job_id, room)

    async def follow(self, before: Job | None, after: Job, *, reserved: bool) -> None:
        """Note what a written change has made of a job. What cannot be noted now is mended later."""
        if not _matters(before, after, reserved=reserved):
            return
        for number in range(FAILURES):
            try:
                await self._note(
                    after.owner,
                    after.job_id,
                    lambda noted: tally.followed(noted, before, after, now=self._clock.now()),
                )
            except StorageError:
                log.exception("could not note how the owner of job %s stands", after.job_id)
                await asyncio.sleep(PAUSE_SECONDS * number)
            else:
                return

    async def forget(self, owner: str, job_ids: Iterable[str]) -> None:
        keys = [_OPEN + job_id for job_id in job_ids]
        for key in await self._documents.read(codec.owner_object(owner), Read(keys=keys)):
            await self._note(owner, key.removeprefix(_OPEN), tally.forgotten)

    async def books(self, owner: str, *, day: int) -> Books:
        """What the owner's jobs have cost in that day, and the attempts that run. Raises StorageError."""
        read = Read(keys=[_TALLY], spans=[Span(_OPEN, limit=MOST)])
        found = await self._documents.read(codec.owner_object(owner), read)
        running = frozenset(
            (key.removeprefix(_OPEN), entry.attempt)
            for key, entry in _entries(found).items()
            if entry.status is Status.PROCESSING
        )
        return Books(spent_usd=_tally_in(found).spent.get(day, 0.0), running=running)

    async def _note(self, owner: str, job_id: str, change: Callable[[Noted], Noted]) -> None:
        """Change tally and entry in one transaction. Every writer counts on the tally's version, so on both."""
        name, key = codec.owner_object(owner), _OPEN + job_id
        for number in range(TRIES):
            await _pause(number)
            found = await self._documents.read(name, Read(keys=[_TALLY, key]))
            before = _tally_in(found), _entry_in(found, key)
            after = change(before)
            if after == before:
                return
            if await self._documents.write(name, _batch(found, key, after)):
                return
        raise StorageBusy("The owner's jobs are changed by too many at once. Nothing was written: try again.")

    async def _mend(self, owner: str, *, for_running: bool) -> bool:
        """Compare some entries with the jobs themselves, each time the next ones. True if that may have helped.

        Those that are said to run come first: however many wait, a place that nobody has is soon found to be free.
        """
        name, now = codec.owner_object(owner), self._clock.now()
        found = await self._documents.read(name, Read(keys=[_TALLY]))
        kept = _tally_in(found)
        if now - kept.mended_at < MEND_SECONDS:
            return False
        entries = _entries(await self._documents.read(name, Read(spans=[Span(_OPEN, limit=MOST)])))
        kept, looked_at = tally.next_to_mend(kept, entries, most=MENDED, for_running=for_running)
        kept = msgspec.structs.replace(kept, mended_at=now)
        batch = Batch(expect={_TALLY: _version(found)}, put={_TALLY: codec.encode(kept)})
        if not await self._documents.write(name, batch):
            return False  # somebody else mends, or the owner's jobs move: the next refusal comes
        for key in looked_at:
            if now - entries[key].at >= YOUNG_SECONDS:
                await self._compare(owner, key.removeprefix(_OPEN), entries[key])
        return True

    async def _compare(self, owner: str, job_id: str, entry: Entry) -> None:
        job = await self._job(job_id, entry.session_id)

        def right(noted: Noted) -> Noted:
            return tally.mended(noted, job, now=self._clock.now()) if noted[1] == entry else noted

        await self._note(owner, job_id, right)

    async def _job(self, job_id: str, session_id: str) -> Job | None:
        key = codec.JOBS + job_id
        found = await self._documents.read(codec.session_object(session_id), Read(keys=[key]))
        if key not in found or found[key].body == codec.ABANDONED:
            return None
        return codec.decode(Job, found[key].body)


def _matters(before: Job | None, after: Job, *, reserved: bool) -> bool:
    if before is None:
        return not reserved
    cost = after.cost_usd != before.cost_usd
    return cost or (after.status is not before.status and (after.status.final or not reserved))


def _batch(found: Found, key: str, noted: Noted) -> Batch:
    kept, entry = noted
    put = {_TALLY: codec.encode(kept)} | ({} if entry is None else {key: codec.encode(entry)})
    delete = [key] if entry is None and key in found else []
    return Batch(expect={_TALLY: _version(found)}, put=put, delete=delete)


def _version(found: Found) -> int:
    return found[_TALLY].version if _TALLY in found else ABSENT


def _tally_in(found: Found) -> Tally:
    return _tally.decode(found[_TALLY].body) if _TALLY in found else Tally()


def _entry_in(found: Found, key: str) -> Entry | None:
    return _entry.decode(found[key].body) if key in found else None


def _entries(found: Found) -> dict[str, Entry]:
    return {key: _entry.decode(found[key].body) for key in found if key.startswith(_OPEN)}


async def _pause(number: int) -> None:
    if number > FIRST_TRIES:
        await asyncio.sleep(min(PAUSE_SECONDS * number, LONGEST_PAUSE_SECONDS))
