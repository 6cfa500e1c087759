"""How owners stand: counters, because counting rows would cost each request more the more there are (facts: queue 6).

Open jobs are counted by triggers of the schema, money is added here.
"""

import apsw

from overnight.domain.job import Change, Job
from overnight.domain.standing import Check, Standing, day_of

_STANDING = """
SELECT
    coalesce((SELECT queued FROM open_jobs WHERE owner = ?1), 0),
    coalesce((SELECT processing FROM open_jobs WHERE owner = ?1), 0),
    coalesce((SELECT usd FROM spending WHERE owner = ?1 AND day = ?2), 0.0),
    (SELECT coalesce(sum(queued), 0) FROM open_jobs)
"""
_SPEND = """
INSERT INTO spending (owner, day, usd) VALUES (?, ?, ?)
ON CONFLICT (owner, day) DO UPDATE SET usd = usd + excluded.usd
"""


def hold_to(check: Check | None, connection: apsw.Connection, change: Change, *, now: float) -> None:
    """Raises what the check raises."""
    if check is not None:
        check(change.job, _standing(connection, change.job.owner, now))


def charge(connection: apsw.Connection, before: Job, after: Job, *, now: float) -> None:
    """Add what a change of a job cost to its owner's day. Jobs without an owner have no budget."""
    cost = after.cost_usd - before.cost_usd
    if after.owner and cost:
        connection.execute("DELETE FROM spending WHERE owner = ? AND day < ?", (after.owner, day_of(now)))
        connection.execute(_SPEND, (after.owner, day_of(now), cost))


def _standing(connection: apsw.Connection, owner: str, now: float) -> Standing:
    queued, processing, spent, queued_by_all = connection.execute(_STANDING, (owner, day_of(now))).get
    return Standing(
        queued=queued,
        processing=processing,
        spent_today_usd=spent,
        queued_by_all=queued_by_all,
        held=queued,
    )
