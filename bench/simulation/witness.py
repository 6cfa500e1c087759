"""What must always hold, checked after every write against a story of its own (design, section 3).

The witness believes nothing that a rule says of itself. It keeps who was accepted in which order, which attempt is the
current one, and where each session points, and compares.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from overnight.domain.job import Change, Job, Snapshot, Status
from overnight.domain.retry import RetryPolicy


class Violation(AssertionError):
    """A promise was broken. `promise` is its name."""

    def __init__(self, promise: str, job_id: str, what: str) -> None:
        super().__init__(f"{promise}: job {job_id}: {what}")
        self.promise = promise


@dataclass(slots=True)
class Story:
    """Of one job: the attempt that runs (None: none does), how often it was accepted, and how often it
    failed and lost its worker since it was last accepted."""

    running: int | None = None
    attempts: int = 0
    accepted: int = 1
    failures: int = 0
    losses: int = 0
    final: Status | None = None
    events: int = 0
    checkpoint: str | None = None


@dataclass(slots=True)
class Witness:
    policy: RetryPolicy
    open: int = 0
    """Jobs that were accepted and have no final status."""
    statuses: dict[Status, int] = field(default_factory=lambda: defaultdict(int))
    _stories: dict[str, Story] = field(default_factory=dict)
    _lines: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _pointers: dict[str, str] = field(default_factory=dict)
    _running: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def accepted(self, change: Change) -> None:
        story = self._stories[change.job.job_id] = Story()
        self._join(change.job)
        self._check_numbers(story, change)
        self._check_session(story, change)

    def changed(
        self, before: Job, change: Change, *, by: int | None, resent: bool, overdue: bool = False
    ) -> None:
        job, story = change.job, self._stories[change.job.job_id]
        if by is not None and by != story.running:
            raise Violation("fence", job.job_id, f"attempt {by} wrote, but {story.running} runs")
        self._check_numbers(story, change)
        if story.final is not None:
            self._resent(story, change, resent=resent)
        elif job.status.final:
            self._ended(story, change, by=by)
        elif before.status is Status.QUEUED and job.status is Status.PROCESSING:
            self._started(story, change)
            self._check_owner(job, overdue=overdue)
        elif job.status is Status.QUEUED:
            story.running = None
            self._running[job.owner].discard(job.job_id)
        self._check_limits(story, job)
        self._check_session(story, change)
        self._note_checkpoint(story, change)

    def settle(self) -> None:
        """Once the world is quiet nothing is open. That no end came twice was seen at each write."""
        for job_id, story in self._stories.items():
            if story.final is None:
                raise Violation("end", job_id, "it never reached a final status")

    def stuck(self) -> Violation:
        """Named after the first open job: nothing has happened for longer than any wait lasts."""
        job_id = next(job_id for job_id, story in self._stories.items() if story.final is None)
        return Violation("end", job_id, f"nothing happens any more, and {self.open} jobs are open")

    def _join(self, job: Job) -> None:
        self._lines[job.session_id].append(job.job_id)
        self.open += 1

    def _resent(self, story: Story, change: Change, *, resent: bool) -> None:
        job = change.job
        if not resent or story.final is not Status.FAILED or job.status is not Status.QUEUED:
            raise Violation("one end", job.job_id, f"{story.final} became {job.status}")
        story.final = None
        story.accepted += 1
        story.failures = story.losses = 0
        self._join(job)

    def _started(self, story: Story, change: Change) -> None:
        job = change.job
        if story.running is not None or job.attempt != story.attempts + 1:
            raise Violation("fence", job.job_id, f"attempt {job.attempt} follows {story.attempts}")
        for other in self._lines[job.session_id]:
            if other == job.job_id:
                break
            ran = self._stories[other].running is not None
            raise Violation("one run" if ran else "order", job.job_id, f"it started before {other} had ended")
        if job.cancel_requested_at is not None:
            raise Violation("cancel", job.job_id, "it was started after it was cancelled")
        self._check_checkpoint(story, change)
        story.running = story.attempts = job.attempt

    def _ended(self, story: Story, change: Change, *, by: int | None) -> None:
        job = change.job
        self._check_debt(change)
        if by is None and job.status is Status.COMPLETED:
            raise Violation("one end", job.job_id, "it completed without a run")
        self._lines[job.session_id].remove(job.job_id)
        self._running[job.owner].discard(job.job_id)
        if job.archive is not None:
            self._pointers[job.session_id] = f"{job.job_id}.{story.running}.zip"
        story.running, story.final = None, job.status
        self.statuses[job.status] += 1
        self.open -= 1

    def _check_owner(self, job: Job, *, overdue: bool) -> None:
        """No more of an owner run than its key allows; one that was let in long before it wrote is not counted."""
        if overdue:
            return
        self._running[job.owner].add(job.job_id)
        if job.max_running is not None and len(self._running[job.owner]) > job.max_running:
            raise Violation("owner", job.job_id, f"more than {job.max_running} jobs of {job.owner} run")

    def _check_debt(self, change: Change) -> None:
        """The event and the owed delivery are written with the status, once each."""
        job = change.job
        owed = [delivery.job_id for delivery in change.deliveries]
        if owed != ([job.job_id] if job.callback_url else []):
            raise Violation("debt", job.job_id, f"{len(owed)} deliveries are owed for its end")
        if [event.type for event in change.events].count(f"job.{job.status}") != 1:
            raise Violation("debt", job.job_id, "its end has no event")

    def _check_numbers(self, story: Story, change: Change) -> None:
        for event in change.events:
            story.events += 1
            if event.seq != story.events:
                raise Violation("events", change.job.job_id, f"event {event.seq} follows {story.events - 1}")
            story.failures += event.type == "job.retry_scheduled"
            story.losses += event.type == "job.worker_lost"
        job = change.job
        if (job.lease is not None) != (job.status is Status.PROCESSING):
            raise Violation("lease", job.job_id, f"{job.status} with lease {job.lease}")

    def _check_limits(self, story: Story, job: Job) -> None:
        """Retries are counted, or a job that fails for ever would run for ever."""
        counted = job.failures, job.losses
        if counted != (story.failures, story.losses):
            raise Violation(
                "limits", job.job_id, f"{counted} for {story.failures} failures, {story.losses} losses"
            )
        if job.failures > len(self.policy.delays) or job.losses > self.policy.max_losses:
            raise Violation("limits", job.job_id, f"{job.failures} failures, {job.losses} losses")

    def _check_session(self, story: Story, change: Change) -> None:
        session, job_id = change.session, change.job.job_id
        if list(session.line) != self._lines[session.session_id]:
            raise Violation("order", job_id, "the session's line is not the order of acceptance")
        if session.archive_name != self._pointers.get(session.session_id):
            raise Violation("pointer", job_id, f"it moved to {session.archive_name} without a final status")
        if change.deliveries and story.final is None:
            raise Violation("debt", job_id, "a delivery is owed before the end")

    def _note_checkpoint(self, story: Story, change: Change) -> None:
        if any(event.type == "checkpoint.saved" for event in change.events):
            saved = change.job.checkpoint
            story.checkpoint = saved.archive.name if saved else None
            if not (story.checkpoint or "").startswith(f"{change.job.job_id}.{story.running}.c"):
                raise Violation("checkpoint", change.job.job_id, f"{story.checkpoint} is not of its attempt")
        elif change.job.status.final and change.job.status is not Status.FAILED:
            story.checkpoint = None

    def _check_checkpoint(self, story: Story, change: Change) -> None:
        """A retry goes on from the newest checkpoint. Its session has not moved: it was first in line meanwhile."""
        found = Snapshot(job=change.job, session=change.session).checkpoint
        name = None if found is None else found.archive.name
        if name != story.checkpoint and story.accepted == 1:
            raise Violation("checkpoint", change.job.job_id, f"{name} instead of {story.checkpoint}")
