"""The life of one attempt: claim, restore, run, save, finish.

If the worker dies after
- claiming or running: the job is `processing` under a lease that lapses. The sweep queues it again, and the
  next attempt goes on in the workspace that was left, or elsewhere from the last checkpoint;
- storing the archive: the same, and an archive under this attempt's name, which nothing points at;
- finishing: the notifier of any process sends the delivery, and the sweep deletes the workspace. Its last
  checkpoint is left to retention.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from overnight.domain.errors import (
    BudgetExhausted,
    CancelRequested,
    ErrorCode,
    JobNotFound,
    NotRunnable,
    OwnerBusy,
    Refused,
    RoomToRun,
    SessionBusy,
    TooEarly,
)
from overnight.domain.holding import hold
from overnight.domain.job import Change, Job, JobRequest, WaitingFor
from overnight.domain.outcome import Outcome, failed
from overnight.domain.prompts import AS_BEFORE, AS_LEFT, AS_STORED, continuation
from overnight.domain.redaction import Redactor
from overnight.domain.retry import RetryPolicy
from overnight.domain.standing import room_to_run, spread, still_no_room
from overnight.domain.transitions import requeue, returns_at, start
from overnight.flows.attempt import Attempt
from overnight.flows.bells import ring
from overnight.flows.checkpoint import Checkpoints
from overnight.flows.event_log import GATHER_SECONDS, EventLog
from overnight.flows.finishing import Finisher
from overnight.flows.judging import judged
from overnight.flows.lease import Holder, RunStop, StopReason
from overnight.flows.limits import LetIn, nobody
from overnight.flows.patience import SAVE_DELAYS, patiently
from overnight.flows.preparing import Prepared, Source
from overnight.flows.restoring import WorkspaceUnavailable
from overnight.flows.retention import Retention
from overnight.flows.telling import told_ready
from overnight.flows.workspace import Workspaces
from overnight.ports import (
    Agent,
    Bell,
    Clock,
    Entropy,
    JobStore,
    Queue,
    RunOrder,
    Slot,
    StorageError,
)

log = logging.getLogger(__name__)

TROUBLE_SECONDS, LONGEST_TROUBLE_SECONDS = 30.0, 3600.0
"""Between two tries to claim a job from a store that fails."""


def trouble_pause(rung: int) -> float:
    """Seconds until a bell that has rung so often is tried again, after a failure of the store: twice as long each
    time, because a queue counts the tries and an outage should outlast them."""
    return min(TROUBLE_SECONDS * 2.0 ** min(rung - 1, 16), LONGEST_TROUBLE_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """What a worker needs to run jobs. `worker` is its name in leases; `let_in` is told of each owner of whom a
    job runs no longer, for those that its limit held back."""

    worker: str
    store: JobStore
    queue: Queue
    agent: Agent
    workspaces: Workspaces
    holder: Holder
    clock: Clock
    entropy: Entropy
    policy: RetryPolicy
    redactor: Redactor
    finisher: Finisher
    retention: Retention
    lease_seconds: float
    checkpoint_seconds: float = 0.0
    gather_seconds: float = GATHER_SECONDS
    save_delays: tuple[float, ...] = SAVE_DELAYS
    archives_are_shared: bool = False
    """Workers on other machines have the same archive store: what goes back to the queue may go on there."""
    let_in: LetIn = nobody

    async def run(self, bell: Bell, *, leaving: asyncio.Event) -> None:
        """Run the job that a bell rang for, if it may run now, to a final status or back to the queue.

        When `leaving` is set the run is interrupted and the job handed back. An attempt that turns out to be
        stale ends without having changed anything.
        """
        claimed = await self._claim(bell)
        if claimed is None:
            return
        job = claimed.job
        try:
            with self.workspaces.busy():
                await self._attempt(claimed, leaving)
        except* Refused:
            log.warning("attempt %d of job %s is stale: it changed nothing", job.attempt, job.job_id)
        await self.let_in(job.owner)

    async def _claim(self, bell: Bell) -> Change | None:
        """Start the attempt. Once it has a lease, the lease and not the bell is what brings the job back."""
        try:
            claimed = await self._started(bell)
        except StorageError:
            await self.queue.retry(bell, at=self.clock.now() + trouble_pause(bell.rung))
            raise
        if claimed is not None:
            try:
                await self.queue.ack(bell)
            except StorageError:  # It rings again, and finds the job taken.
                log.exception("could not acknowledge the bell of job %s", bell.job_id)
        return claimed

    async def _started(self, bell: Bell) -> Change | None:
        """None, and the bell is answered, if the job may not start now. Raises StorageError."""
        now = self.clock.now()
        decide = start(
            worker=self.worker,
            now=now,
            lease_seconds=self.lease_seconds,
            isolation=self.agent.isolation,
            properties=self.agent.isolation_properties,
        )
        try:
            return await self.store.change(bell.job_id, decide, check=room_to_run(now=now))
        except TooEarly as early:
            await self._ring_anew(bell, at=early.available_at)
        except OwnerBusy as busy:
            wait = spread(busy.wait_seconds, chance=self.entropy.chance())
            await self._hold(bell, WaitingFor.OWNER_LIMIT, at=now + wait)
        except BudgetExhausted as spent:
            await self._hold(bell, WaitingFor.BUDGET, at=now + spent.wait_seconds)
        except (NotRunnable, SessionBusy, JobNotFound):
            # Whoever holds the session's line rings for the next when it finishes.
            await self.queue.ack(bell)
        return None

    async def _hold(self, bell: Bell, waiting_for: WaitingFor, *, at: float) -> None:
        """Let the job wait for its owner's limit, and say so; or look again, if that has changed meanwhile."""
        now = self.clock.now()
        try:
            held = await self.store.change(
                bell.job_id, hold(waiting_for=waiting_for, at=at), check=still_no_room(now=now)
            )
        except RoomToRun:
            await self._ring_anew(bell, at=now)
            return
        await ring(self.queue, held.rings)
        await self.queue.ack(bell)

    async def _ring_anew(self, bell: Bell, *, at: float) -> None:
        """Waiting is no failure, so it is not `retry`: a queue gives up on a bell that was tried too often."""
        await self.queue.send(bell.job_id, at=at)
        await self.queue.ack(bell)

    async def _attempt(self, claimed: Change, leaving: asyncio.Event) -> None:
        job = claimed.job
        async with self.holder.hold(job, leaving=leaving) as stop:
            attempt = self._begun(claimed, stop)
            async with attempt.events.flowing():
                outcome, worth_saving = await self._outcome(attempt)
            outcome = self.redactor.outcome(outcome)
            if stop.reason is StopReason.LOST:
                return
            if await self._went_back(attempt, outcome, worth_saving=worth_saving):
                return
            saved = await self.finisher.end(attempt, outcome, worth_saving=worth_saving)
        if saved is not None:  # Else the sweep knows what somebody may yet go on from.
            await self.workspaces.discard(self.workspaces.until(job), saved=True)
            await attempt.checkpoints.drop()
        await self.retention.tidy(job.session_id)

    def _begun(self, claimed: Change, stop: RunStop) -> Attempt:
        job, session = claimed.job, claimed.session
        events = EventLog(self.store, self.clock, job, self.redactor, self.gather_seconds)
        checkpoints = Checkpoints(
            store=self.store,
            workspaces=self.workspaces,
            clock=self.clock,
            job=job,
            session=session,
            events=events,
            seconds=self.checkpoint_seconds,
        )
        return Attempt(
            job=job,
            session=session,
            stop=stop,
            events=events,
            checkpoints=checkpoints,
            delays=self.save_delays,
        )

    async def _outcome(self, attempt: Attempt) -> tuple[Outcome, bool]:
        """How the attempt ended, and whether its workspace holds anything to save."""
        try:
            prefer = await self.workspaces.kept_for(attempt.session)
            async with self.agent.slot(prefer=prefer) as slot:
                return await self._in_slot(slot, attempt), True
        except WorkspaceUnavailable as unavailable:
            return failed(unavailable.code, unavailable.message), False
        except (OSError, StorageError):
            log.exception("could not prepare the workspace of job %s", attempt.job.job_id)
            return failed(ErrorCode.STORAGE, _NOT_PREPARED), False

    async def _in_slot(self, slot: Slot, attempt: Attempt) -> Outcome:
        """Raises WorkspaceUnavailable, OSError and StorageError before the run, and nothing after."""
        job = attempt.job
        request = await self.store.request(job.job_id)
        for root in await self.workspaces.left_to(job, attempt.session):
            await self.agent.reap(root)
        prepared = await self.workspaces.prepare(job, attempt.session, slot.owner)
        attempt.events.emit("workspace.ready", told_ready(prepared))
        async with attempt.checkpoints.flowing():
            return await self._run_agent(_order(job, request, prepared), attempt.events, attempt.stop)

    async def _run_agent(self, order: RunOrder, events: EventLog, stop: RunStop) -> Outcome:
        timer = asyncio.get_running_loop().call_later(
            order.request.timeout_seconds, stop.set, StopReason.TIMEOUT
        )
        try:
            outcome = await self.agent.run(order, emit=events.emit, stop=stop)
        except Exception:
            # The agent promises not to raise; if it does, that is our bug and must not cost the caller the job.
            log.exception("the agent broke on job %s", order.job_id)
            return failed(ErrorCode.INTERNAL, _BROKE)
        finally:
            timer.cancel()
        return judged(outcome, stop.reason, order.request.timeout_seconds)

    async def _went_back(self, attempt: Attempt, outcome: Outcome, *, worth_saving: bool) -> bool:
        """Put the job back in the queue if it has another attempt.

        Its workspace stays, to go on from here, and is stored if the next attempt may be elsewhere.
        """
        job = attempt.job
        current = (await patiently(lambda: self.store.snapshot(job.job_id), attempt)).job
        now = self.clock.now()
        at = returns_at(current, outcome, policy=self.policy, now=now, chance=self.entropy.chance())
        if at is None:
            return False
        if worth_saving and self.archives_are_shared:
            await attempt.checkpoints.last()
        with contextlib.suppress(StorageError):  # What was told while the store was away.
            await attempt.events.flush()
        decide = requeue(outcome, attempt=job.attempt, now=now, at=at)
        try:
            change = await patiently(lambda: self.store.change(job.job_id, decide), attempt)
        except CancelRequested:
            return False
        await ring(self.queue, change.rings)
        return True


def _order(job: Job, request: JobRequest, prepared: Prepared) -> RunOrder:
    return RunOrder(
        job_id=job.job_id,
        attempt=job.attempt,
        session_id=job.session_id,
        prompt=_prompt(request, job, prepared.source),
        request=request,
        workspace=prepared.workspace,
        spent_usd=job.cost_usd,
        charged_attempt=job.charged_attempt,
        owner=job.owner,
        daily_budget_usd=job.daily_budget_usd,
        models=job.models,
    )


def _prompt(request: JobRequest, job: Job, source: Source) -> str:
    if job.attempt == 1:
        return request.prompt
    if source is Source.CHECKPOINT:
        state = AS_STORED
    else:  # A dead letter that was sent again finds its work in the session's archive.
        state = AS_LEFT if source is Source.LEFTOVER or job.archive else AS_BEFORE
    return continuation(request.prompt, f"attempt {job.attempt - 1} did not reach its end", state)


_NOT_PREPARED = (
    "The worker could not prepare the workspace (a storage error; its log says which). The session is as it was. "
    "Check free disk space and permissions of the data directory, then send the job again."
)
_BROKE = (
    "The worker met an error of its own while it ran the agent; its log has the details. The files are kept. "
    "Send the job again, and report the error."
)
