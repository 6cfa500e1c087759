"""The life of one attempt: claim, restore, run, save, finish.

If the worker dies after
- claiming or running: the job is `processing` under a lease that lapses. The sweep queues it again, and the
  next attempt goes on in the workspace that was left, or elsewhere from the last checkpoint;
- storing the archive: the same, and an archive under this attempt's name, which nothing points at;
- finishing: the notifier of any process sends the delivery, and the sweep deletes the workspace. Its last
  checkpoint is left to retention.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from overnight.archive import ArchiveRefused
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
    SessionNotFound,
    TooEarly,
)
from overnight.domain.holding import hold
from overnight.domain.job import Change, Job, JobRequest, Ring, Session, WaitingFor
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.prompts import AS_BEFORE, AS_LEFT, AS_STORED, continuation
from overnight.domain.redaction import Redactor
from overnight.domain.retry import RetryPolicy
from overnight.domain.standing import room_to_run, still_no_room
from overnight.domain.transitions import Decide, finish, requeue, returns_at, start
from overnight.flows.checkpoint import Checkpoints
from overnight.flows.event_log import EventLog
from overnight.flows.judging import failed_as_too_large, judged
from overnight.flows.lease import Holder, RunStop, StopReason
from overnight.flows.restoring import WorkspaceUnavailable
from overnight.flows.retention import Retention
from overnight.flows.saving import Saved, Saving, SecretsInArchive
from overnight.flows.telling import tell_secrets, told_ready, told_saved
from overnight.flows.workspace import Source, Workspaces, archive_name
from overnight.ports import (
    Agent,
    ArchiveConflict,
    ArchiveDenied,
    ArchiveMissing,
    ArchiveTooLarge,
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

SAVE_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries to save a workspace. A run is paid for: saving it is tried again, never the run."""


OWNER_BUSY_SECONDS = 30.0
"""Until a job is tried again whose owner has as many running as its key allows, should nobody let it in before."""


async def nobody(_owner: str) -> None:
    """For a store that cannot find the jobs of an owner: there they are only tried again."""


class _TooLarge(Exception):
    """The workspace is kept on disk, and the operator wants such a job to fail."""


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
    retention: Retention
    lease_seconds: float
    fail_too_large: bool = False
    checkpoint_seconds: float = 0.0
    archives_are_shared: bool = False
    """Workers on other machines have the same archive store: what goes back to the queue may go on there."""
    let_in: Callable[[str], Awaitable[None]] = nobody
    save_delays: tuple[float, ...] = SAVE_DELAYS

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
                await self._attempt(job, claimed.session, leaving)
        except* Refused:
            log.warning("attempt %d of job %s is stale: it changed nothing", job.attempt, job.job_id)
        await self.let_in(job.owner)

    async def _claim(self, bell: Bell) -> Change | None:
        """Start the attempt. Once it has a lease, the lease and not the bell is what brings the job back."""
        now = self.clock.now()
        decide = start(
            worker=self.worker,
            now=now,
            lease_seconds=self.lease_seconds,
            isolation=self.agent.isolation,
            properties=self.agent.isolation_properties,
        )
        try:
            claimed = await self.store.change(bell.job_id, decide, check=room_to_run(now=now))
        except TooEarly as early:
            await self.queue.retry(bell, at=early.available_at)
            return None
        except OwnerBusy:
            await self._hold(bell, WaitingFor.OWNER_LIMIT, at=now + OWNER_BUSY_SECONDS)
            return None
        except BudgetExhausted as spent:
            await self._hold(bell, WaitingFor.BUDGET, at=now + spent.wait_seconds)
            return None
        except (NotRunnable, SessionBusy, JobNotFound):
            await self.queue.ack(
                bell
            )  # Whoever holds the session's line rings for the next when it finishes.
            return None
        await self.queue.ack(bell)
        return claimed

    async def _hold(self, bell: Bell, waiting_for: WaitingFor, *, at: float) -> None:
        """Let the job wait for its owner's limit, and say so; or look again, if that has changed meanwhile."""
        now = self.clock.now()
        try:
            held = await self.store.change(
                bell.job_id, hold(waiting_for=waiting_for, at=at), check=still_no_room(now=now)
            )
        except RoomToRun:
            await self.queue.retry(bell, at=now)
            return
        await ring(self.queue, held.rings)
        await self.queue.ack(bell)

    async def _attempt(self, job: Job, session: Session, leaving: asyncio.Event) -> None:
        async with self.holder.hold(job, leaving=leaving) as stop:
            events = EventLog(self.store, self.clock, job, self.redactor)
            checkpoints = self._checkpoints(job, session, events)
            async with events.flowing():
                outcome, worth_saving = await self._outcome(job, session, events, stop, checkpoints)
            outcome = self.redactor.outcome(outcome)
            if stop.reason is StopReason.LOST:
                return
            if await self._went_back(job, outcome, checkpoints if worth_saving else None):
                return
            saving = self.workspaces.saving(job, session, _cost(session, outcome))
            try:
                saved = await self._end(job, outcome, saving if worth_saving else None, events)
            except Refused:
                await self._retract(job)
                raise
        await self.workspaces.discard(job)
        if saved is not None:
            await checkpoints.drop()
        await self.retention.tidy(job.session_id)

    async def _end(self, job: Job, outcome: Outcome, saving: Saving | None, events: EventLog) -> Saved | None:
        """Save, finish, and keep the workspace for the session's next job."""
        try:
            saved = await self._save(job, saving, events) if saving else None
        except _TooLarge:
            saved, outcome = None, failed_as_too_large(outcome)
        with self.workspaces.settling(job.session_id):
            session = await self._finish(job, outcome, saved)
            await self._keep(job, session, saved)
        return saved

    def _checkpoints(self, job: Job, session: Session, events: EventLog) -> Checkpoints:
        return Checkpoints(
            store=self.store,
            workspaces=self.workspaces,
            clock=self.clock,
            job=job,
            session=session,
            events=events,
            seconds=self.checkpoint_seconds,
        )

    async def _outcome(
        self, job: Job, session: Session, events: EventLog, stop: RunStop, checkpoints: Checkpoints
    ) -> tuple[Outcome, bool]:
        """How the attempt ended, and whether its workspace holds anything to save."""
        try:
            async with self.agent.slot() as slot:
                return await self._in_slot(slot, job, session, events, stop, checkpoints), True
        except WorkspaceUnavailable as unavailable:
            return failed(unavailable.code, unavailable.message), False
        except (OSError, StorageError):
            log.exception("could not prepare the workspace of job %s", job.job_id)
            return failed(ErrorCode.STORAGE, _NOT_PREPARED), False

    async def _in_slot(
        self,
        slot: Slot,
        job: Job,
        session: Session,
        events: EventLog,
        stop: RunStop,
        checkpoints: Checkpoints,
    ) -> Outcome:
        """Raises WorkspaceUnavailable, OSError and StorageError before the run, and nothing after."""
        request = await self.store.request(job.job_id)
        for root in self.workspaces.earlier(job):
            await self.agent.reap(root)
        prepared = await self.workspaces.prepare(job, session, slot.owner)
        events.emit("workspace.ready", told_ready(prepared))
        order = RunOrder(
            job_id=job.job_id,
            attempt=job.attempt,
            session_id=job.session_id,
            prompt=_prompt(request, job, prepared.source),
            request=request,
            workspace=prepared.workspace,
            spent_usd=job.cost_usd,
            owner=job.owner,
            daily_budget_usd=job.daily_budget_usd,
            models=job.models,
        )
        async with checkpoints.flowing():
            return await self._run_agent(order, events, stop)

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

    async def _went_back(self, job: Job, outcome: Outcome, checkpoints: Checkpoints | None) -> bool:
        """Put the job back in the queue if it has another attempt.

        Its workspace stays, to go on from here, and is stored if the next attempt may be elsewhere.
        """
        now = self.clock.now()
        current = (await self.store.snapshot(job.job_id)).job
        at = returns_at(current, outcome, policy=self.policy, now=now, chance=self.entropy.chance())
        if at is None:
            return False
        if checkpoints is not None and self.archives_are_shared:
            await checkpoints.last()
        try:
            change = await self.store.change(
                job.job_id, requeue(outcome, attempt=job.attempt, now=now, at=at)
            )
        except CancelRequested:
            return False
        await ring(self.queue, change.rings)
        return True

    async def _save(self, job: Job, saving: Saving, events: EventLog) -> Saved | None:
        """Store the workspace; after bounded tries give up, keep it on disk and say so in an event."""
        told: dict[str, object] = {}
        for delay in (*self.save_delays, None):
            try:
                saved = await saving.store()
            except (ArchiveConflict, ArchiveRefused):
                log.exception("the workspace of job %s cannot be saved", job.job_id)
                break
            except SecretsInArchive as secrets:
                tell_secrets(secrets.scan, events)
                told = {"reason": "secrets"}
                break
            except ArchiveTooLarge as large:
                told = {"reason": "too_large", "limit": large.limit}
                break
            except ArchiveDenied:
                log.exception("the store refuses the workspace of job %s", job.job_id)
                told = {"reason": "denied"}
                break
            except OSError:
                log.exception("could not save the workspace of job %s", job.job_id)
                if delay is not None:
                    await asyncio.sleep(delay)
            else:
                tell_secrets(saved.scan, events)
                events.emit("workspace.saved", told_saved(saved))
                await events.flush()
                await saving.adopt()
                return saved
        place = await self.workspaces.set_aside(job)
        events.emit("workspace.not_saved", {"kept_in": place.name} | told)
        await events.flush()
        if self.fail_too_large and told.get("reason") == "too_large":
            raise _TooLarge
        return None

    async def _finish(self, job: Job, outcome: Outcome, saved: Saved | None) -> Session:
        if outcome.ending is Ending.INTERRUPTED:  # It was to go back, but a cancel came in between.
            outcome = replace(outcome, ending=Ending.CANCELLED)
        decide = finish(
            outcome,
            attempt=job.attempt,
            now=self.clock.now(),
            archive=saved.archive if saved else None,
            delivery_id=self.entropy.delivery_id(),
        )
        change = await self._written(job.job_id, decide)
        await ring(self.queue, change.rings)
        if saved is not None:
            await self._publish(job)
        return change.session

    async def _written(self, job_id: str, decide: Decide) -> Change:
        """The outcome is worth patience: it cost money, and until it is written the job would run again."""
        for delay in self.save_delays:
            try:
                return await self.store.change(job_id, decide)
            except StorageError:
                log.exception("could not write the outcome of job %s", job_id)
                await asyncio.sleep(delay)
        return await self.store.change(job_id, decide)

    async def _publish(self, job: Job) -> None:
        """Unless a later job of the session has published meanwhile."""
        try:
            current = await self.store.snapshot(job.job_id)
            if current.session.archive_name == archive_name(job):
                await self.workspaces.publish(job)
        except (OSError, StorageError, ArchiveMissing, JobNotFound):
            # The session's pointer has moved: the alias is a convenience, and the next job publishes it again.
            log.exception("could not publish the archive of session %s", job.session_id)

    async def _keep(self, job: Job, session: Session, saved: Saved | None) -> None:
        """Keep the workspace for the session's next job, unless the session is gone already."""
        if saved is None:
            return
        await self.workspaces.keep(job, session, saved)
        try:
            await self.store.session(session.session_id)
        except SessionNotFound:
            await self.workspaces.forget_kept(session.session_id)
        except StorageError:
            log.warning("could not look for session %s", session.session_id, exc_info=True)

    async def _retract(self, job: Job) -> None:
        """What a stale attempt has stored goes, unless it was this attempt that finished the job."""
        try:
            current = (await self.store.snapshot(job.job_id)).job
        except (JobNotFound, StorageError):
            return  # Who erases the session lists its archives; in doubt retention does.
        if current.archive != archive_name(job):
            await self.workspaces.forget(archive_name(job))


async def ring(queue: Queue, rings: Sequence[Ring]) -> None:
    for bell in rings:
        await queue.send(bell.job_id, at=bell.at)


def _prompt(request: JobRequest, job: Job, source: Source) -> str:
    if job.attempt == 1:
        return request.prompt
    if source is Source.CHECKPOINT:
        state = AS_STORED
    else:  # A dead letter that was sent again finds its work in the session's archive.
        state = AS_LEFT if source is Source.LEFTOVER or job.archive else AS_BEFORE
    return continuation(request.prompt, f"attempt {job.attempt - 1} did not reach its end", state)


def _cost(session: Session, outcome: Outcome) -> float:
    return session.cost_usd if outcome.session_cost_usd is None else outcome.session_cost_usd


_NOT_PREPARED = (
    "The worker could not prepare the workspace (a storage error; its log says which). The session is as it was. "
    "Check free disk space and permissions of the data directory, then send the job again."
)
_BROKE = (
    "The worker met an error of its own while it ran the agent; its log has the details. The files are kept. "
    "Send the job again, and report the error."
)
