from dataclasses import replace

import pytest

from overnight.domain.dead_letter import give_up
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Job, Session, Status
from overnight.domain.transitions import resend

SESSION = Session(session_id="s", created_at=1.0, updated_at=1.0, line=("j", "k"))
JOB = Job(
    job_id="j",
    session_id="s",
    status=Status.QUEUED,
    created_at=1.0,
    available_at=10.0,
    callback_url="https://example.com/",
)
GIVE_UP = give_up(rung_for=10.0, now=900.0, delivery_id="msg_1")


def test_a_job_that_no_worker_took_has_failed_and_says_why() -> None:
    change = GIVE_UP(JOB, SESSION)
    assert change is not None
    assert change.job.status is Status.FAILED
    assert change.job.error is not None
    assert (change.job.error.code, change.job.error.retryable) == (ErrorCode.UNDELIVERED, True)
    assert "send the job again" in change.job.error.message
    assert [event.type for event in change.events] == ["job.failed"]
    assert [owed.delivery_id for owed in change.deliveries] == ["msg_1"]
    assert [ring.job_id for ring in change.rings] == ["k"]
    assert change.session.line == ("k",)


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.QUEUED}))
def test_a_job_that_runs_or_is_finished_needs_no_bell(status: Status) -> None:
    assert GIVE_UP(replace(JOB, status=status), SESSION) is None


def test_a_job_behind_another_is_rung_for_when_that_ends() -> None:
    assert GIVE_UP(JOB, replace(SESSION, line=("k", "j"))) is None


@pytest.mark.parametrize("available_at", [10.1, 900.1])
def test_a_job_that_became_ready_later_has_a_newer_bell(available_at: float) -> None:
    assert GIVE_UP(replace(JOB, available_at=available_at), SESSION) is None


def test_a_bell_from_the_future_does_not_end_a_job_that_waits() -> None:
    decide = give_up(rung_for=5000.0, now=900.0, delivery_id="msg_1")
    assert decide(replace(JOB, available_at=1000.0), SESSION) is None


def test_the_old_bells_of_a_job_that_was_sent_again_mean_nothing() -> None:
    lost = GIVE_UP(JOB, SESSION)
    assert lost is not None
    again = resend(now=1000.0)(lost.job, lost.session)
    assert again is not None
    assert give_up(rung_for=10.0, now=1001.0, delivery_id="msg_2")(again.job, SESSION) is None
