"""Every change that a job can go through, as pure functions.

Each function here returns a `Decide`: given the job and its session as they are now, it returns the `Change`
to write, None if there is nothing to write, or raises a `Refused`. The store runs it inside one atomic
read-modify-write, so SQLite and a compare-and-swap over HTTP cannot disagree about a rule.

    queued ──start──▶ processing ──finish──▶ completed | failed | cancelled
      ▲                   │
      └── requeue, lapse ─┘        cancel: from anywhere      resend: failed ──▶ queued

What all ends have in common is in `ending.py`; how a job ends that no worker takes, in `dead_letter.py`; the one
change after an end, of an archive that could be stored only then, in `late.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from overnight.domain.ending import charge, end, tell
from overnight.domain.errors import (
    CancelRequested,
    ErrorCode,
    JobNotFound,
    LineFull,
    NotRetryable,
    NotRunnable,
    SessionBusy,
    SessionNotFound,
    StaleAttempt,
    TooEarly,
)
from overnight.domain.job import (
    ArchiveRef,
    Change,
    Checkpoint,
    Job,
    JobRequest,
    Lease,
    Ring,
    Session,
    Status,
    WaitingFor,
)
from overnight.domain.keys import LOCAL, Caller
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.retry import FAILURES, Failure, RetryPolicy, retry_at

Decide = Callable[[Job, Session], Change | None]
Admit = Callable[[Session | None], Change]

MAX_LINE = 1000
"""Open jobs that one session may have: its line is read and written whole with every change."""


def submit(
    request: JobRequest,
    *,
    job_id: str,
    session_id: str,
    continues: bool,
    now: float,
    caller: Caller = LOCAL,
) -> Admit:
    """Accept a job. `continues` says that the caller named the session, so it must be there already.

    The job belongs to whom its session belongs to, also if an administrator sends it.
    """

    def admit(session: Session | None) -> Change:
        if continues and (session is None or session.erased_at is not None):
            raise SessionNotFound("no such session")
        if session is not None and not caller.sees(session.owner):
            raise SessionNotFound("no such session")
        session = session or Session(
            session_id=session_id, created_at=now, updated_at=now, owner=caller.owner
        )
        line = _joined(session, job_id)
        job = Job(
            job_id=job_id,
            session_id=session_id,
            status=Status.QUEUED,
            created_at=now,
            available_at=now,
            callback_url=request.callback_url,
            metadata=request.metadata,
            owner=session.owner,
            key_id=caller.key_id,
            max_running=caller.limits.max_running,
            daily_budget_usd=caller.limits.daily_budget_usd,
            models=caller.limits.models,
        )
        job, event = tell(job, "job.queued", now, {"position": len(session.line)})
        session = replace(session, line=line, jobs=session.jobs + 1, updated_at=now)
        return Change(job=job, session=session, events=(event,), rings=(Ring(job_id=job_id, at=now),))

    return admit


def seen_by(caller: Caller, decide: Decide) -> Decide:
    """The same change, for a caller to whom the jobs of others do not exist."""

    def checked(job: Job, session: Session) -> Change | None:
        if not caller.sees(job.owner):
            raise JobNotFound("no such job")
        return decide(job, session)

    return checked


def start(
    *,
    worker: str,
    now: float,
    lease_seconds: float,
    isolation: str,
    properties: Mapping[str, bool] | None = None,
) -> Decide:
    """Give the job to a worker: a new attempt with a lease. Only the first of its session's line may start."""

    measured = dict(properties or {})
    told = {"worker": worker, "isolation": isolation, "isolation_properties": measured}

    def decide(job: Job, session: Session) -> Change:
        if job.status is not Status.QUEUED:
            raise NotRunnable("the job is not waiting to run")
        if session.line[:1] != (job.job_id,):
            raise SessionBusy("an earlier job of the session is still open")
        if job.available_at > now:
            raise TooEarly(job.available_at)
        job = replace(
            job,
            status=Status.PROCESSING,
            attempt=job.attempt + 1,
            started_at=now if job.started_at is None else job.started_at,
            waiting_for=None,
            lease=Lease(worker=worker, until=now + lease_seconds),
            isolation=isolation,
            isolation_properties=measured,
        )
        job, event = tell(job, "job.started", now, told)
        return Change(job=job, session=session, events=(event,))

    return decide


def renew(*, attempt: int, now: float, lease_seconds: float) -> Decide:
    def decide(job: Job, session: Session) -> Change:
        lease = _held(job, attempt)
        return Change(job=replace(job, lease=replace(lease, until=now + lease_seconds)), session=session)

    return decide


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened in a run, before it has a number."""

    type: str
    time: float
    data: Mapping[str, Any]


def record(notes: Iterable[Note], *, attempt: int) -> Decide:
    """Number the notes of a run and add them to the job's events."""

    def decide(job: Job, session: Session) -> Change | None:
        _held(job, attempt)
        events = []
        for note in notes:
            job, event = tell(job, note.type, note.time, note.data)
            events.append(event)
        return Change(job=job, session=session, events=tuple(events)) if events else None

    return decide


def checkpoint(archive: ArchiveRef, *, attempt: int, now: float) -> Decide:
    """Point the job at what its next attempt goes on from, wherever that runs."""

    def decide(job: Job, session: Session) -> Change:
        _held(job, attempt)
        saved = Checkpoint(archive=archive, attempt=attempt, base=session.archive_name)
        told = {"archive": archive.name, "size": archive.size}
        job, event = tell(replace(job, checkpoint=saved), "checkpoint.saved", now, told)
        return Change(job=job, session=session, events=(event,))

    return decide


def returns_at(job: Job, outcome: Outcome, *, policy: RetryPolicy, now: float, chance: float) -> float | None:
    """When a job goes back to the queue after this outcome; None if the outcome is its last."""
    if outcome.ending is Ending.INTERRUPTED:
        return now
    if outcome.ending is not Ending.FAILED or outcome.code is None or job.cancel_requested_at is not None:
        return None
    return retry_at(outcome.code, job, policy=policy, now=now, chance=chance, resume_at=outcome.resume_at)


def requeue(outcome: Outcome, *, attempt: int, now: float, at: float) -> Decide:
    """Put the job back, to go on at `at`. What it cost so far is kept; why it waits is said."""

    def decide(job: Job, session: Session) -> Change:
        _held(job, attempt)
        if job.cancel_requested_at is not None:
            raise CancelRequested("the job is to be cancelled, not run again")
        job, session = charge(job, session, outcome)
        parked = outcome.code is not None and FAILURES[outcome.code] is Failure.LATER
        interrupted = outcome.ending is Ending.INTERRUPTED
        kind, waiting_for = _why_back(outcome)
        job = replace(
            job,
            status=Status.QUEUED,
            lease=None,
            available_at=at,
            waiting_for=waiting_for,
            failures=job.failures + (not interrupted and not parked),
            parks=job.parks + parked,
        )
        told = {"available_at": at} | (
            {"code": outcome.code, "message": outcome.message} if outcome.code else {}
        )
        job, event = tell(job, kind, now, told)
        return Change(job=job, session=session, events=(event,), rings=(Ring(job_id=job.job_id, at=at),))

    return decide


def _why_back(outcome: Outcome) -> tuple[str, WaitingFor | None]:
    """The event that tells of it, and what the job then waits for."""
    if outcome.ending is Ending.INTERRUPTED:
        return "job.handed_back", None
    if outcome.code is ErrorCode.DAILY_BUDGET_EXCEEDED:
        return "job.over_daily_budget", WaitingFor.BUDGET
    if outcome.code is ErrorCode.RATE_LIMITED:
        return "job.rate_limited", WaitingFor.RATE_LIMIT
    return "job.retry_scheduled", WaitingFor.RETRY


def finish(
    outcome: Outcome, *, attempt: int, now: float, archive: ArchiveRef | None, delivery_id: str
) -> Decide:
    """Give the job its final status, move the session's pointer, owe the webhook: one transaction."""

    def decide(job: Job, session: Session) -> Change:
        _held(job, attempt)
        job, session = charge(job, session, outcome)
        return end(job, session, outcome, now=now, archive=archive, delivery_id=delivery_id)

    return decide


def lapse(
    *, attempt: int, now: float, policy: RetryPolicy, chance: float, delivery_id: str, worker_is_dead: bool
) -> Decide:
    """Take the job from a worker that died or froze, and queue it again at once or after a delay.

    `worker_is_dead`: it is known that the worker is gone, so the end of the lease need not be awaited.
    """

    def decide(job: Job, session: Session) -> Change | None:
        lease = _held(job, attempt)
        if lease.until > now and not worker_is_dead:
            return None
        lost = Outcome(ending=Ending.FAILED, code=ErrorCode.WORKER_LOST, message=_LOST)
        if job.cancel_requested_at is not None:
            lost = Outcome(ending=Ending.CANCELLED)
        at = returns_at(job, lost, policy=policy, now=now, chance=chance)
        if at is None:
            return end(job, session, lost, now=now, archive=None, delivery_id=delivery_id)
        waits = WaitingFor.RETRY if at > now else None
        job = replace(
            job, status=Status.QUEUED, lease=None, available_at=at, losses=job.losses + 1, waiting_for=waits
        )
        job, event = tell(job, "job.worker_lost", now, {"available_at": at, "worker": lease.worker})
        return Change(job=job, session=session, events=(event,), rings=(Ring(job_id=job.job_id, at=at),))

    return decide


_LOST = (
    "The worker that ran the job died, as did those before it. The session is as it was before the job. "
    "Look at the worker's memory and logs, then send the job again."
)


def cancel(*, now: float, delivery_id: str) -> Decide:
    """End a waiting job at once; ask the worker of a running one to stop. Idempotent."""

    def decide(job: Job, session: Session) -> Change | None:
        if job.status.final or job.cancel_requested_at is not None:
            return None
        job, event = tell(replace(job, cancel_requested_at=now), "job.cancel_requested", now, {})
        if job.status is Status.PROCESSING:
            return Change(job=job, session=session, events=(event,))
        ended = end(
            job, session, Outcome(ending=Ending.CANCELLED), now=now, archive=None, delivery_id=delivery_id
        )
        return replace(ended, events=(event, *ended.events))

    return decide


def resend(*, now: float) -> Decide:
    """Send a dead letter again: it joins the end of its session's line with its limits reset. Idempotent.

    Not into a session that is being erased, which would take the job with it.
    """

    def decide(job: Job, session: Session) -> Change | None:
        if not job.status.final:
            return None
        if job.status is not Status.FAILED:
            raise NotRetryable("only a failed job can be sent again")
        if session.erased_at is not None:
            raise JobNotFound("no such job")
        line = _joined(session, job.job_id)
        job = replace(
            job,
            status=Status.QUEUED,
            available_at=now,
            completed_at=None,
            result=None,
            structured_output=None,
            error=None,
            failures=0,
            losses=0,
            parks=0,
            resent_at=now,
            cancel_requested_at=None,
        )
        job, event = tell(job, "job.resent", now, {"position": len(session.line)})
        session = replace(session, line=line, updated_at=now)
        return Change(job=job, session=session, events=(event,), rings=(Ring(job_id=job.job_id, at=now),))

    return decide


def _joined(session: Session, job_id: str) -> tuple[str, ...]:
    """The session's line with this job at its end."""
    if len(session.line) >= MAX_LINE:
        raise LineFull("the session has as many waiting jobs as it may have")
    return (*session.line, job_id)


def _held(job: Job, attempt: int) -> Lease:
    """The fence: only the current attempt of a running job may write."""
    if job.status is not Status.PROCESSING or job.attempt != attempt or job.lease is None:
        raise StaleAttempt("the job has moved on: this attempt must stop and change nothing")
    return job.lease
