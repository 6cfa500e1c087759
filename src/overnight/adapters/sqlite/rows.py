"""How the values of the domain are put into rows and read back. Used inside a transaction of the caller."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import apsw
import msgspec

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

_job = msgspec.json.Decoder(Job)
_session = msgspec.json.Decoder(Session)
_request = msgspec.json.Decoder(JobRequest)
_event = msgspec.json.Decoder(Event)
_delivery = msgspec.json.Decoder(Delivery)


def encode(value: object) -> bytes:
    """JSON. Half a surrogate pair, which an agent's output can hold and UTF-8 cannot, becomes `?`."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode("utf-8", "replace")


def read_job(body: bytes, result: bytes | None = None) -> Job:
    job = _job.decode(body)
    if result is None:
        return job
    text, structured = msgspec.json.decode(result)
    return replace(job, result=text, structured_output=structured)


def read_session(body: bytes) -> Session:
    return _session.decode(body)


def read_delivery(body: bytes) -> Delivery:
    return _delivery.decode(body)


def find_snapshot(connection: apsw.Connection, job_id: str) -> Snapshot | None:
    row = connection.execute(
        "SELECT jobs.body, jobs.result, sessions.body FROM jobs JOIN sessions USING (session_id) WHERE job_id = ?",
        (job_id,),
    ).fetchone()
    return Snapshot(job=read_job(row[0], row[1]), session=read_session(row[2])) if row else None


def find_session(connection: apsw.Connection, session_id: str) -> Session | None:
    row = connection.execute("SELECT body FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
    return read_session(row[0]) if row else None


def find_request(connection: apsw.Connection, job_id: str) -> JobRequest | None:
    row = connection.execute("SELECT body FROM requests WHERE job_id = ?", (job_id,)).fetchone()
    return _request.decode(row[0]) if row else None


def find_events(connection: apsw.Connection, job_id: str, *, after: int, limit: int) -> list[Event]:
    rows = connection.execute(
        "SELECT body FROM events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?", (job_id, after, limit)
    )
    return [_event.decode(body) for (body,) in rows]


def find_deliveries(connection: apsw.Connection, job_id: str) -> list[Delivery]:
    rows = connection.execute("SELECT body FROM deliveries WHERE job_id = ? ORDER BY seq", (job_id,))
    return [read_delivery(body) for (body,) in rows]


def find_delivery(connection: apsw.Connection, delivery_id: str) -> Delivery | None:
    row = connection.execute("SELECT body FROM deliveries WHERE delivery_id = ?", (delivery_id,)).fetchone()
    return read_delivery(row[0]) if row else None


def insert(connection: apsw.Connection, change: Change, request: bytes) -> None:
    """Write a new job, with the session that it is for."""
    job = change.job
    body, result = _parts(job)
    connection.execute(
        """
        INSERT INTO jobs (job_id, session_id, status, available_at, body, result, owner)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        (job.job_id, job.session_id, job.status, job.available_at, body, result, job.owner),
    )
    connection.execute("INSERT INTO requests (job_id, body) VALUES (?, ?)", (job.job_id, request))
    save_session(connection, change.session)
    _add(connection, change)


def update(connection: apsw.Connection, change: Change, before: Snapshot) -> None:
    """Write what the change makes of a job and its session."""
    job = change.job
    body, result = _parts(job)
    connection.execute(
        "UPDATE jobs SET status = ?, available_at = ?, body = ?, result = ? WHERE job_id = ?",
        (job.status, job.available_at, body, result, job.job_id),
    )
    if change.session != before.session:
        save_session(connection, change.session)
    elif (job.status, job.available_at) != (before.job.status, before.job.available_at):
        _save_due(connection, job)
    _add(connection, change)


_ROWS_OF_A_JOB = (
    "DELETE FROM requests WHERE job_id = ?",
    "DELETE FROM events WHERE job_id = ?",
    "DELETE FROM deliveries WHERE job_id = ?",
    "DELETE FROM bells WHERE job_id = ?",
    "DELETE FROM idempotency WHERE job_id = ?",
    "DELETE FROM jobs WHERE job_id = ?",
)


def delete_jobs(connection: apsw.Connection, job_ids: Iterable[str]) -> None:
    """With all that there is of them but their sessions."""
    ids = [(job_id,) for job_id in job_ids]
    for statement in _ROWS_OF_A_JOB:
        connection.executemany(statement, ids)


def save_session(connection: apsw.Connection, session: Session) -> None:
    """After the job itself was written: when its first job is due comes from that job's row."""
    connection.execute(
        """
        INSERT INTO sessions (session_id, created_at, erased_at, head, due_at, body, owner)
        VALUES (?1, ?2, ?3, ?4, (SELECT available_at FROM jobs WHERE job_id = ?4 AND status = 'queued'), ?5, ?6)
        ON CONFLICT (session_id) DO UPDATE SET
            created_at = excluded.created_at, erased_at = excluded.erased_at, head = excluded.head,
            due_at = excluded.due_at, body = excluded.body
        """,
        (
            session.session_id,
            session.created_at,
            session.erased_at,
            session.line[0] if session.line else None,
            encode(session),
            session.owner,
        ),
    )


def save_delivery(connection: apsw.Connection, delivery: Delivery) -> None:
    connection.execute(
        "UPDATE deliveries SET owed_at = ?, body = ? WHERE delivery_id = ?",
        (_owed_at(delivery), encode(delivery), delivery.delivery_id),
    )


def _save_due(connection: apsw.Connection, job: Job) -> None:
    due_at = job.available_at if job.status is Status.QUEUED else None
    connection.execute(
        "UPDATE sessions SET due_at = ? WHERE session_id = ? AND head = ?",
        (due_at, job.session_id, job.job_id),
    )


def _add(connection: apsw.Connection, change: Change) -> None:
    job_id = change.job.job_id
    if change.events:
        connection.executemany("INSERT INTO events VALUES (?, ?, ?)", _event_rows(job_id, change.events))
    for owed in change.deliveries:
        connection.execute(
            "INSERT INTO deliveries (delivery_id, job_id, owed_at, body) VALUES (?, ?, ?, ?)",
            (owed.delivery_id, owed.job_id, _owed_at(owed), encode(owed)),
        )


def _event_rows(job_id: str, events: Iterable[Event]) -> Iterable[tuple[str, int, bytes]]:
    return ((job_id, event.seq, encode(event)) for event in events)


def _owed_at(delivery: Delivery) -> float | None:
    return delivery.next_at if delivery.status is DeliveryStatus.OWED else None


def _parts(job: Job) -> tuple[bytes, bytes | None]:
    """The job without its result, and the result."""
    large: tuple[str | None, Any] = (job.result, job.structured_output)
    if large == (None, None):
        return encode(job), None
    return encode(replace(job, result=None, structured_output=None)), encode(large)
