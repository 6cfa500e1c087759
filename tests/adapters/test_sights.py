"""What an object tells the mirror of statuses about."""

from dataclasses import replace

import pytest

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch
from overnight.adapters.cloudflare.sights import moved_jobs
from overnight.domain.job import Event, Job, Status

JOB = Job(job_id="j", session_id="s", status=Status.PROCESSING, created_at=0.0, available_at=0.0)


def written(job: Job, kind: str) -> Batch:
    event = Event(seq=7, type=kind, time=0.0, attempt=1, data={})
    return Batch(
        expect={},
        put={codec.JOBS + "j": codec.encode(job), codec.event_key("j", 7): codec.encode(event)},
    )


@pytest.mark.parametrize(
    ("status", "kind", "moved"),
    [
        (Status.PROCESSING, "job.started", ["j"]),
        (Status.PROCESSING, "agent.text", []),
        (Status.COMPLETED, "job.completed", ["j"]),
        (Status.COMPLETED, "workspace.saved", ["j"]),  # an archive that could be stored only after the end
    ],
)
def test_a_status_is_mirrored_when_it_changes_and_when_more_is_known_after_the_end(
    status: Status, kind: str, moved: list[str]
) -> None:
    assert moved_jobs(written(replace(JOB, status=status), kind)) == moved
