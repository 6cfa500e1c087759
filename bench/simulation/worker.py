"""A worker, as `worker/loop.py` and `flows/run_job.py` are: when it pulls, writes and rings, and no more of it."""

from dataclasses import dataclass, replace
from random import Random

from bench.simulation.agenda import Agenda, Process
from bench.simulation.cloud_queue import CloudQueue, Message
from bench.simulation.ledger import Ledger
from bench.simulation.plan import Faults, Fleet, Rules

from overnight.domain.errors import (
    CancelRequested,
    ErrorCode,
    NotRunnable,
    Refused,
    SessionBusy,
    StaleAttempt,
    TooEarly,
)
from overnight.domain.job import ArchiveRef, Change, Job, Origin
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import Decide, returns_at

LATENCY_SECONDS = 0.05
SAVE_SECONDS = 2.0
RESTART_SECONDS = 30.0
CLOCK_ERROR_SECONDS = 1.0
WAIT_SECONDS = 20.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
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
        """There is no long poll: an idle worker asks ever more seldom, and anew after each wait of the loop."""
        while True:
            ends = self._world.agenda.now + WAIT_SECONDS
            pause = FIRST_PAUSE_SECONDS
            while True:
                message = self._world.queue.pull()
                if message is not None:
                    return message
                left = ends - self._world.agenda.now
                if left <= 0:
                    break
                yield min(pause, left)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _answer(self, message: Message) -> Process[None]:
        change = yield from self._claim(message)
        if change is None:
            return
        self._world.queue.ack(message)
        try:
            yield from self._attempt(change.job)
        except Refused:
            self._world.tally["stale attempts"] += 1
        except Unreachable:
            self._world.tally["outcomes not written"] += 1

    def _claim(self, message: Message) -> Process[Change | None]:
        decide = self._world.rules.start(
            worker=self._name,
            now=self._now(),
            lease_seconds=self._world.fleet.lease_seconds,
            isolation="simulated",
        )
        try:
            return (yield from self._write(message.job_id, decide))
        except TooEarly as early:
            self._world.queue.retry(message, at=early.available_at)
        except (NotRunnable, SessionBusy):
            self._world.queue.ack(message)
        except Unreachable:
            self._world.tally["claims not answered"] += 1
        return None

    def _attempt(self, job: Job) -> Process[None]:
        if job.attempt == 1:
            self._world.waits.append(self._world.agenda.now - job.created_at)
        self._world.tally["attempts"] += 1
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
            saved = rules.checkpoint(self._archive(job, ".checkpoint"), attempt=job.attempt, now=now)
            yield from self._write(job.job_id, saved, by=job.attempt)
        decide = rules.renew(attempt=job.attempt, now=now, lease_seconds=self._world.fleet.lease_seconds)
        return (yield from self._write(job.job_id, decide, by=job.attempt)).job

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
        decide = self._world.rules.finish(
            outcome,
            attempt=job.attempt,
            now=self._now(),
            archive=self._archive(job),
            delivery_id=f"msg-{job.job_id}.{job.attempt}",
        )
        self._world.ring((yield from self._written(job, decide)))

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
        change = self._world.ledger.change(job_id, decide, by=by)
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
        name = f"{job.job_id}.{job.attempt}{kind}"
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
