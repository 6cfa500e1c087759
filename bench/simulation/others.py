"""The rest of the world: callers, and the alarm of each session that the edge sets (`adapters/cloudflare/looks.py`)."""

from math import inf

from bench.simulation.agenda import Process
from bench.simulation.worker import World

from overnight.adapters.cloudflare import looks
from overnight.adapters.cloudflare.looks import Sight
from overnight.domain.errors import LineFull, Refused
from overnight.domain.job import Change, Job, JobRequest, Status
from overnight.domain.keys import Caller, KeyLimits, Scope
from overnight.domain.transitions import Decide

CANCEL_SECONDS = 40.0
RESEND_SECONDS = 60.0
RECENT = 500
"""Sessions that a follow-up may go to."""


class Callers:
    """`pending` counts what they still mean to do."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._recent: list[tuple[str, str]] = []
        self._limits = KeyLimits(max_running=world.fleet.max_running)
        self.pending = 1

    def send(self) -> Process[None]:
        fleet = self._world.fleet
        for number in range(fleet.jobs):
            yield self._chance.expovariate(fleet.load * fleet.workers / fleet.run_seconds)
            try:
                self._submit(number)
            except LineFull:
                self._world.tally["refused: line full"] += 1
        self.pending -= 1

    def _submit(self, number: int) -> None:
        job_id = f"00000000-0000-7000-8000-{number:012x}"
        known = bool(self._recent) and self._chance.random() < self._world.fleet.follow_up
        new = f"s{number}", f"o{self._chance.randrange(self._world.fleet.owners)}"
        session_id, owner = self._chance.choice(self._recent) if known else new
        calls_back = self._chance.random() < self._world.fleet.calls_back
        request = JobRequest(prompt="p", callback_url="https://example.com/" if calls_back else None)
        admit = self._world.rules.submit(
            request,
            job_id=job_id,
            session_id=session_id,
            continues=known,
            now=self._world.agenda.now,
            caller=Caller(owner=owner, scopes=frozenset({Scope.SUBMIT}), key_id=owner, limits=self._limits),
        )
        change = self._world.ledger.create(session_id, admit)
        self._world.owners.follow(None, change.job)
        self._world.ring(change)
        if not known:
            self._remember(new)
        if self._chance.random() < self._world.faults.cancel:
            self._world.agenda.start(self._cancel(job_id))

    def _remember(self, session: tuple[str, str]) -> None:
        if len(self._recent) < RECENT:
            self._recent.append(session)
        else:
            self._recent[self._chance.randrange(RECENT)] = session

    def _cancel(self, job_id: str) -> Process[None]:
        self.pending += 1
        yield self._chance.expovariate(1.0 / CANCEL_SECONDS)
        decide = self._world.rules.cancel(now=self._world.agenda.now, delivery_id=f"msg-{job_id}.c")
        self._change(job_id, decide)
        self.pending -= 1

    def _change(self, job_id: str, decide: Decide, *, resent: bool = False) -> None:
        before = self._world.ledger.snapshot(job_id).job
        change = self._world.ledger.change(job_id, decide, resent=resent)
        self._world.owners.follow(before, change.job)
        self._world.ring(change)

    def hear(self, job: Job) -> None:
        """Of a job's end."""
        if job.status is Status.FAILED and self._chance.random() < self._world.faults.resend:
            self.pending += 1
            self._world.agenda.start(self._resend(job.job_id))

    def _resend(self, job_id: str) -> Process[None]:
        yield self._chance.expovariate(1.0 / RESEND_SECONDS)
        self._world.tally["resends"] += 1
        decide = self._world.rules.resend(now=self._world.agenda.now)
        self._change(job_id, decide, resent=True)
        self.pending -= 1


class Alarms:
    """One for each session with open jobs, by the edge's own rule of when to look and for what."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._set: dict[str, float] = {}

    def after(self, change: Change) -> None:
        """A write brings the alarm forward, if something is due earlier by it."""
        session_id, now = change.session.session_id, self._world.agenda.now
        seen = self._sight(session_id)
        at = looks.after_a_write(seen, now=now, tend_seconds=self._world.fleet.tend_seconds)
        if at is not None and at < self._set.get(session_id, inf):
            self._wait(session_id, at)

    def _wait(self, session_id: str, at: float) -> None:
        self._set[session_id] = at
        self._world.agenda.start(self._ring(session_id, at))

    def _ring(self, session_id: str, at: float) -> Process[None]:
        yield at - self._world.agenda.now
        if self._set.get(session_id) != at:
            return  # it was brought forward
        del self._set[session_id]
        for _ in range(1 + (self._world.chance.random() < self._world.faults.double_alarm)):
            self._world.tally["alarms"] += 1
            self._look(session_id)
        now, chance = self._world.agenda.now, self._world.chance.random()
        seen = self._sight(session_id)
        again = looks.after_a_look(seen, now=now, tend_seconds=self._world.fleet.tend_seconds, chance=chance)
        if again is not None and again < self._set.get(session_id, inf):
            self._wait(session_id, again)

    def _sight(self, session_id: str) -> Sight:
        line = self._world.ledger.session(session_id).line
        if not line:
            return Sight(first=None)
        job = self._world.ledger.snapshot(line[0]).job
        return Sight(first=job, written_at=self._world.ledger.written_at(job.job_id))

    def _look(self, session_id: str) -> None:
        seen, now = self._sight(session_id), self._world.agenda.now
        tend_seconds = self._world.fleet.tend_seconds
        lost = looks.is_lost(seen, now=now, tend_seconds=tend_seconds)
        running = seen.first is not None and seen.first.status is Status.PROCESSING
        if seen.first is not None and (lost or (running and self._world.fleet.by_lease)):
            self._take_back(seen.first)
        for job_id in looks.silent(seen, now=now):
            self._world.tally["bells rung again"] += 1
            self._world.queue.send(job_id, at=now)

    def _take_back(self, job: Job) -> None:
        decide = self._world.rules.lapse(
            attempt=job.attempt,
            now=self._world.agenda.now,
            policy=self._world.rules.policy,
            chance=self._world.chance.random(),
            delivery_id=f"msg-{job.job_id}.{job.attempt}.l",
            worker_is_dead=not self._world.fleet.by_lease,
        )
        try:
            change = self._world.ledger.change(job.job_id, decide)
        except Refused:
            return
        if change.job == job:
            return  # its lease is not over
        self._world.tally["jobs taken back"] += 1
        self._world.owners.follow(job, change.job)
        self._world.ring(change)
