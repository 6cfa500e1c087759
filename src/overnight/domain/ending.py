"""What all ends of a job have in common: it is charged for, told of, and leaves its session's line."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from overnight.domain.delivery import owe
from overnight.domain.errors import JobError
from overnight.domain.job import ArchiveRef, Change, Delivery, Event, Job, Ring, Session, Status
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.retry import FAILURES, Failure


def tell(job: Job, kind: str, now: float, told: Mapping[str, Any]) -> tuple[Job, Event]:
    event = Event(seq=job.last_event + 1, type=kind, time=now, attempt=job.attempt, data=told)
    return replace(job, last_event=event.seq), event


def charge(job: Job, session: Session, outcome: Outcome) -> tuple[Job, Session]:
    """Add what an attempt used. It is written with what ends the attempt, so no attempt is charged twice."""
    job = replace(
        job,
        usage=job.usage + outcome.usage,
        cost_usd=round(job.cost_usd + outcome.cost_usd, 9),
        charged_attempt=job.attempt,
        num_turns=job.num_turns + outcome.num_turns,
    )
    return job, replace(session, cost_usd=round(session.cost_usd + outcome.cost_usd, 9))


_FINAL = {
    Ending.DONE: Status.COMPLETED,
    Ending.FAILED: Status.FAILED,
    Ending.CANCELLED: Status.CANCELLED,
}


def end(
    job: Job,
    session: Session,
    outcome: Outcome,
    *,
    now: float,
    archive: ArchiveRef | None,
    delivery_id: str,
) -> Change:
    job, session = charge(job, session, outcome)
    status = _FINAL[outcome.ending]
    error = None
    if outcome.code is not None:
        retryable = FAILURES[outcome.code] is not Failure.PERMANENT
        error = JobError(code=outcome.code, message=outcome.message or "", retryable=retryable)
    job = replace(
        job,
        status=status,
        lease=None,
        waiting_for=None,
        completed_at=now,
        result=outcome.result,
        structured_output=outcome.structured_output,
        error=error,
        archive=archive.name if archive else None,
        checkpoint=job.checkpoint if status is Status.FAILED and archive is None else None,
    )
    job, event = tell(
        job, f"job.{status}", now, {"code": error.code, "message": error.message} if error else {}
    )
    line = tuple(waiting for waiting in session.line if waiting != job.job_id)
    session = replace(session, line=line, updated_at=now, archive=archive or session.archive)
    deliveries: tuple[Delivery, ...] = (
        (owe(job, delivery_id=delivery_id, now=now),) if job.callback_url else ()
    )
    rings = tuple(Ring(job_id=first, at=now) for first in line[:1])
    return Change(job=job, session=session, events=(event,), deliveries=deliveries, rings=rings)
