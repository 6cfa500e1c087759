from dataclasses import replace

import pytest

from overnight.domain.holding import hold, release
from overnight.domain.job import Job, Ring, Session, Status, WaitingFor

SESSION = Session(session_id="s", created_at=1.0, updated_at=1.0, line=("j",))
JOB = Job(job_id="j", session_id="s", status=Status.QUEUED, created_at=1.0, available_at=1.0)
HELD = replace(JOB, waiting_for=WaitingFor.OWNER_LIMIT, available_at=40.0)


def test_a_job_that_is_held_waits_in_its_place_and_rings_later() -> None:
    change = hold(waiting_for=WaitingFor.OWNER_LIMIT, at=40.0)(JOB, SESSION)
    assert change is not None
    assert change.job == HELD
    assert (change.session, change.rings) == (SESSION, (Ring(job_id="j", at=40.0),))


def test_a_job_that_is_let_in_is_due_now_but_not_later_than_before() -> None:
    for now, due in ((10.0, 10.0), (50.0, 40.0)):
        change = release(now=now)(HELD, SESSION)
        assert change is not None
        assert change.job.available_at == due
        assert change.rings == (Ring(job_id="j", at=now),)


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.QUEUED}))
def test_only_a_waiting_job_is_held_or_let_in(status: Status) -> None:
    assert hold(waiting_for=WaitingFor.BUDGET, at=2.0)(replace(JOB, status=status), SESSION) is None
    assert release(now=2.0)(replace(HELD, status=status), SESSION) is None


@pytest.mark.parametrize("waiting_for", [None, *sorted(set(WaitingFor) - {WaitingFor.OWNER_LIMIT})])
def test_a_job_that_waits_for_something_else_is_not_let_in(waiting_for: WaitingFor | None) -> None:
    assert release(now=2.0)(replace(HELD, waiting_for=waiting_for), SESSION) is None
