"""Changing one's mind: cancel a job, send a dead letter again, owe a webhook once more."""

from overnight.domain import transitions
from overnight.domain.delivery import redeliver
from overnight.domain.errors import DeliveryNotFound
from overnight.domain.job import Change, Delivery, Snapshot
from overnight.domain.keys import Caller
from overnight.domain.standing import Check, room_to_wait
from overnight.domain.transitions import Decide, seen_by
from overnight.flows.run_job import ring
from overnight.ports import Clock, Entropy, JobStore, Queue


async def cancel(
    job_id: str, *, caller: Caller, store: JobStore, queue: Queue, clock: Clock, entropy: Entropy
) -> Snapshot:
    """A waiting job is cancelled on return; a running one is asked to stop. Raises JobNotFound."""
    decide = transitions.cancel(now=clock.now(), delivery_id=entropy.delivery_id())
    return await _changed(job_id, seen_by(caller, decide), store=store, queue=queue)


async def resend(
    job_id: str, *, caller: Caller, max_queued_by_all: int, store: JobStore, queue: Queue, clock: Clock
) -> Snapshot:
    """Raises JobNotFound, NotRetryable, LineFull, TooManyJobs, BudgetExhausted, QueueFull."""
    now = clock.now()
    check = room_to_wait(caller.limits, max_queued_by_all=max_queued_by_all, now=now)
    decide = seen_by(caller, transitions.resend(now=now))
    return await _changed(job_id, decide, check=check, store=store, queue=queue)


async def owe_again(delivery_id: str, *, caller: Caller, store: JobStore, clock: Clock) -> Delivery:
    """Raises DeliveryNotFound."""
    now = clock.now()

    def again(delivery: Delivery) -> Delivery | None:
        return redeliver(delivery, now=now) if caller.sees(delivery.owner) else None

    owed = await store.change_delivery(delivery_id, again)
    if owed is None:
        raise DeliveryNotFound("no such delivery")
    return owed


async def _changed(
    job_id: str, decide: Decide, *, store: JobStore, queue: Queue, check: Check | None = None
) -> Snapshot:
    change: Change = await store.change(job_id, decide, check=check)
    await ring(queue, change.rings)
    return Snapshot(job=change.job, session=change.session)
