"""The port `Owners` in SQLite."""

from collections.abc import Sequence
from itertools import islice

import apsw

from overnight.adapters.sqlite import rows
from overnight.adapters.sqlite.database import Database
from overnight.domain.job import WaitingFor
from overnight.ports import Books

_SPENT = "SELECT usd FROM spending WHERE owner = ? AND day = ?"
# The conditions that say nothing new are what lets SQLite use the partial index (see `index.py`).
_OF_OWNER = """
SELECT body FROM jobs WHERE owner = ? AND owner <> '' AND status = ? AND status <> 'completed' ORDER BY job_id
"""


class SqliteOwners:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def books(self, owner: str, *, day: int) -> Books:
        return await self._database.read(lambda connection: _books(connection, owner, day))

    async def held(self, owner: str, *, limit: int) -> Sequence[str]:
        return await self._database.read(lambda connection: _held(connection, owner, limit))


def _books(connection: apsw.Connection, owner: str, day: int) -> Books:
    spent = connection.execute(_SPENT, (owner, day)).get
    jobs = [rows.read_job(body) for (body,) in connection.execute(_OF_OWNER, (owner, "processing"))]
    return Books(spent_usd=spent or 0.0, running=frozenset((job.job_id, job.attempt) for job in jobs))


def _held(connection: apsw.Connection, owner: str, limit: int) -> list[str]:
    """Each end of a job asks, and thousands may wait: no more of them are read than are let in."""
    jobs = (rows.read_job(body) for (body,) in connection.execute(_OF_OWNER, (owner, "queued")))
    held = (job.job_id for job in jobs if job.waiting_for is WaitingFor.OWNER_LIMIT)
    return list(islice(held, limit))
