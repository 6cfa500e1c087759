"""The truth in Durable Objects, one for each session: every rule is in `decide`, which runs here.

A change reads the documents it is about with their versions, decides, and writes a batch that counts on these
versions; if another was faster, it reads and decides again. Those of a running job it remembers (`memory.py`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.changes import (
    Found,
    documents_of,
    rings_of,
    session_in,
    snapshot_in,
    version_in,
)
from overnight.adapters.cloudflare.claims import Claims
from overnight.adapters.cloudflare.codec import Route
from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Documents, Read, Span
from overnight.adapters.cloudflare.lost_answers import CertainDocuments
from overnight.adapters.cloudflare.memory import Memory, as_written
from overnight.adapters.cloudflare.owners import YOUNG_SECONDS, Owners
from overnight.adapters.cloudflare.routes import Routes
from overnight.adapters.cloudflare.turns import InTurn
from overnight.domain.errors import DeliveryNotFound, JobNotFound, Refused, SessionNotFound
from overnight.domain.job import (
    Change,
    Delivery,
    DeliveryStatus,
    Event,
    Job,
    JobRequest,
    Session,
    Snapshot,
    Status,
)
from overnight.domain.standing import Check
from overnight.domain.transitions import Admit, Decide
from overnight.ports import Books, Clock, Created, Idempotency, StorageBusy, Wakeups

log = logging.getLogger(__name__)

TRIES = 200
"""Others must win so often, between a read and its write, before a change gives up."""
FIRST_TRIES = 3
PAUSE_SECONDS = 0.01
"""After the first tries: a collision is over in the time of a round trip."""
PAGE = 500
"""Documents that one look of an erasure lists, and jobs that one write deletes: KV takes a thousand operations of one
invocation of the edge (facts: cloudflare 4)."""
EVENT_CHARACTERS = 4_000_000
"""Of the events that one look returns: an isolate of the edge has 128 MB, and holds them in several forms at once."""

T = TypeVar("T")


class LedgerStore:
    """The port `JobStore`. The bells of a change go with its write, and the edge rings them.

    A `check` is told how the owner stands, but not how many jobs wait for all owners: `queued_by_all` are the
    owner's own (docs/decisions/0081).
    """

    def __init__(
        self,
        documents: Documents,
        wakeups: Wakeups,
        clock: Clock,
        in_turn: InTurn,
        owed: Callable[[Sequence[Delivery]], None] | None = None,
    ) -> None:
        """`owed` is told of every delivery that was written."""
        self._documents = CertainDocuments(documents)
        self._clock = clock
        self._owed = owed
        self._wakeups = wakeups
        self._in_turn = in_turn
        self._routes = Routes(self._documents)
        self._claims = Claims(self._documents, clock)
        self._owners = Owners(self._documents, clock)
        self._running: Memory[Found] = Memory()
        self._calls: set[asyncio.Task[Any]] = set()

    async def books(self, owner: str, *, day: int) -> Books:
        """The port `Owners`."""
        return await self._owners.books(owner, day=day)

    async def held(self, owner: str, *, limit: int) -> Sequence[str]:
        """None: jobs that wait for another of their owner are only tried again (docs/decisions/0081)."""
        return ()

    async def settle(self) -> None:
        """Wait for the writes whose callers have gone."""
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def create(
        self,
        session_id: str,
        request: JobRequest,
        admit: Admit,
        idempotency: Idempotency | None = None,
        *,
        check: Check | None = None,
    ) -> Created:
        return await self._whole(self._create(session_id, request, admit, idempotency, check))

    async def change(self, job_id: str, decide: Decide, *, check: Check | None = None) -> Change:
        return await self._whole(self._change(job_id, decide, check))

    async def snapshot(self, job_id: str) -> Snapshot:
        name, key = await self._place(job_id), codec.JOBS + job_id
        return snapshot_in(await self._documents.read(name, Read(keys=[codec.SESSION, key])), job_id)

    async def request(self, job_id: str) -> JobRequest:
        name, key = await self._place(job_id), codec.REQUESTS + job_id
        found = await self._documents.read(name, Read(keys=[key]))
        if key not in found:
            raise JobNotFound("no such job")
        return codec.decode(JobRequest, found[key].body)

    async def events(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        prefix = f"{codec.EVENTS}{job_id}:"
        span = Span(prefix, codec.event_key(job_id, after), limit, most_characters=EVENT_CHARACTERS)
        found = await self._of_job(job_id, span)
        return [codec.decode(Event, document.body) for document in found]

    async def session(self, session_id: str) -> Session:
        found = await self._documents.read(codec.session_object(session_id), Read(keys=[codec.SESSION]))
        session = session_in(found)
        if session is None or session.erased_at is not None:
            raise SessionNotFound("no such session")
        return session

    async def change_session(self, session_id: str, decide: Callable[[Session | None], Session]) -> Session:
        return await self._whole(self._change_session(session_id, decide))

    async def erase(self, session_id: str) -> None:
        await self._whole(self._erase(session_id))

    async def deliveries(self, job_id: str) -> Sequence[Delivery]:
        found = await self._of_job(job_id, Span(f"{codec.DELIVERIES}{job_id}:"))
        deliveries = [codec.decode(Delivery, document.body) for document in found]
        return sorted(deliveries, key=lambda delivery: delivery.created_at)

    async def change_delivery(
        self, delivery_id: str, decide: Callable[[Delivery], Delivery | None]
    ) -> Delivery | None:
        return await self._whole(self._change_delivery(delivery_id, decide))

    async def _whole(self, call: Coroutine[Any, Any, T]) -> T:
        """What a call has begun it ends, also if its caller is cancelled: watchers must hear of what is written."""
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the caller has it too, if there still is one

    async def _create(
        self,
        session_id: str,
        request: JobRequest,
        admit: Admit,
        idempotency: Idempotency | None,
        check: Check | None,
    ) -> Created:
        name = codec.session_object(session_id)
        async with self._in_turn(name):
            for number in range(TRIES):
                await _pause(number)
                known = await self._claims.look(idempotency) if idempotency else None
                if known is not None and known.replay is not None:
                    return Created(change=_as_it_is(known.replay), replayed=True)
                found = await self._documents.read(name, Read(keys=[codec.SESSION]))
                change = admit(session_in(found))
                version = known.version if known is not None else ABSENT
                if idempotency and not await self._claims.take(idempotency, change.job, version=version):
                    continue
                if await self._admitted(name, found, change, request, idempotency, check):
                    await self._owners.follow(None, change.job, reserved=check is not None)
                    self._announce(change)
                    return Created(change=replace(change, rings=()), replayed=False)
        raise _too_busy()

    async def _admitted(
        self,
        name: str,
        found: Found,
        change: Change,
        request: JobRequest,
        idempotency: Idempotency | None,
        check: Check | None,
    ) -> bool:
        """Make room for the job and write it. What was taken for one that was surely not written is given back."""
        try:
            if check is not None:
                await self._owners.reserve(change.job, check)
            written = await self._write_new(name, found, change, request, idempotency)
        except Refused:
            await self._give_back(change.job, idempotency, check)
            raise
        if not written:
            await self._give_back(change.job, idempotency, check)
        return written

    async def _give_back(self, job: Job, idempotency: Idempotency | None, check: Check | None) -> None:
        if idempotency is not None:
            await self._claims.free(codec.claim_object(idempotency), job.job_id)
        if check is not None:
            await self._owners.forget(job.owner, [job.job_id])

    async def _write_new(
        self,
        name: str,
        found: Found,
        change: Change,
        request: JobRequest,
        idempotency: Idempotency | None,
    ) -> bool:
        job_id = change.job.job_id
        await self._routes.lay(Route(change.session.session_id, job_id), [job_id])
        put = documents_of(change) | {codec.REQUESTS + job_id: codec.encode(request)}
        if idempotency is not None:
            put[codec.CLAIMS + job_id] = codec.claim_object(idempotency)
        expect = {codec.SESSION: version_in(found, codec.SESSION), codec.JOBS + job_id: ABSENT}
        return await self._documents.write(name, Batch(expect=expect, put=put, rings=rings_of(change)))

    async def _change(self, job_id: str, decide: Decide, check: Check | None) -> Change:
        name, key = await self._place(job_id), codec.JOBS + job_id
        async with self._in_turn(name):
            changed = await self._by_memory(name, job_id, decide) if check is None else None
            if changed is not None:
                return changed
            for number in range(TRIES):
                await _pause(number)
                found = await self._documents.read(name, Read(keys=[codec.SESSION, key]))
                before = snapshot_in(found, job_id)
                change = decide(before.job, before.session)
                if change is None:
                    return _as_it_is(before)
                since = self._clock.now()
                if check is not None:
                    await self._owners.reserve(change.job, check)
                if await self._write_change(name, found, change, before):
                    fresh = self._clock.now() - since < YOUNG_SECONDS
                    return await self._made(before, change, reserved=check is not None and fresh)
        raise _too_busy()

    async def _by_memory(self, name: str, job_id: str, decide: Decide) -> Change | None:
        """Change a job that this process runs without asking for it. None: what is remembered does not do."""
        found = self._running.recall(job_id)
        if found is None:
            return None
        before = snapshot_in(found, job_id)
        try:
            change = decide(before.job, before.session)
        except Refused:
            return None
        if change is None or not await self._write_change(name, found, change, before):
            return None
        return await self._made(before, change, reserved=False)

    async def _made(self, before: Snapshot, change: Change, *, reserved: bool) -> Change:
        """`reserved`: room was made for it, and so lately that nobody has taken it back."""
        await self._owners.follow(before.job, change.job, reserved=reserved)
        self._announce(change)
        return replace(change, rings=())

    async def _write_change(self, name: str, found: Found, change: Change, before: Snapshot) -> bool:
        job_id = change.job.job_id
        await self._routes.lay(
            Route(change.session.session_id, job_id), [owed.delivery_id for owed in change.deliveries]
        )
        put = documents_of(change)
        if change.session == before.session:
            del put[codec.SESSION]
        expect = {key: version_in(found, key) for key in (codec.SESSION, codec.JOBS + job_id)}
        batch = Batch(expect=expect, put=put, rings=rings_of(change))
        self._running.forget(job_id)  # until it is sure what was written
        written = await self._documents.write(name, batch)
        if written and change.job.status is Status.PROCESSING:
            self._running.keep(job_id, as_written(found, batch))
        return written

    async def _change_session(self, session_id: str, decide: Callable[[Session | None], Session]) -> Session:
        name = codec.session_object(session_id)
        async with self._in_turn(name):
            for number in range(TRIES):
                await _pause(number)
                found = await self._documents.read(name, Read(keys=[codec.SESSION]))
                session = decide(session_in(found))
                if await self._put(name, found, codec.SESSION, codec.encode(session)):
                    return session
        raise _too_busy()

    async def _change_delivery(
        self, delivery_id: str, decide: Callable[[Delivery], Delivery | None]
    ) -> Delivery | None:
        route = await self._routes.find(delivery_id)
        if route is None:
            raise DeliveryNotFound("no such delivery")
        name, key = codec.session_object(route.session_id), codec.delivery_key(route.job_id, delivery_id)
        async with self._in_turn(name):
            for number in range(TRIES):
                await _pause(number)
                found = await self._documents.read(name, Read(keys=[key]))
                if key not in found:
                    raise DeliveryNotFound("no such delivery")
                after = decide(codec.decode(Delivery, found[key].body))
                if after is None:
                    return None
                if await self._put(name, found, key, codec.encode(after)):
                    self._announce_owed([after])
                    return after
        raise _too_busy()

    async def _put(self, name: str, found: Found, key: str, body: str) -> bool:
        return await self._documents.write(name, Batch(expect={key: version_in(found, key)}, put={key: body}))

    async def _erase(self, session_id: str) -> None:
        """The keys and routes go first: what a crash leaves, the next erasure still finds in the object."""
        name = codec.session_object(session_id)
        for key, document in (await self._all(name, codec.CLAIMS, bodies=True)).items():
            await self._claims.free(document.body, key.removeprefix(codec.CLAIMS))
        job_ids = [key.removeprefix(codec.JOBS) for key in await self._all(name, codec.JOBS)]
        owed = [key.rpartition(":")[2] for key in await self._all(name, codec.DELIVERIES)]
        await self._routes.forget([*job_ids, *owed])
        session = session_in(await self._documents.read(name, Read(keys=[codec.SESSION])))
        if session is not None:
            await self._owners.forget(session.owner, job_ids)
        jobs = [codec.JOBS + job_id for job_id in job_ids]
        for at in range(0, len(jobs), PAGE):  # by name, because the edge's mirror shows them too
            await self._documents.write(name, Batch(delete=jobs[at : at + PAGE]))
        await self._documents.write(name, Batch(wipe=True))
        self._wakeups.announce(*(f"job:{job_id}" for job_id in job_ids))

    async def _all(self, name: str, prefix: str, *, bodies: bool = False) -> Found:
        found: dict[str, Document] = {}
        after = ""
        while True:
            page = await self._documents.read(name, Read(spans=[Span(prefix, after, PAGE, bodies)]))
            found |= page
            if len(page) < PAGE:
                return found
            after = max(page)

    async def _place(self, job_id: str) -> str:
        route = await self._routes.find(job_id)
        if route is None:
            raise JobNotFound("no such job")
        return codec.session_object(route.session_id)

    async def _of_job(self, job_id: str, span: Span) -> Sequence[Document]:
        """In the order of their keys; nothing of an unknown job."""
        route = await self._routes.find(job_id)
        if route is None:
            return []
        found = await self._documents.read(codec.session_object(route.session_id), Read(spans=[span]))
        return [found[key] for key in sorted(found)]

    def _announce(self, change: Change) -> None:
        if change.events or change.deliveries:
            self._wakeups.announce(f"job:{change.job.job_id}")
        self._announce_owed(change.deliveries)

    def _announce_owed(self, deliveries: Sequence[Delivery]) -> None:
        if self._owed is not None:
            self._owed(deliveries)
        if any(delivery.status is DeliveryStatus.OWED for delivery in deliveries):
            self._wakeups.announce("deliveries")


def _as_it_is(snapshot: Snapshot) -> Change:
    return Change(job=snapshot.job, session=snapshot.session)


async def _pause(number: int) -> None:
    if number > FIRST_TRIES:
        await asyncio.sleep(PAUSE_SECONDS)


def _too_busy() -> StorageBusy:
    return StorageBusy("The session is changed by too many at once. Nothing was written: try again.")
