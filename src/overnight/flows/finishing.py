"""The end of an attempt that does not go back to the queue: save, finish, keep, publish.

The order is the promise: the archive is in the store before the job has its final status, and the session's
pointer moves with that status. What comes after it is a convenience, and none of it can fail the job.
"""

import asyncio
import logging
from dataclasses import dataclass, replace

from overnight.domain.errors import Refused, StaleAttempt
from overnight.domain.job import Session
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.transitions import finish
from overnight.flows.attempt import Attempt
from overnight.flows.bells import ring
from overnight.flows.judging import failed_as_too_large
from overnight.flows.lease import StopReason
from overnight.flows.patience import patiently
from overnight.flows.publishing import publish
from overnight.flows.retracting import retract
from overnight.flows.saving import Saved, Saving, SecretsInArchive
from overnight.flows.telling import tell_secrets, told_saved
from overnight.flows.workspace import Workspaces
from overnight.ports import (
    ArchiveDenied,
    ArchiveTooLarge,
    Clock,
    Entropy,
    JobStore,
    Queue,
    StorageError,
)

log = logging.getLogger(__name__)


class _NotSaved(Exception):
    """The workspace could not be stored. `told` is what users may know of it."""

    def __init__(self, **told: object) -> None:
        super().__init__(told)
        self.told = told

    @property
    def too_large(self) -> bool:
        return self.told.get("reason") == "too_large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finisher:
    """`fail_too_large`: a job whose files the store does not take fails, though they are kept on disk."""

    store: JobStore
    queue: Queue
    workspaces: Workspaces
    clock: Clock
    entropy: Entropy
    fail_too_large: bool = False

    async def end(self, attempt: Attempt, outcome: Outcome, *, worth_saving: bool) -> Saved | None:
        """Raises Refused if the attempt is stale; then it has left nothing. Raises StorageError, OSError."""
        saving = None
        if worth_saving:
            saving = self.workspaces.saving(attempt.job, attempt.session, outcome.cost_usd)
        try:
            return await self._save_and_finish(attempt, outcome, saving)
        except Refused:
            await retract(attempt.job, store=self.store, workspaces=self.workspaces)
            raise

    async def _save_and_finish(
        self, attempt: Attempt, outcome: Outcome, saving: Saving | None
    ) -> Saved | None:
        saved = None
        if saving is not None:
            try:
                saved = await self._save(attempt, saving)
            except _NotSaved as not_saved:
                await self._set_aside(attempt, not_saved)
                if not_saved.too_large and self.fail_too_large:
                    outcome = failed_as_too_large(outcome)
        with self.workspaces.settling(attempt.job.session_id):
            session = await self._finish(attempt, outcome, saved)
            if saved is not None:
                await self.workspaces.keep(attempt.job, session, saved)
        if saved is not None:
            await publish(attempt.job, store=self.store, workspaces=self.workspaces)
        return saved

    async def _save(self, attempt: Attempt, saving: Saving) -> Saved:
        saved = await self._stored(attempt, saving)
        tell_secrets(saved.scan, attempt.events)
        for kind, told in told_saved(saved):
            attempt.events.emit(kind, told)
        await self._told(attempt)
        try:
            await saving.adopt()
        except OSError:  # The archive is stored; the next pack is a full one.
            log.warning("the next pack of job %s has no base", attempt.job.job_id, exc_info=True)
        return saved

    async def _stored(self, attempt: Attempt, saving: Saving) -> Saved:
        """Tried a bounded number of times. Raises _NotSaved, and StaleAttempt as soon as the lease is lost."""
        job_id = attempt.job.job_id
        for delay in (*attempt.delays, None):
            if attempt.stop.reason is StopReason.LOST:  # The next attempt may have moved the workspace away.
                raise StaleAttempt
            try:
                return await saving.store()
            except SecretsInArchive as secrets:
                tell_secrets(secrets.scan, attempt.events)
                raise _NotSaved(reason="secrets") from secrets
            except ArchiveTooLarge as large:
                raise _NotSaved(reason="too_large", limit=large.limit) from large
            except ArchiveDenied as denied:
                log.exception("the store refuses the workspace of job %s", job_id)
                raise _NotSaved(reason="denied") from denied
            except OSError:
                log.exception("could not save the workspace of job %s", job_id)
                if delay is not None:
                    await asyncio.sleep(delay)
            except Exception as broken:
                # It would fail again: an archive that is refused, or a bug of ours. The run is paid for either way.
                log.exception("the workspace of job %s cannot be saved", job_id)
                raise _NotSaved from broken
        raise _NotSaved

    async def _set_aside(self, attempt: Attempt, not_saved: _NotSaved) -> None:
        """Say so in an event, and keep it on disk. In this order: the workspace of a stale attempt, whose event is
        refused, is what the next one goes on from."""
        place = self.workspaces.place_aside(attempt.job)
        attempt.events.emit("workspace.not_saved", {"kept_in": place.name} | not_saved.told)
        await self._told(attempt)
        await patiently(lambda: self.workspaces.set_aside(attempt.job), attempt, trouble=OSError)

    async def _finish(self, attempt: Attempt, outcome: Outcome, saved: Saved | None) -> Session:
        if outcome.ending is Ending.INTERRUPTED:  # It was to go back, but a cancel came in between.
            outcome = replace(outcome, ending=Ending.CANCELLED)
        job = attempt.job
        decide = finish(
            outcome,
            attempt=job.attempt,
            now=self.clock.now(),
            archive=saved.archive if saved else None,
            delivery_id=self.entropy.delivery_id(),
        )
        change = await patiently(lambda: self.store.change(job.job_id, decide), attempt)
        await ring(self.queue, change.rings)
        return change.session

    async def _told(self, attempt: Attempt) -> None:
        """Write the events, and go on without them in the end: the outcome matters more. Raises Refused."""
        try:
            await patiently(attempt.events.flush, attempt)
        except StorageError:
            log.exception("could not write the last events of job %s", attempt.job.job_id)
