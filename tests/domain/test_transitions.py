"""Each rule alone, as a pure function. What they make together is in test_state_machine.py."""

from dataclasses import replace

import pytest

from overnight.domain.errors import (
    CancelRequested,
    ErrorCode,
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
    Job,
    JobRequest,
    Origin,
    Ring,
    Session,
    Snapshot,
    Status,
    Usage,
    WaitingFor,
)
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import (
    MAX_LINE,
    Decide,
    Note,
    cancel,
    checkpoint,
    finish,
    lapse,
    record,
    renew,
    requeue,
    resend,
    returns_at,
    start,
    submit,
)

NOW = 1_000.0
POLICY = RetryPolicy(delays=(10.0, 60.0), jitter=0.0, max_losses=2)
REQUEST = JobRequest(prompt="say hello", callback_url="https://example.com/hook", metadata={"a": "b"})
ARCHIVE = ArchiveRef(name="claude-code/s/j.1.zip", size=10, sha256="ab" * 32, origin=Origin.RUN)
DONE = Outcome(ending=Ending.DONE, result="hello", cost_usd=0.5, num_turns=1)
BEGIN = start(worker="w", now=NOW, lease_seconds=15.0, isolation="none")
END = finish(DONE, attempt=1, now=NOW + 5, archive=ARCHIVE, delivery_id="msg_1")


def accepted(session: Session | None = None, job_id: str = "j") -> Change:
    return submit(REQUEST, job_id=job_id, session_id="s", continues=session is not None, now=NOW)(session)


def after(change: Change, *decisions: Decide) -> Change:
    for decide in decisions:
        changed = decide(change.job, change.session)
        assert changed is not None
        change = changed
    return change


def kinds(change: Change) -> list[str]:
    return [event.type for event in change.events]


def test_a_job_joins_the_end_of_its_sessions_line() -> None:
    first = accepted()
    second = accepted(first.session, job_id="k")
    assert first.job.status is Status.QUEUED
    assert (first.job.callback_url, first.job.metadata) == (REQUEST.callback_url, REQUEST.metadata)
    assert second.session.line == ("j", "k")
    assert second.session.jobs == 2
    assert [event.data for event in (*first.events, *second.events)] == [{"position": 0}, {"position": 1}]
    assert second.rings == (Ring(job_id="k", at=NOW),)


def test_a_session_that_is_named_must_be_there() -> None:
    named = submit(REQUEST, job_id="j", session_id="s", continues=True, now=NOW)
    for session in (None, replace(accepted().session, erased_at=NOW)):
        with pytest.raises(SessionNotFound):
            named(session)


def test_a_line_has_a_longest_length() -> None:
    session = replace(accepted().session, line=tuple(str(n) for n in range(MAX_LINE)))
    with pytest.raises(LineFull):
        accepted(session, job_id="k")


def test_a_started_job_has_a_lease_and_a_new_attempt() -> None:
    change = after(accepted(), BEGIN)
    assert (change.job.status, change.job.attempt, change.job.started_at) == (Status.PROCESSING, 1, NOW)
    assert change.job.lease is not None
    assert (change.job.lease.worker, change.job.lease.until) == ("w", NOW + 15)
    assert kinds(change) == ["job.started"]
    assert change.events[0].attempt == 1


def test_a_job_carries_what_was_measured_of_the_tier_that_its_last_attempt_ran_in() -> None:
    strict = start(worker="w", now=NOW, lease_seconds=1.0, isolation="strict", properties={"files": True})
    loose = start(worker="v", now=NOW + 5, lease_seconds=1.0, isolation="loose", properties={"files": False})
    back = requeue(Outcome(ending=Ending.INTERRUPTED), attempt=1, now=NOW + 5, at=NOW + 5)
    assert accepted().job.isolation_properties == {}

    first, second = after(accepted(), strict), after(accepted(), strict, back, loose)

    assert (first.job.isolation, first.job.isolation_properties) == ("strict", {"files": True})
    assert (second.job.isolation, second.job.isolation_properties) == ("loose", {"files": False})
    assert second.events[0].data["isolation_properties"] == {"files": False}


def test_a_job_starts_only_first_in_line_in_its_time_and_when_it_waits() -> None:
    change = accepted()
    with pytest.raises(SessionBusy):
        BEGIN(change.job, replace(change.session, line=("earlier", "j")))
    with pytest.raises(TooEarly) as refusal:
        BEGIN(replace(change.job, available_at=NOW + 1), change.session)
    assert refusal.value.available_at == NOW + 1
    for decisions in ([BEGIN], [BEGIN, END]):
        done = after(change, *decisions)
        with pytest.raises(NotRunnable):
            BEGIN(done.job, done.session)


def test_a_lease_is_renewed_in_silence() -> None:
    change = after(accepted(), BEGIN, renew(attempt=1, now=NOW + 5, lease_seconds=15.0))
    assert change.job.lease is not None
    assert change.job.lease.until == NOW + 20
    assert change.events == ()


def test_notes_become_numbered_events_of_the_attempt() -> None:
    notes = [Note("text", NOW + n, {"n": n}) for n in range(3)]
    change = after(accepted(), BEGIN, record(notes, attempt=1))
    assert [(event.seq, event.attempt, event.data["n"]) for event in change.events] == [
        (3, 1, 0),
        (4, 1, 1),
        (5, 1, 2),
    ]
    assert change.job.last_event == 5
    assert record([], attempt=1)(change.job, change.session) is None


STALE: dict[str, Decide] = {
    "renew": renew(attempt=1, now=NOW, lease_seconds=15.0),
    "record": record([], attempt=1),
    "requeue": requeue(failed(ErrorCode.API_ERROR, "no"), attempt=1, now=NOW, at=NOW),
    "finish": END,
    "lapse": lapse(attempt=1, now=NOW, policy=POLICY, chance=0.5, delivery_id="m", worker_is_dead=True),
}


@pytest.mark.parametrize("name", STALE)
@pytest.mark.parametrize("then", ["not begun", "requeued", "begun again", "finished"])
def test_only_the_current_attempt_of_a_running_job_may_write(name: str, then: str) -> None:
    back = requeue(Outcome(ending=Ending.INTERRUPTED), attempt=1, now=NOW, at=NOW)
    story = {
        "not begun": [],
        "requeued": [BEGIN, back],
        "begun again": [BEGIN, back, BEGIN],
        "finished": [BEGIN, END],
    }
    change = after(accepted(), *story[then])
    with pytest.raises(StaleAttempt):
        STALE[name](change.job, change.session)


def test_a_finish_moves_everything_at_once() -> None:
    first = after(accepted(), BEGIN)
    second = accepted(first.session, job_id="k")
    change = after(replace(second, job=first.job), END)
    assert (change.job.status, change.job.result, change.job.completed_at) == (
        Status.COMPLETED,
        "hello",
        NOW + 5,
    )
    assert (change.job.lease, change.job.archive) == (None, ARCHIVE.name)
    assert (change.session.archive, change.session.line) == (ARCHIVE, ("k",))
    assert kinds(change) == ["job.completed"]
    assert [delivery.delivery_id for delivery in change.deliveries] == ["msg_1"]
    assert change.rings == (Ring(job_id="k", at=NOW + 5),)


def test_a_finish_without_an_archive_leaves_the_pointer() -> None:
    change = after(accepted(), BEGIN, END)
    again = after(accepted(change.session, job_id="k"), BEGIN)
    outcome = failed(ErrorCode.TIMEOUT, "too long")
    end = after(again, finish(outcome, attempt=1, now=NOW, archive=None, delivery_id="msg_2"))
    assert end.job.status is Status.FAILED
    assert end.job.error is not None
    assert (end.job.error.code, end.job.error.retryable) == (ErrorCode.TIMEOUT, False)
    assert (end.job.archive, end.session.archive) == (None, ARCHIVE)


def test_a_job_without_a_callback_owes_no_delivery() -> None:
    change = accepted()
    change = after(replace(change, job=replace(change.job, callback_url=None)), BEGIN, END)
    assert change.deliveries == ()


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


def lost(attempt: int, *, now: float = NOW, dead: bool = True) -> Decide:
    return lapse(
        attempt=attempt, now=now, policy=POLICY, chance=0.5, delivery_id="msg_l", worker_is_dead=dead
    )


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
