"""Which keys were used, for which jobs: a small table, because its rows live for a week (facts: queue 6)."""

import apsw

from overnight.domain.errors import IdempotencyConflict
from overnight.domain.retention import IDEMPOTENCY_SECONDS
from overnight.ports import Idempotency

PURGE_ROWS = 10
"""Removed with each new key, so that the table shrinks faster than it grows and no request pays for it."""


def find_job_of(connection: apsw.Connection, idempotency: Idempotency, *, now: float) -> str | None:
    """The id of the job that came with this key. Raises IdempotencyConflict."""
    row = connection.execute(
        "SELECT fingerprint, job_id FROM idempotency WHERE owner = ? AND key = ? AND created_at > ?",
        (idempotency.owner, idempotency.key, now - IDEMPOTENCY_SECONDS),
    ).fetchone()
    if row is None:
        return None
    if row[0] != idempotency.fingerprint:
        raise IdempotencyConflict("the idempotency key was used before with another request")
    return str(row[1])


def remember(connection: apsw.Connection, idempotency: Idempotency, job_id: str, *, now: float) -> None:
    connection.execute(
        "DELETE FROM idempotency WHERE (owner, key) IN "
        "(SELECT owner, key FROM idempotency WHERE created_at <= ? LIMIT ?)",
        (now - IDEMPOTENCY_SECONDS, PURGE_ROWS),
    )
    connection.execute(
        "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)",
        (idempotency.owner, idempotency.key, idempotency.fingerprint, job_id, now),
    )
