"""A job on its way, for tests of single rules."""

from overnight.domain.job import (
    ArchiveRef,
    Change,
    JobRequest,
    Origin,
    Session,
)
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import (
    Decide,
    finish,
    lapse,
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


def lost(attempt: int, *, now: float = NOW, dead: bool = True) -> Decide:
    return lapse(
        attempt=attempt, now=now, policy=POLICY, chance=0.5, delivery_id="msg_l", worker_is_dead=dead
    )
