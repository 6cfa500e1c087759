"""What an object makes of what is written to it: whom its alarm looks after, and which jobs have moved."""

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch, Read
from overnight.adapters.cloudflare.looks import Sight, owed_of
from overnight.adapters.cloudflare.object_rows import ObjectRows
from overnight.domain.job import Delivery, Event, Job, Session

OWED = '"status":"owed"'
"""Stands in every delivery that is owed, and perhaps in others: it saves reading all that were ever made."""
TRANSITION = "job."


def concerns_alarm(batch: Batch) -> bool:
    return codec.SESSION in batch.expect or any(key.startswith(codec.DELIVERIES) for key in batch.put)


def sight_of_a_write(rows: ObjectRows, batch: Batch) -> Sight:
    """What a written batch has to do with the alarm: of the deliveries only its own."""
    owed = [batch.put[key] for key in batch.put if key.startswith(codec.DELIVERIES)]
    return _sight(rows, owed)


def sight_of_all(rows: ObjectRows) -> Sight:
    return _sight(rows, [document.body for document in rows.having(codec.DELIVERIES, OWED)])


def moved_jobs(batch: Batch) -> list[str]:
    """The jobs that went from one status to another, or of which something came to be known after their end."""
    told: dict[str, set[str]] = {}
    for key in batch.put:
        if key.startswith(codec.EVENTS):
            told.setdefault(key.split(":")[1], set()).add(codec.decode(Event, batch.put[key]).type)
    return sorted(
        job_id
        for job_id, kinds in told.items()
        if any(kind.startswith(TRANSITION) for kind in kinds) or _is_over(batch.put.get(codec.JOBS + job_id))
    )


def _is_over(job: str | None) -> bool:
    return job is not None and codec.decode(Job, job).status.final


def _sight(rows: ObjectRows, deliveries: list[str]) -> Sight:
    owed = owed_of(codec.decode(Delivery, body) for body in deliveries)
    found = rows.read(Read(keys=[codec.SESSION]))
    line = codec.decode(Session, found[codec.SESSION].body).line if found else ()
    key = codec.JOBS + line[0] if line else ""
    job = rows.read(Read(keys=[key])).get(key) if line else None
    if job is None:
        return Sight(first=None, owed=owed)
    written_at = rows.written_at(key) or 0.0
    return Sight(first=codec.decode(Job, job.body), written_at=written_at, owed=owed)
