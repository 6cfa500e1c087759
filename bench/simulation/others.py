"""The rest of the world: callers, and the alarm of each session that the edge sets (`edge/src/tending.py`)."""

from bench.simulation.agenda import Process
from bench.simulation.worker import World

from overnight.domain.errors import LineFull, Refused
from overnight.domain.job import Change, Job, JobRequest, Status

CANCEL_SECONDS = 40.0
RESEND_SECONDS = 60.0
LONGEST_RING_PAUSE_SECONDS = 3600.0
RECENT = 500
"""Sessions that a follow-up may go to."""


class Callers:
    """`pending` counts what they still mean to do."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._recent: list[str] = []
        self.pending = 1

    def send(self) -> Process[None]:
        fleet = self._world.fleet
        for number in range(fleet.jobs):
            yield self._chance.expovariate(fleet.load * fleet.workers / fleet.run_seconds)
            try:
                self._submit(f"j{number}")
            except LineFull:
                self._world.tally["refused: line full"] += 1
        self.pending -= 1

    def _submit(self, job_id: str) -> None:
        known = bool(self._recent) and self._chance.random() < self._world.fleet.follow_up
        session_id = self._chance.choice(self._recent) if known else f"s{job_id}"
        calls_back = self._chance.random() < self._world.fleet.calls_back
        request = JobRequest(prompt="p", callback_url="https://example.com/" if calls_back else None)
        admit = self._world.rules.submit(
            request, job_id=job_id, session_id=session_id, continues=known, now=self._world.agenda.now
        )
        self._world.ring(self._world.ledger.create(session_id, admit))
        if not known:
            self._remember(session_id)
        if self._chance.random() < self._world.faults.cancel:
            self._world.agenda.start(self._cancel(job_id))

    def _remember(self, session_id: str) -> None:
        if len(self._recent) < RECENT:
            self._recent.append(session_id)
        else:
            self._recent[self._chance.randrange(RECENT)] = session_id

    def _cancel(self, job_id: str) -> Process[None]:
        self.pending += 1
        yield self._chance.expovariate(1.0 / CANCEL_SECONDS)
        decide = self._world.rules.cancel(now=self._world.agenda.now, delivery_id=f"msg-{job_id}.c")
        self._world.ring(self._world.ledger.change(job_id, decide))
        self.pending -= 1

    def hear(self, job: Job) -> None:
        """Of a job's end."""
        if job.status is Status.FAILED and self._chance.random() < self._world.faults.resend:
            self.pending += 1
            self._world.agenda.start(self._resend(job.job_id))

    def _resend(self, job_id: str) -> Process[None]:
        yield self._chance.expovariate(1.0 / RESEND_SECONDS)
        self._world.tally["resends"] += 1
        decide = self._world.rules.resend(now=self._world.agenda.now)
        self._world.ring(self._world.ledger.change(job_id, decide, resent=True))
        self.pending -= 1


class Alarms:
    """One for each session with open jobs. A lease that was not renewed between two looks is lost."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._set: set[str] = set()

    def after(self, change: Change) -> None:
        session = change.session
        if session.line and session.session_id not in self._set:
            self._set.add(session.session_id)
            self._world.agenda.start(self._tend(session.session_id))

    def _tend(self, session_id: str) -> Process[None]:
        look = _Look(self._world)
        while True:
            yield self._world.fleet.tend_seconds
            for _ in range(1 + (self._world.chance.random() < self._world.faults.double_alarm)):
                self._world.tally["alarms"] += 1
                look.at(session_id)
            if not self._world.ledger.session(session_id).line:
                self._set.remove(session_id)
                return


class _Look:
    """What one look at a session leaves for the next."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lease: tuple[str, int, float] | None = None
        self._rung_for: str | None = None
        self._rings = 0
        self._ring_at = 0.0

    def at(self, session_id: str) -> None:
        line = self._world.ledger.session(session_id).line
        if not line:
            return
        job = self._world.ledger.snapshot(line[0]).job
        lease = None if job.lease is None else (job.job_id, job.attempt, job.lease.until)
        if lease is not None and lease == self._lease:
            self._take_back(job)
            lease = None
        self._lease = lease
        if job.status is Status.QUEUED and job.available_at <= self._world.agenda.now:
            self._ring(job.job_id)

    def _take_back(self, job: Job) -> None:
        decide = self._world.rules.lapse(
            attempt=job.attempt,
            now=self._world.agenda.now,
            policy=self._world.rules.policy,
            chance=self._world.chance.random(),
            delivery_id=f"msg-{job.job_id}.{job.attempt}.l",
            worker_is_dead=True,
        )
        try:
            change = self._world.ledger.change(job.job_id, decide)
        except Refused:
            return
        self._world.tally["jobs taken back"] += 1
        self._world.ring(change)

    def _ring(self, job_id: str) -> None:
        """For a job that waits and whose bell may be lost: ever more seldom, as it may only wait for a worker."""
        now = self._world.agenda.now
        rings = self._rings if job_id == self._rung_for else 0
        if rings and now < self._ring_at:
            return
        self._world.tally["bells rung again"] += 1
        self._world.queue.send(job_id, at=now)
        pause = min(self._world.fleet.tend_seconds * 2.0 ** min(rings + 1, 16), LONGEST_RING_PAUSE_SECONDS)
        self._rung_for, self._rings, self._ring_at = job_id, rings + 1, now + pause
