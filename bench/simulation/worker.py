"""A worker, as `worker/loop.py` and `flows/run_job.py` are: when it pulls, writes and rings, and no more of it."""

from dataclasses import dataclass, replace
from random import Random

from bench.simulation.agenda import Agenda, Process
from bench.simulation.archives import Archives
from bench.simulation.cloud_queue import CloudQueue, Message
from bench.simulation.ledger import Ledger
from bench.simulation.owners import Tallies
from bench.simulation.plan import Faults, Fleet, Rules

from overnight.adapters.cloudflare.owners import YOUNG_SECONDS
from overnight.adapters.cloudflare.polling import Pace
from overnight.domain.errors import (
    CancelRequested,
    ErrorCode,
    NotRunnable,
    OwnerBusy,
    Refused,
    RoomToRun,
    SessionBusy,
    StaleAttempt,
    TooEarly,
)
from overnight.domain.job import ArchiveRef, Change, Job, Origin, WaitingFor
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.standing import Check, spread, still_no_room
from overnight.domain.transitions import Decide, returns_at

LATENCY_SECONDS = 0.05
SAVE_SECONDS = 2.0
RESTART_SECONDS = 30.0
CLOCK_ERROR_SECONDS = 1.0
WAIT_SECONDS = 20.0
SAVE_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
CHECKPOINTS = 0.1
"""The share of renewals with which a checkpoint is stored."""
RATE_LIMIT_SECONDS = 600.0


class Died(Exception):
    pass


class Unreachable(Exception):
    """The request or its answer was lost: whether it was written is unknown."""


@dataclass(slots=True)
class World:
    """What all workers share. `busy` counts those that hold a bell or run a job, `waits` how long jobs waited."""

    agenda: Agenda
    chance: Random
    fleet: Fleet
    faults: Faults
    rules: Rules
    queue: CloudQueue
    ledger: Ledger
    owners: Tallies
    archives: Archives
    waits: list[float]
    tally: dict[str, int]
    busy: int = 0

    def ring(self, change: Change) -> None:
        for bell in change.rings:
            self.queue.send(bell.job_id, at=bell.at)


class Worker:
    def __init__(self, name: str, world: World) -> None:
        self._name = name
        self._world = world
        self._chance = world.chance
        self._clock_error = self._chance.gauss(0.0, CLOCK_ERROR_SECONDS)
        self._pace = Pace()
        self._checkpoints = 0

    def live(self) -> Process[None]:
        yield self._chance.uniform(0.0, WAIT_SECONDS)
        while True:
            message = yield from self._receive()
            self._world.busy += 1
            try:
                yield from self._answer(message)
            except Died:
                self._world.tally["deaths"] += 1
                self._world.busy -= 1
                yield RESTART_SECONDS
            else:
                self._world.busy -= 1

    def _receive(self) -> Process[Message]:
        """There is no long poll: an idle worker asks ever more seldom."""
        while True:
            yield self._pace.left(self._world.agenda.now)
            message = self._world.queue.pull()
            self._pace.looked(self._world.agenda.now, found=message is not None)
            if message is not None:
                return message

    def _answer(self, message: Message) -> Process[None]:
        change = yield from self._claim(message)
        if change is None:
            return
        self._world.queue.ack(message)
        try:
            yield from self._attempt(change)
        except Refused:
            self._world.tally["stale attempts"] += 1
            self._retract(change.job)
        except Unreachable:
            self._world.tally["outcomes not written"] += 1

    def _claim(self, message: Message) -> Process[Change | None]:
        now = self._now()
        decide = self._world.rules.start(
            worker=self._name,
            now=now,
            lease_seconds=self._world.fleet.lease_seconds,
            isolation="simulated",
        )
        try:
            return (yield from self._let_in(message.job_id, decide, self._world.rules.room_to_run(now=now)))
        except TooEarly as early:
            self._world.queue.retry(message, at=early.available_at)
        except OwnerBusy as busy:
            yield from self._hold(message, spread(busy.wait_seconds, chance=self._chance.random()))
        except (NotRunnable, SessionBusy):
            self._world.queue.ack(message)
        except Unreachable:
            self._world.tally["claims not answered"] += 1
        return None

    def _hold(self, message: Message, seconds: float) -> Process[None]:
        """The job waits for another one of its owner to end."""
        self._world.tally["jobs held for their owner"] += 1
        now = self._now()
        decide = self._world.rules.hold(waiting_for=WaitingFor.OWNER_LIMIT, at=now + seconds)
        try:
            held = yield from self._let_in(message.job_id, decide, still_no_room(now=now))
        except RoomToRun:
            self._world.queue.retry(message, at=now)
            return
        except (Refused, Unreachable):
            return  # the message comes again
        self._world.ring(held)
        self._world.queue.ack(message)

    def _let_in(self, job_id: str, decide: Decide, check: Check) -> Process[Change]:
        """A change for which room is made in the owner's tally first (`adapters/cloudflare/ledger.py`)."""
        yield from self._step(LATENCY_SECONDS)
        before = self._world.ledger.snapshot(job_id)
        change = decide(before.job, before.session)
        if change is None:
            return Change(job=before.job, session=before.session)
        self._world.owners.reserve(change.job, check)
        since = self._world.agenda.now
        yield from self._step(LATENCY_SECONDS)
        overdue = self._world.agenda.now - since >= YOUNG_SECONDS
        if self._chance.random() < self._world.faults.lost_request:
            raise Unreachable
        change = self._world.ledger.change(job_id, decide, overdue=overdue)
        if overdue:
            self._world.owners.follow(before.job, change.job)
        yield from self._step(LATENCY_SECONDS)
        if self._chance.random() < self._world.faults.lost_answer:
            raise Unreachable
        return change

    def _attempt(self, claimed: Change) -> Process[None]:
        job = claimed.job
        if job.attempt == 1:
            self._world.waits.append(self._world.agenda.now - job.created_at)
        self._world.tally["attempts"] += 1
        self._checkpoints = 0
        yield from self._step(LATENCY_SECONDS)
        self._world.archives.restore(job, claimed.session)
        outcome = self._outcome()
        if (yield from self._was_cancelled(job)):
            outcome = Outcome(ending=Ending.CANCELLED)
        if not (yield from self._went_back(job, outcome)):
            yield from self._finish(job, outcome)

    def _was_cancelled(self, job: Job) -> Process[bool]:
        """The run, for as long as it lasts: its lease is renewed three times in the lease's length."""
        lease = self._world.fleet.lease_seconds
        ends = self._world.agenda.now + self._chance.expovariate(1.0 / self._world.fleet.run_seconds)
        until = self._now() + lease
        while self._world.agenda.now < ends:
            yield from self._step(min(lease / 3, ends - self._world.agenda.now))
            try:
                renewed = yield from self._renew(job)
            except Unreachable:
                if self._now() >= until:
                    raise StaleAttempt("the lease could not be renewed") from None
                continue
            until = self._now() + lease
            if renewed.cancel_requested_at is not None:
                return True
        return False

    def _renew(self, job: Job) -> Process[Job]:
        rules, now = self._world.rules, self._now()
        if self._chance.random() < CHECKPOINTS:
            yield from self._checkpoint(job)
        decide = rules.renew(attempt=job.attempt, now=now, lease_seconds=self._world.fleet.lease_seconds)
        return (yield from self._write(job.job_id, decide, by=job.attempt)).job

    def _checkpoint(self, job: Job) -> Process[None]:
        """Stored, pointed at, and the one before deleted; what nobody came to point at is left over."""
        self._checkpoints += 1
        archive = self._archive(job, f".c{self._checkpoints}")
        self._world.archives.put(job.session_id, archive.name)
        before = self._world.ledger.snapshot(job.job_id).job.checkpoint
        decide = self._world.rules.checkpoint(archive, attempt=job.attempt, now=self._now())
        try:
            yield from self._write(job.job_id, decide, by=job.attempt)
        except Refused:
            self._world.archives.delete(job.session_id, archive.name)
            raise
        if before is not None:
            self._world.archives.delete(job.session_id, before.archive.name)

    def _went_back(self, job: Job, outcome: Outcome) -> Process[bool]:
        yield from self._step(LATENCY_SECONDS)
        current = self._world.ledger.snapshot(job.job_id).job
        now = self._now()
        at = returns_at(
            current, outcome, policy=self._world.rules.policy, now=now, chance=self._chance.random()
        )
        if at is None:
            return False
        decide = self._world.rules.requeue(outcome, attempt=job.attempt, now=now, at=at)
        try:
            change = yield from self._write(job.job_id, decide, by=job.attempt)
        except CancelRequested:
            return False
        self._world.ring(change)
        return True

    def _finish(self, job: Job, outcome: Outcome) -> Process[None]:
        yield from self._step(SAVE_SECONDS)
        if outcome.ending is Ending.INTERRUPTED:  # It was to go back, but a cancel came in between.
            outcome = replace(outcome, ending=Ending.CANCELLED)
        archive = self._archive(job)
        self._world.archives.put(job.session_id, archive.name)
        decide = self._world.rules.finish(
            outcome,
            attempt=job.attempt,
            now=self._now(),
            archive=archive,
            delivery_id=f"msg-{job.job_id}.{job.attempt}",
        )
        self._world.ring((yield from self._written(job, decide)))
        yield from self._step(LATENCY_SECONDS)
        self._world.archives.drop_checkpoints(job)
        yield from self._tidy(job.session_id)

    def _tidy(self, session_id: str) -> Process[None]:
        """Delete what the session does not need, as it stood at the looks: others may run meanwhile."""
        archives = self._world.archives
        listed = archives.listing(session_id)
        yield from self._step(LATENCY_SECONDS)
        jobs = archives.jobs_of(listed)
        yield from self._step(LATENCY_SECONDS)
        current = self._world.ledger.session(session_id).archive_name
        for name in archives.superfluous(listed, jobs, current):
            yield from self._step(LATENCY_SECONDS)
            archives.delete(session_id, name)

    def _retract(self, job: Job) -> None:
        """What a stale attempt has stored goes, unless it was this attempt that ended the job."""
        name = self._archive(job).name
        if self._world.ledger.snapshot(job.job_id).job.archive != name:
            self._world.archives.delete(job.session_id, name)

    def _written(self, job: Job, decide: Decide) -> Process[Change]:
        for delay in SAVE_DELAYS:
            try:
                return (yield from self._write(job.job_id, decide, by=job.attempt))
            except Unreachable:
                yield from self._step(delay)
        return (yield from self._write(job.job_id, decide, by=job.attempt))

    def _write(self, job_id: str, decide: Decide, *, by: int | None = None) -> Process[Change]:
        """What a worker has decided reaches the ledger later, perhaps much later, perhaps never."""
        yield from self._step(LATENCY_SECONDS)
        if self._chance.random() < self._world.faults.lost_request:
            raise Unreachable
        before = self._world.ledger.snapshot(job_id).job
        change = self._world.ledger.change(job_id, decide, by=by)
        if change.job.status is not before.status:
            self._world.owners.follow(before, change.job)
        yield from self._step(LATENCY_SECONDS)
        if self._chance.random() < self._world.faults.lost_answer:
            raise Unreachable
        return change

    def _step(self, seconds: float) -> Process[None]:
        yield seconds
        if self._chance.random() < self._world.faults.death:
            raise Died
        if self._chance.random() < self._world.faults.freeze:
            self._world.tally["freezes"] += 1
            yield self._chance.expovariate(1.0 / (4 * self._world.fleet.lease_seconds))

    def _now(self) -> float:
        """By the worker's own clock."""
        return self._world.agenda.now + self._clock_error

    def _archive(self, job: Job, kind: str = "") -> ArchiveRef:
        name = f"{job.job_id}.{job.attempt}{kind}.zip"
        return ArchiveRef(name=name, size=1, sha256="0" * 64, origin=Origin.RUN)

    def _outcome(self) -> Outcome:
        faults, drawn = self._world.faults, self._chance.random()
        for share, outcome in (
            (faults.transient, failed(ErrorCode.OVERLOADED, "overloaded")),
            (faults.permanent, failed(ErrorCode.MAX_TURNS, "too many turns")),
            (faults.rate_limited, self._rate_limited()),
            (faults.handed_back, Outcome(ending=Ending.INTERRUPTED)),
        ):
            if drawn < share:
                return outcome
            drawn -= share
        return Outcome(ending=Ending.DONE, result="done")

    def _rate_limited(self) -> Outcome:
        resume_at = self._world.agenda.now + RATE_LIMIT_SECONDS
        return replace(failed(ErrorCode.RATE_LIMITED, "rate limit"), resume_at=resume_at)
