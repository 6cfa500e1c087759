"""Forgets finished jobs, in SQLite."""

from dataclasses import dataclass

import apsw

from overnight.adapters.sqlite import rows
from overnight.adapters.sqlite.database import Database
from overnight.domain.retention import may_be_forgotten
from overnight.ports import Wakeups

_OLDEST = """
SELECT
    body,
    job_id = (SELECT max(job_id) FROM jobs AS others WHERE others.session_id = jobs.session_id),
    EXISTS (SELECT 1 FROM deliveries WHERE deliveries.job_id = jobs.job_id AND owed_at IS NOT NULL)
FROM jobs WHERE job_id > ? ORDER BY job_id LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class _Looked:
    """`forgotten` are the jobs that were deleted, `last` is the last one looked at if there may be more."""

    forgotten: list[str]
    last: str | None


class SqliteHistory:
    """The port `JobHistory`."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups

    async def forget(self, *, finished_before: float, after: str | None, limit: int) -> str | None:
        looked = await self._database.write(
            lambda connection: _forget(connection, finished_before, after or "", limit),
            committed=self._announce,
        )
        return looked.last

    def _announce(self, looked: _Looked) -> None:
        self._wakeups.announce(*(f"job:{job_id}" for job_id in looked.forgotten))


def _forget(connection: apsw.Connection, finished_before: float, after: str, limit: int) -> _Looked:
    looked, forgotten = [], []
    for body, is_newest, owes in connection.execute(_OLDEST, (after, limit)):
        job = rows.read_job(body)
        looked.append(job)
        if may_be_forgotten(job, finished_before=finished_before, is_newest=bool(is_newest), owes=bool(owes)):
            forgotten.append(job.job_id)
    rows.delete_jobs(connection, forgotten)
    # Ids are ordered by the time of acceptance, and no job is over before that: younger ones need no look.
    ends = len(looked) < limit or looked[-1].created_at >= finished_before
    return _Looked(forgotten, None if ends else looked[-1].job_id)
