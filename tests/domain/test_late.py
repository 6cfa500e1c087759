"""The pointer moves after the final status in one case only."""

from dataclasses import replace
from typing import Any

import pytest

from overnight.domain.job import ArchiveRef, Job, Origin, Session, Status
from overnight.domain.late import saved_late

JOB = Job(
    job_id="j",
    session_id="s",
    status=Status.COMPLETED,
    created_at=0.0,
    available_at=0.0,
    attempt=2,
    last_event=4,
)
SESSION = Session(session_id="s", created_at=0.0, updated_at=0.0)
ARCHIVE = ArchiveRef(name="claude-code/s/j.2.zip", size=1, sha256="ab" * 32, origin=Origin.RUN)
LATE = saved_late(ARCHIVE, attempt=2, base=None, now=9.0, told=[("workspace.saved", {"size": 1})])


def test_job_and_session_point_at_it_and_an_event_says_so() -> None:
    change = LATE(JOB, SESSION)
    assert change is not None
    assert (change.job.archive, change.session.archive, change.session.updated_at) == (
        ARCHIVE.name,
        ARCHIVE,
        9.0,
    )
    [event] = change.events
    assert (event.seq, event.type, event.data) == (5, "workspace.saved", {"size": 1, "late": True})
    assert (change.deliveries, change.rings) == ((), ()), "the webhook was owed with the status"


@pytest.mark.parametrize(
    ("job", "session"),
    [
        ({"status": Status.PROCESSING}, {}),
        ({"attempt": 3}, {}),
        ({"archive": "claude-code/s/j.2.zip"}, {}),
        ({}, {"line": ("k",)}),
        ({}, {"archive": replace(ARCHIVE, name="claude-code/s/k.1.zip")}),
        ({}, {"erased_at": 5.0}),
    ],
)
def test_nothing_is_written_over_what_came_later(job: dict[str, Any], session: dict[str, Any]) -> None:
    assert LATE(replace(JOB, **job), replace(SESSION, **session)) is None
