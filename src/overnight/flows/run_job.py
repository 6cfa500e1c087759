"""The life of one attempt: claim, restore, run, save, finish.

If the worker dies after
- claiming or running: the job is `processing` under a lease that lapses. The sweep queues it again, and the
  next attempt goes on in the workspace that was left;
- storing the archive: the same, and an archive under this attempt's name, which nothing points at;
- finishing: the notifier of any process sends the delivery, and the sweep deletes the workspace.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from overnight.archive import ArchiveRefused, Scan
from overnight.domain.errors import (
    CancelRequested,
    ErrorCode,
    JobNotFound,
    NotRunnable,
    OwnerBusy,
    Refused,
    SessionBusy,
    TooEarly,
)
from overnight.domain.job import ArchiveRef, Change, Job, JobRequest, Ring, Session
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.prompts import continuation
from overnight.domain.redaction import Redactor
from overnight.domain.retry import RetryPolicy
from overnight.domain.standing import room_to_run
from overnight.domain.transitions import Decide, finish, requeue, returns_at, start
from overnight.flows.event_log import EventLog
from overnight.flows.lease import Holder, RunStop, StopReason
from overnight.flows.workspace import Saved, SecretsInArchive, Workspaces, WorkspaceUnavailable
from overnight.ports import (
    Agent,
    ArchiveConflict,
    Bell,
    Clock,
    Entropy,
    JobStore,
    Queue,
    RunOrder,
    StorageError,
)

log = logging.getLogger(__name__)

SAVE_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries to save a workspace. A run is paid for: saving it is tried again, never the run."""


OWNER_BUSY_SECONDS = 2.0
"""Until a job is tried again whose owner has as many running as its key allows. The sweep may be faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """What a worker needs to run jobs. `worker` is its name in leases."""

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
    lease_seconds: float
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
            await self._attempt(job, claimed.session, leaving)
        except* Refused:
            log.warning("attempt %d of job %s is stale: it changed nothing", job.attempt, job.job_id)

    async def _claim(self, bell: Bell) -> Change | None:
        """Start the attempt. Once it has a lease, the lease and not the bell is what brings the job back."""
        decide = start(
            worker=self.worker,
            now=self.clock.now(),
            lease_seconds=self.lease_seconds,
            isolation=self.agent.isolation,
            properties=self.agent.isolation_properties,
        )
        try:
            claimed = await self.store.change(bell.job_id, decide, check=room_to_run)
        except TooEarly as early:
            await self.queue.retry(bell, at=early.available_at)
            return None
        except OwnerBusy:
            await self.queue.retry(bell, at=self.clock.now() + OWNER_BUSY_SECONDS)
            return None
        except (NotRunnable, SessionBusy, JobNotFound):
            await self.queue.ack(
                bell
            )  # Whoever holds the session's line rings for the next when it finishes.
            return None
        await self.queue.ack(bell)
        return claimed

    async def _attempt(self, job: Job, session: Session, leaving: asyncio.Event) -> None:
        async with self.holder.hold(job, leaving=leaving) as stop:
            events = EventLog(self.store, self.clock, job, self.redactor)
            async with events.flowing():
                outcome, worth_saving = await self._outcome(job, session, events, stop)
            outcome = _without_secrets(outcome, self.redactor)
            if stop.reason is StopReason.LOST:
                return
            if await self._went_back(job, outcome):
                return
            saved = await self._save(job, session, outcome, events) if worth_saving else None
            await self._finish(job, outcome, saved)
        await self.workspaces.discard(job)

    async def _outcome(
        self, job: Job, session: Session, events: EventLog, stop: RunStop
    ) -> tuple[Outcome, bool]:
        """How the attempt ended, and whether its workspace holds anything to save."""
        try:
            request = await self.store.request(job.job_id)
            for root in self.workspaces.earlier(job):
                await self.agent.reap(root)
            prepared = await self.workspaces.prepare(job, session)
        except WorkspaceUnavailable as unavailable:
            return failed(unavailable.code, unavailable.message), False
        except (OSError, StorageError):
            log.exception("could not prepare the workspace of job %s", job.job_id)
            return failed(ErrorCode.STORAGE, _NOT_PREPARED), False
        events.emit("workspace.ready", {"continued": prepared.continued, "archive": _name(session.archive)})
        order = RunOrder(
            job_id=job.job_id,
            attempt=job.attempt,
            session_id=job.session_id,
            prompt=_prompt(request, job),
            request=request,
            workspace=prepared.workspace,
            spent_usd=job.cost_usd,
        )
        return await self._run_agent(order, events, stop), True

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
        return _judged(outcome, stop.reason, order.request.timeout_seconds)

    async def _went_back(self, job: Job, outcome: Outcome) -> bool:
        """Put the job back in the queue if it has another attempt; its workspace stays as the checkpoint."""
        now = self.clock.now()
        current = (await self.store.snapshot(job.job_id)).job
        at = returns_at(current, outcome, policy=self.policy, now=now, chance=self.entropy.chance())
        if at is None:
            return False
        try:
            change = await self.store.change(
                job.job_id, requeue(outcome, attempt=job.attempt, now=now, at=at)
            )
        except CancelRequested:
            return False
        await ring(self.queue, change.rings)
        return True

    async def _save(self, job: Job, session: Session, outcome: Outcome, events: EventLog) -> Saved | None:
        """Store the workspace; after bounded tries give up, keep it on disk and say so in an event."""
        told: dict[str, object] = {}
        cost = session.cost_usd if outcome.session_cost_usd is None else outcome.session_cost_usd
        for delay in (*self.save_delays, None):
            try:
                saved = await self.workspaces.save(job, session, cost)
            except (ArchiveConflict, ArchiveRefused):
                log.exception("the workspace of job %s cannot be saved", job.job_id)
                break
            except SecretsInArchive as secrets:
                _tell_secrets(secrets.scan, events)
                told = {"reason": "secrets"}
                break
            except OSError:
                log.exception("could not save the workspace of job %s", job.job_id)
                if delay is not None:
                    await asyncio.sleep(delay)
            else:
                _tell_secrets(saved.scan, events)
                events.emit("workspace.saved", _told(saved))
                await events.flush()
                return saved
        place = await self.workspaces.set_aside(job)
        events.emit("workspace.not_saved", {"kept_in": place.name} | told)
        await events.flush()
        return None

    async def _finish(self, job: Job, outcome: Outcome, saved: Saved | None) -> None:
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
        try:
            await self.workspaces.publish(job)
        except OSError:
            # The session's pointer has moved: the alias is a convenience, and the next job publishes it again.
            log.exception("could not publish the archive of session %s", job.session_id)


async def ring(queue: Queue, rings: Sequence[Ring]) -> None:
    for bell in rings:
        await queue.send(bell.job_id, at=bell.at)


def _prompt(request: JobRequest, job: Job) -> str:
    if job.attempt == 1:
        return request.prompt
    return continuation(request.prompt, f"attempt {job.attempt - 1} did not reach its end")


def _without_secrets(outcome: Outcome, redactor: Redactor) -> Outcome:
    return replace(
        outcome,
        result=redactor.data(outcome.result),
        structured_output=redactor.data(outcome.structured_output),
        message=redactor.data(outcome.message),
    )


def _judged(outcome: Outcome, reason: StopReason | None, timeout_seconds: float) -> Outcome:
    """What an interruption means, now that it is known who asked for it."""
    if outcome.ending is not Ending.INTERRUPTED:
        return outcome
    if reason is StopReason.CANCEL:
        return replace(outcome, ending=Ending.CANCELLED)
    if reason is StopReason.TIMEOUT:
        message = (
            f"The job was stopped after its timeout of {timeout_seconds:g} seconds. Its files and conversation up "
            "to then are kept: send another prompt to the session, or retry the job with more time."
        )
        return replace(outcome, ending=Ending.FAILED, code=ErrorCode.TIMEOUT, message=message)
    return outcome


def _name(archive: ArchiveRef | None) -> str | None:
    return archive.name if archive else None


def _told(saved: Saved) -> Mapping[str, object]:
    packed = saved.packed
    return {
        "archive": saved.archive.name,
        "size": saved.archive.size,
        "entries": packed.entries,
        "left_out": [{"path": left.path, "reason": left.reason} for left in packed.left_out],
        "left_out_total": packed.left_out_total,
        "changed": packed.changed,
    }


def _tell_secrets(scan: Scan, events: EventLog) -> None:
    for found in scan.found:
        told = {"path": found.path, "kind": found.kind, "count": found.count}
        events.emit("archive.secret_found", told)
    unlisted = scan.found_total - len(scan.found)
    if unlisted or not scan.whole:
        events.emit("archive.scan_cut", {"unlisted": unlisted, "whole": scan.whole})


_NOT_PREPARED = (
    "The worker could not prepare the workspace (a storage error; its log says which). The session is as it was. "
    "Check free disk space and permissions of the data directory, then send the job again."
)
_BROKE = (
    "The worker met an error of its own while it ran the agent; its log has the details. The files are kept. "
    "Send the job again, and report the error."
)
