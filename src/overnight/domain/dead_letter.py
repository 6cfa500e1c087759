"""The end of a job that no worker takes: its bell was received again and again, and never dealt with."""

from overnight.domain.ending import end
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Change, Job, Session, Status
from overnight.domain.outcome import failed
from overnight.domain.transitions import Decide


def give_up(*, rung_for: float, now: float, delivery_id: str) -> Decide:
    """Fail a job that the queue has given up on.

    `rung_for` is the time that the lost bell was to ring at. Nothing to write if the job did not depend on that bell:
    it runs or is finished, it waits for a job before it, or it became ready after that time, and so has a newer one.
    """

    def decide(job: Job, session: Session) -> Change | None:
        if job.status is not Status.QUEUED or session.line[:1] != (job.job_id,):
            return None
        if job.available_at > min(now, rung_for):
            return None
        lost = failed(ErrorCode.UNDELIVERED, _UNDELIVERED)
        return end(job, session, lost, now=now, archive=None, delivery_id=delivery_id)

    return decide


_UNDELIVERED = (
    "No worker could take the job: its message was received as often as the queue allows, and each time the worker "
    "died or could not reach the ledger. The session is as it was before the job. Look at the workers' logs, then "
    "send the job again."
)
