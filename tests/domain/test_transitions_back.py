"""Each rule alone, as a pure function: back to the queue, checkpoints, lost workers, cancelling, sending again."""

from dataclasses import replace
from typing import Any

import pytest
from tests.domain.jobs import ARCHIVE, BEGIN, DONE, END, NOW, POLICY, accepted, after, kinds, lost

from overnight.domain.errors import (
    CancelRequested,
    ErrorCode,
    JobNotFound,
    LineFull,
    NotRetryable,
    Refused,
    StaleAttempt,
)
from overnight.domain.job import (
    ArchiveRef,
    Change,
    Job,
    Origin,
    Ring,
    Session,
    Snapshot,
    Status,
    Usage,
    WaitingFor,
)
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import (
    MAX_LINE,
    cancel,
    checkpoint,
    finish,
    requeue,
    resend,
    returns_at,
    start,
)


@pytest.mark.parametrize(
    ("outcome", "waiting_for", "kind", "counted"),
    [
        (Outcome(ending=Ending.INTERRUPTED), None, "job.handed_back", (0, 0)),
        (failed(ErrorCode.OVERLOADED, "busy"), WaitingFor.RETRY, "job.retry_scheduled", (1, 0)),
        (failed(ErrorCode.RATE_LIMITED, "wait"), WaitingFor.RATE_LIMIT, "job.rate_limited", (0, 1)),
        (
            failed(ErrorCode.DAILY_BUDGET_EXCEEDED, "broke"),
            WaitingFor.BUDGET,
            "job.over_daily_budget",
            (0, 1),
        ),
    ],
)
def test_a_job_that_goes_back_says_why_and_counts_what_is_its_own(
    outcome: Outcome, waiting_for: WaitingFor | None, kind: str, counted: tuple[int, int]
) -> None:
    change = after(accepted(), BEGIN, requeue(outcome, attempt=1, now=NOW + 1, at=NOW + 30))
    assert (change.job.status, change.job.lease) == (Status.QUEUED, None)
    assert (change.job.available_at, change.job.waiting_for) == (NOW + 30, waiting_for)
    assert (change.job.failures, change.job.parks) == counted
    assert kinds(change) == [kind]
    assert change.session.line == ("j",)
    assert change.rings == (Ring(job_id="j", at=NOW + 30),)


def test_a_job_that_is_to_be_cancelled_does_not_go_back() -> None:
    change = after(accepted(), BEGIN, cancel(now=NOW, delivery_id="m"))
    with pytest.raises(CancelRequested):
        requeue(Outcome(ending=Ending.INTERRUPTED), attempt=1, now=NOW, at=NOW)(change.job, change.session)
    assert (
        returns_at(change.job, failed(ErrorCode.API_ERROR, "no"), policy=POLICY, now=NOW, chance=0.5) is None
    )


def test_when_a_job_returns() -> None:
    job = after(accepted(), BEGIN).job

    def returns(outcome: Outcome) -> float | None:
        return returns_at(job, outcome, policy=POLICY, now=NOW, chance=0.5)

    assert returns(Outcome(ending=Ending.INTERRUPTED)) == NOW
    assert returns(failed(ErrorCode.OVERLOADED, "busy")) == NOW + 10
    assert returns(failed(ErrorCode.TIMEOUT, "too long")) is None
    assert returns(DONE) is None
    assert returns(Outcome(ending=Ending.CANCELLED)) is None


PART = ArchiveRef(name="claude-code/s/j.1.c1.zip", size=7, sha256="cd" * 32, origin=Origin.RUN)


def test_a_checkpoint_is_what_the_next_attempt_goes_on_from_until_the_job_is_over() -> None:
    change = after(accepted(), BEGIN, checkpoint(PART, attempt=1, now=NOW + 2))
    assert kinds(change) == ["checkpoint.saved"]
    back = after(change, lost(1))
    found = Snapshot(job=back.job, session=back.session).checkpoint
    assert found is not None
    assert (found.archive, found.attempt, back.session.archive) == (PART, 1, None)
    assert after(change, END).job.checkpoint is None


def test_a_stale_attempt_makes_no_checkpoint() -> None:
    change = after(accepted(), BEGIN, lost(1), start(worker="v", now=NOW, lease_seconds=9.0, isolation="x"))
    for attempt in (1, 3):
        with pytest.raises(StaleAttempt):
            checkpoint(PART, attempt=attempt, now=NOW)(change.job, change.session)
    with pytest.raises(StaleAttempt):
        checkpoint(PART, attempt=1, now=NOW)(*_pair(after(accepted(), BEGIN, END)))


def test_a_dead_letter_that_was_not_saved_keeps_its_checkpoint_for_a_resend() -> None:
    change = after(accepted(), BEGIN, checkpoint(PART, attempt=1, now=NOW), lost(1))
    for attempt in (2, 3):
        change = after(replace(change, job=replace(change.job, available_at=NOW)), BEGIN, lost(attempt))
    assert change.job.status is Status.FAILED
    again = after(change, resend(now=NOW))
    assert Snapshot(job=again.job, session=again.session).checkpoint == again.job.checkpoint is not None


def test_a_checkpoint_from_before_another_job_of_the_session_is_void() -> None:
    change = after(accepted(), BEGIN, checkpoint(PART, attempt=1, now=NOW), lost(1))
    assert Snapshot(job=change.job, session=replace(change.session, archive=ARCHIVE)).checkpoint is None


def _pair(change: Change) -> tuple[Job, Session]:
    return change.job, change.session


def test_a_lease_must_end_before_the_job_is_taken_unless_the_worker_is_dead() -> None:
    change = after(accepted(), BEGIN)
    assert lost(1, now=NOW + 14.9, dead=False)(change.job, change.session) is None
    for decide in (lost(1, now=NOW + 15, dead=False), lost(1)):
        taken = after(change, decide)
        assert (taken.job.status, taken.job.losses, taken.job.failures) == (Status.QUEUED, 1, 0)
        assert kinds(taken) == ["job.worker_lost"]


def test_a_job_that_takes_its_workers_down_ends() -> None:
    change = accepted()
    for attempt in (1, 2):
        change = after(change, BEGIN, lost(attempt))
        change = replace(change, job=replace(change.job, available_at=NOW))
    end = after(change, BEGIN, lost(3))
    assert end.job.status is Status.FAILED
    assert end.job.error is not None
    assert end.job.error.code is ErrorCode.WORKER_LOST
    assert end.job.charged_attempt == 0, "what they cost is still to be charged if the job is sent again"
    assert len(end.deliveries) == 1


def test_a_job_that_was_to_be_cancelled_is_so_when_its_worker_dies() -> None:
    end = after(accepted(), BEGIN, cancel(now=NOW, delivery_id="m"), lost(1))
    assert (end.job.status, end.job.error) == (Status.CANCELLED, None)


def test_a_waiting_job_is_cancelled_at_once() -> None:
    first = accepted()
    second = accepted(first.session, job_id="k")
    change = after(replace(second, job=first.job), cancel(now=NOW, delivery_id="msg_1"))
    assert change.job.status is Status.CANCELLED
    assert kinds(change) == ["job.cancel_requested", "job.cancelled"]
    assert [event.seq for event in change.events] == [2, 3]
    assert (change.session.line, change.rings) == (("k",), (Ring(job_id="k", at=NOW),))
    assert len(change.deliveries) == 1


def test_a_running_job_is_asked_to_stop() -> None:
    change = after(accepted(), BEGIN, cancel(now=NOW, delivery_id="m"))
    assert (change.job.status, change.job.cancel_requested_at) == (Status.PROCESSING, NOW)
    assert cancel(now=NOW + 1, delivery_id="m")(change.job, change.session) is None
    end = after(
        change,
        finish(Outcome(ending=Ending.CANCELLED), attempt=1, now=NOW, archive=ARCHIVE, delivery_id="m"),
    )
    assert end.job.status is Status.CANCELLED
    assert end.session.archive == ARCHIVE


def test_a_run_that_was_done_before_it_heard_of_the_cancel_is_completed() -> None:
    assert after(accepted(), BEGIN, cancel(now=NOW, delivery_id="m"), END).job.status is Status.COMPLETED


def test_a_final_job_is_not_cancelled() -> None:
    change = after(accepted(), BEGIN, END)
    assert cancel(now=NOW, delivery_id="m")(change.job, change.session) is None


def test_a_dead_letter_is_sent_again_with_its_limits_reset() -> None:
    outcome = failed(ErrorCode.TIMEOUT, "too long")
    change = after(accepted(), BEGIN, finish(outcome, attempt=1, now=NOW, archive=None, delivery_id="m"))
    change = after(change, resend(now=NOW + 9))
    assert (change.job.status, change.job.attempt, change.job.error) == (Status.QUEUED, 1, None)
    assert (change.job.failures, change.job.losses, change.job.parks) == (0, 0, 0)
    assert change.session.line == ("j",)
    assert resend(now=NOW)(change.job, change.session) is None
    assert after(change, start(worker="v", now=NOW + 9, lease_seconds=1.0, isolation="none")).job.attempt == 2


def test_a_dead_letter_that_is_sent_again_after_weeks_still_waits_for_a_rate_limit() -> None:
    outcome, later = failed(ErrorCode.TIMEOUT, "too long"), NOW + 30 * 86400.0
    change = after(accepted(), BEGIN, finish(outcome, attempt=1, now=NOW, archive=None, delivery_id="m"))
    job, limited = after(change, resend(now=later)).job, failed(ErrorCode.RATE_LIMITED, "wait")
    assert returns_at(job, limited, policy=POLICY, now=later, chance=0.5) is not None
    too_late = later + POLICY.rate_limit_patience
    assert returns_at(job, limited, policy=POLICY, now=too_late, chance=0.5) is None


@pytest.mark.parametrize(
    ("state", "refusal"),
    [({"erased_at": NOW}, JobNotFound), ({"line": tuple(map(str, range(MAX_LINE)))}, LineFull)],
)
def test_a_dead_letter_is_not_sent_again_into_a_session_that_goes_or_is_full(
    state: Any, refusal: type[Refused]
) -> None:
    outcome = failed(ErrorCode.TIMEOUT, "too long")
    change = after(accepted(), BEGIN, finish(outcome, attempt=1, now=NOW, archive=None, delivery_id="m"))
    with pytest.raises(refusal):
        resend(now=NOW)(change.job, replace(change.session, **state))


def test_only_a_failed_job_is_sent_again() -> None:
    for change in (after(accepted(), BEGIN, END), after(accepted(), cancel(now=NOW, delivery_id="m"))):
        with pytest.raises(NotRetryable):
            resend(now=NOW)(change.job, change.session)


def test_a_job_and_its_session_cost_what_their_attempts_did() -> None:
    spent = replace(failed(ErrorCode.OVERLOADED, ""), cost_usd=0.25, usage=Usage(output_tokens=2))
    change = accepted(replace(accepted().session, line=(), cost_usd=1.0))
    for number in (1, 2):
        change = after(change, BEGIN, requeue(spent, attempt=number, now=NOW, at=NOW))
    assert (change.job.cost_usd, change.session.cost_usd, change.job.usage.output_tokens) == (0.5, 1.5, 4)
    change = after(change, BEGIN, lost(attempt=3))
    assert (change.job.cost_usd, change.job.charged_attempt) == (0.5, 2), (
        "what died before it told is not in it"
    )


def test_a_snapshot_says_why_a_job_waits() -> None:
    first = accepted()
    session = accepted(first.session, job_id="k").session
    second = Snapshot(job=replace(first.job, job_id="k"), session=session)
    assert (second.waiting_for, second.queue_position) == (WaitingFor.SESSION, 1)
    head = Snapshot(job=replace(first.job, waiting_for=WaitingFor.RETRY), session=session)
    assert (head.waiting_for, head.queue_position) == (WaitingFor.RETRY, 0)
    running = Snapshot(job=after(first, BEGIN).job, session=session)
    assert (running.waiting_for, running.queue_position) == (None, None)
