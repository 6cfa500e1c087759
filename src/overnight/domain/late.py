"""A job that is over, whose archive can be stored only now."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from overnight.domain.ending import tell
from overnight.domain.job import ArchiveRef, Change, Job, Session
from overnight.domain.transitions import Decide


def still_to_save(job: Job, session: Session, *, attempt: int, base: str | None) -> bool:
    """Whether what the attempt made of the session's archive `base` may become its next one.

    Not while a job of the session is open, which goes on from what there is, nor once another archive has come.
    """
    over = job.status.final and job.attempt == attempt and job.archive is None
    return over and not session.line and session.archive_name == base and session.erased_at is None


def saved_late(
    archive: ArchiveRef,
    *,
    attempt: int,
    base: str | None,
    now: float,
    told: Sequence[tuple[str, Mapping[str, Any]]],
) -> Decide:
    """Point the job and its session at the archive; nothing is written if that may not be any more.

    `told`: the types and data of the events that say so.
    """

    def decide(job: Job, session: Session) -> Change | None:
        if not still_to_save(job, session, attempt=attempt, base=base):
            return None
        job = replace(job, archive=archive.name, checkpoint=None)
        events = []
        for kind, data in told:
            job, event = tell(job, kind, now, {**data, "late": True})
            events.append(event)
        session = replace(session, archive=archive, updated_at=now)
        return Change(job=job, session=session, events=tuple(events))

    return decide
