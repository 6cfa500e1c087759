"""The truth about jobs and sessions in SQLite: every rule is in `decide`, this only stores."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import apsw

from overnight.adapters.sqlite import idempotency as keys
from overnight.adapters.sqlite import rows, tallies
from overnight.adapters.sqlite.database import Database
from overnight.adapters.sqlite.queue import SEND, TOPIC
from overnight.domain.errors import DeliveryNotFound, JobNotFound, SessionNotFound
from overnight.domain.job import Change, Delivery, DeliveryStatus, Event, JobRequest, Session, Snapshot
from overnight.domain.standing import Check
from overnight.domain.transitions import Admit, Decide
from overnight.ports import Clock, Created, Idempotency, Wakeups

ERASE_JOBS = 20
"""Jobs that one transaction erases: others write in between, however long the session is."""


class SqliteStore:
    """The port `JobStore`. It rings the bells of a change itself, in the transaction (see `SqliteQueue`)."""

    def __init__(self, database: Database, wakeups: Wakeups, clock: Clock) -> None:
        self._database = database
        self._wakeups = wakeups
        self._clock = clock

    async def create(
        self,
        session_id: str,
        request: JobRequest,
        admit: Admit,
        idempotency: Idempotency | None = None,
        *,
        check: Check | None = None,
    ) -> Created:
        encoded, now = rows.encode(request), self._clock.now()

        def work(connection: apsw.Connection) -> Created:
            if idempotency is not None:
                known = keys.find_job_of(connection, idempotency, now=now)
                if known is not None:
                    return Created(change=_as_it_is(_snapshot(connection, known)), replayed=True)
            change = admit(rows.find_session(connection, session_id))
            tallies.hold_to(check, connection, change, now=now)
            rows.insert(connection, change, encoded)
            _ring(connection, change)
            if idempotency is not None:
                keys.remember(connection, idempotency, change.job.job_id, now=now)
            return Created(change=change, replayed=False)

        created = await self._database.write(work, committed=lambda created: self._announce(created.change))
        return replace(created, change=replace(created.change, rings=()))

    async def change(self, job_id: str, decide: Decide, *, check: Check | None = None) -> Change:
        now = self._clock.now()

        def work(connection: apsw.Connection) -> Change:
            before = _snapshot(connection, job_id)
            change = decide(before.job, before.session)
            if change is None:
                return _as_it_is(before)
            tallies.hold_to(check, connection, change, now=now)
            rows.update(connection, change, before)
            tallies.charge(connection, before.job, change.job, now=now)
            _ring(connection, change)
            return change

        change = await self._database.write(work, committed=self._announce)
        return replace(change, rings=())

    async def snapshot(self, job_id: str) -> Snapshot:
        return await self._database.read(lambda connection: _snapshot(connection, job_id))

    async def request(self, job_id: str) -> JobRequest:
        request = await self._database.read(lambda connection: rows.find_request(connection, job_id))
        if request is None:
            raise JobNotFound("no such job")
        return request

    async def events(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        return await self._database.read(
            lambda connection: rows.find_events(connection, job_id, after=after, limit=limit)
        )

    async def session(self, session_id: str) -> Session:
        session = await self._database.read(lambda connection: rows.find_session(connection, session_id))
        if session is None or session.erased_at is not None:
            raise SessionNotFound("no such session")
        return session

    async def change_session(self, session_id: str, decide: Callable[[Session | None], Session]) -> Session:
        def work(connection: apsw.Connection) -> Session:
            session = decide(rows.find_session(connection, session_id))
            rows.save_session(connection, session)
            return session

        return await self._database.write(work)

    async def erase(self, session_id: str) -> None:
        while await self._database.write(
            lambda connection: _erase_some(connection, session_id), committed=self._announce_jobs
        ):
            pass

    async def deliveries(self, job_id: str) -> Sequence[Delivery]:
        return await self._database.read(lambda connection: rows.find_deliveries(connection, job_id))

    async def change_delivery(
        self, delivery_id: str, decide: Callable[[Delivery], Delivery | None]
    ) -> Delivery | None:
        def work(connection: apsw.Connection) -> Delivery | None:
            before = rows.find_delivery(connection, delivery_id)
            if before is None:
                raise DeliveryNotFound("no such delivery")
            after = decide(before)
            if after is not None:
                rows.save_delivery(connection, after)
            return after

        return await self._database.write(work, committed=self._announce_delivery)

    def _announce(self, change: Change) -> None:
        topics = [f"job:{change.job.job_id}"] if change.events or change.deliveries else []
        if any(delivery.status is DeliveryStatus.OWED for delivery in change.deliveries):
            topics.append("deliveries")
        if change.rings:
            topics.append(TOPIC)
        self._wakeups.announce(*topics)

    def _announce_jobs(self, job_ids: Sequence[str]) -> None:
        self._wakeups.announce(*(f"job:{job_id}" for job_id in job_ids))

    def _announce_delivery(self, delivery: Delivery | None) -> None:
        if delivery is not None and delivery.status is DeliveryStatus.OWED:
            self._wakeups.announce("deliveries")


def _ring(connection: apsw.Connection, change: Change) -> None:
    """Bells are in the same file, so they ring with the commit: none can be lost, and it costs no second one."""
    connection.executemany(SEND, [(ring.job_id, ring.at) for ring in change.rings])


def _snapshot(connection: apsw.Connection, job_id: str) -> Snapshot:
    snapshot = rows.find_snapshot(connection, job_id)
    if snapshot is None:
        raise JobNotFound("no such job")
    return snapshot


def _as_it_is(snapshot: Snapshot) -> Change:
    return Change(job=snapshot.job, session=snapshot.session)


def _erase_some(connection: apsw.Connection, session_id: str) -> Sequence[str]:
    """Erase some jobs of the session and return their ids, or the session itself once it has none."""
    found = connection.execute(
        "SELECT job_id FROM jobs WHERE session_id = ? LIMIT ?", (session_id, ERASE_JOBS)
    ).fetchall()
    rows.delete_jobs(connection, [str(job_id) for (job_id,) in found])
    if not found:
        connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
    return [str(job_id) for (job_id,) in found]
