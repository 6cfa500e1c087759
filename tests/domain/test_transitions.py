"""Each rule alone, as a pure function, from the acceptance to the end of a run.

The ways back and out are in test_transitions_back.py; what all make together is in test_state_machine.py.
"""

from dataclasses import replace

import pytest
from tests.domain.jobs import ARCHIVE, BEGIN, END, NOW, POLICY, REQUEST, accepted, after, kinds

from overnight.domain.errors import (
    ErrorCode,
    LineFull,
    NotRunnable,
    SessionBusy,
    SessionNotFound,
    StaleAttempt,
    TooEarly,
)
from overnight.domain.job import (
    Ring,
    Status,
)
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import (
    MAX_LINE,
    Decide,
    Note,
    finish,
    lapse,
    record,
    renew,
    requeue,
    start,
    submit,
)


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
