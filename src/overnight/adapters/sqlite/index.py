"""The views over all sessions at once, in SQLite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import apsw

from overnight.adapters.sqlite import rows
from overnight.adapters.sqlite.database import Database
from overnight.domain.cursor import parse_session_cursor, session_cursor
from overnight.domain.ids import parse_uuid
from overnight.domain.job import Job, Session, Snapshot, Status
from overnight.ports import Page

_AFTER_EVERY_ID = "~"

_NEWEST = """
SELECT jobs.body, sessions.body FROM jobs CROSS JOIN sessions USING (session_id)
WHERE job_id < :before ORDER BY job_id DESC LIMIT :limit
"""
_OF_SESSION = """
SELECT jobs.body, sessions.body FROM jobs CROSS JOIN sessions USING (session_id)
WHERE session_id = :session AND job_id < :before
AND (:every_owner OR jobs.owner = :owner) AND (:any OR status IN (SELECT value FROM json_each(:statuses)))
ORDER BY job_id DESC LIMIT :limit
"""
_COMPLETED = """
SELECT jobs.body, sessions.body FROM jobs CROSS JOIN sessions USING (session_id)
WHERE status = 'completed' AND job_id < :before ORDER BY job_id DESC LIMIT :limit
"""
# The second condition is what lets SQLite use the partial index.
_OF_OTHER_STATUS = """
SELECT jobs.body, sessions.body FROM jobs CROSS JOIN sessions USING (session_id)
WHERE status = :status AND status <> 'completed' AND job_id < :before ORDER BY job_id DESC LIMIT :limit
"""
# The owner's own indexes are partial ones too.
_NEWEST_OF_OWNER = """
SELECT jobs.body, sessions.body FROM jobs CROSS JOIN sessions USING (session_id)
WHERE jobs.owner = :owner AND jobs.owner <> '' AND job_id < :before ORDER BY job_id DESC LIMIT :limit
"""
_COMPLETED_OF_OWNER = """
SELECT jobs.body, sessions.body FROM jobs CROSS JOIN sessions USING (session_id)
WHERE jobs.owner = :owner AND jobs.owner <> '' AND status = 'completed' AND job_id < :before
ORDER BY job_id DESC LIMIT :limit
"""
_OTHERS_OF_OWNER = """
SELECT jobs.body, sessions.body FROM jobs CROSS JOIN sessions USING (session_id)
WHERE jobs.owner = :owner AND jobs.owner <> '' AND status = :status AND status <> 'completed' AND job_id < :before
ORDER BY job_id DESC LIMIT :limit
"""
_SESSIONS = """
SELECT body FROM sessions WHERE erased_at IS NULL AND (created_at, session_id) < (?, ?)
ORDER BY created_at DESC, session_id DESC LIMIT ?
"""
_SESSIONS_OF_OWNER = """
SELECT body FROM sessions WHERE owner = ? AND owner <> '' AND erased_at IS NULL AND (created_at, session_id) < (?, ?)
ORDER BY created_at DESC, session_id DESC LIMIT ?
"""
_RUNNING = "SELECT body FROM jobs WHERE status = 'processing' AND status <> 'completed'"
_RUNNABLE = "SELECT head FROM sessions WHERE due_at <= ? ORDER BY due_at LIMIT ?"
_DUE_DELIVERIES = "SELECT delivery_id FROM deliveries WHERE owed_at <= ? ORDER BY owed_at LIMIT ?"
_NEXT_DELIVERY = "SELECT min(owed_at) FROM deliveries WHERE owed_at IS NOT NULL"
_ERASING = "SELECT session_id FROM sessions WHERE erased_at IS NOT NULL ORDER BY erased_at"
_COUNTS = "SELECT coalesce(sum(queued), 0), coalesce(sum(processing), 0) FROM open_jobs"


@dataclass(frozen=True, slots=True)
class _Listing:
    """One statement each for jobs of any status, for completed ones, and for those of one other status."""

    newest: str
    completed: str
    other: str


_OF_ALL = _Listing(_NEWEST, _COMPLETED, _OF_OTHER_STATUS)
_OF_OWNER = _Listing(_NEWEST_OF_OWNER, _COMPLETED_OF_OWNER, _OTHERS_OF_OWNER)


class SqliteIndex:
    """The port `JobIndex`. A malformed `before` raises ValueError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def jobs(
        self,
        *,
        statuses: Sequence[Status] = (),
        session_id: str | None = None,
        owner: str | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> Page[Snapshot]:
        start = _AFTER_EVERY_ID if before is None else parse_uuid(before)
        found = await self._database.read(
            lambda connection: _jobs(
                connection, frozenset(statuses), session_id, owner, {"before": start, "limit": limit + 1}
            )
        )
        more = len(found) > limit
        return Page(rows=found[:limit], next=found[limit - 1].job.job_id if more else None)

    async def sessions(
        self, *, owner: str | None = None, limit: int = 20, before: str | None = None
    ) -> Page[Session]:
        start = (float("inf"), "") if before is None else parse_session_cursor(before)
        statement = _SESSIONS if owner is None else _SESSIONS_OF_OWNER
        values = (*(() if owner is None else (owner,)), *start, limit + 1)
        found = await self._database.read(
            lambda connection: [rows.read_session(body) for (body,) in connection.execute(statement, values)]
        )
        more = len(found) > limit
        return Page(rows=found[:limit], next=session_cursor(found[limit - 1]) if more else None)

    async def running(self) -> Sequence[Job]:
        return await self._database.read(
            lambda connection: [rows.read_job(body) for (body,) in connection.execute(_RUNNING)]
        )

    async def runnable(self, *, now: float, limit: int) -> Sequence[str]:
        return await self._database.read(lambda connection: _texts(connection, _RUNNABLE, now, limit))

    async def due_deliveries(self, *, now: float, limit: int) -> Sequence[str]:
        return await self._database.read(lambda connection: _texts(connection, _DUE_DELIVERIES, now, limit))

    async def next_delivery_at(self) -> float | None:
        return await self._database.read(_next_delivery_at)

    async def erasing(self) -> Sequence[str]:
        return await self._database.read(lambda connection: _texts(connection, _ERASING))

    async def counts(self) -> Mapping[Status, int]:
        return await self._database.read(_counts)


def _jobs(
    connection: apsw.Connection,
    statuses: frozenset[Status],
    session_id: str | None,
    owner: str | None,
    part: dict[str, str | int],
) -> list[Snapshot]:
    part |= {"owner": owner or "", "every_owner": owner is None}
    if session_id is not None:
        encoded = rows.encode(statuses).decode()
        of_session: dict[str, str | int] = {"session": session_id, "any": not statuses, "statuses": encoded}
        return _snapshots(connection, _OF_SESSION, part | of_session)
    listing = _OF_ALL if owner is None else _OF_OWNER
    if not statuses:
        return _snapshots(connection, listing.newest, part)
    found = [
        snapshot
        for status in statuses
        for snapshot in _snapshots(
            connection,
            listing.completed if status is Status.COMPLETED else listing.other,
            part | {"status": status},
        )
    ]
    newest_first = sorted(found, key=lambda snapshot: snapshot.job.job_id, reverse=True)
    return newest_first[: int(part["limit"])]


def _snapshots(connection: apsw.Connection, statement: str, named: Mapping[str, str | int]) -> list[Snapshot]:
    return [
        Snapshot(job=rows.read_job(job), session=rows.read_session(session))
        for job, session in connection.execute(statement, named)
    ]


def _texts(connection: apsw.Connection, statement: str, *values: float) -> list[str]:
    return [text for (text,) in connection.execute(statement, values)]


def _next_delivery_at(connection: apsw.Connection) -> float | None:
    row = connection.execute(_NEXT_DELIVERY).fetchone()
    return None if row is None or row[0] is None else float(row[0])


def _counts(connection: apsw.Connection) -> Mapping[Status, int]:
    queued, processing = connection.execute(_COUNTS).get
    return {Status.QUEUED: queued, Status.PROCESSING: processing}
