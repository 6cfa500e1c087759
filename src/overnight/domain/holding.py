"""Holding a job back that a limit of its owner keeps from running, and letting it try again.

What the limit is, `domain/standing.py` says; a store calls its check in the same transaction.
"""

from dataclasses import replace

from overnight.domain.job import Change, Job, Ring, Session, Status, WaitingFor
from overnight.domain.transitions import Decide


def hold(*, waiting_for: WaitingFor, at: float) -> Decide:
    """Leave the job in its place until `at`, and say what it waits for. Nothing to write unless it is queued."""

    def decide(job: Job, session: Session) -> Change | None:
        if job.status is not Status.QUEUED:
            return None
        job = replace(job, waiting_for=waiting_for, available_at=at)
        return Change(job=job, session=session, rings=(Ring(job_id=job.job_id, at=at),))

    return decide


def release(*, now: float) -> Decide:
    """Let a job try again that waits for another one of its owner to end. Idempotent."""

    def decide(job: Job, session: Session) -> Change | None:
        if job.status is not Status.QUEUED or job.waiting_for is not WaitingFor.OWNER_LIMIT:
            return None
        job = replace(job, available_at=min(job.available_at, now))
        return Change(job=job, session=session, rings=(Ring(job_id=job.job_id, at=now),))

    return decide
