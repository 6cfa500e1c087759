"""Changing one's mind: cancel a job, send a dead letter again, owe a webhook once more."""

from overnight.domain import transitions
from overnight.domain.delivery import redeliver
from overnight.domain.errors import DeliveryNotFound
from overnight.domain.job import Change, Delivery, Snapshot
from overnight.domain.transitions import Decide
from overnight.flows.run_job import ring
from overnight.ports import Clock, Entropy, JobStore, Queue


async def cancel(job_id: str, *, store: JobStore, queue: Queue, clock: Clock, entropy: Entropy) -> Snapshot:
    """A waiting job is cancelled on return; a running one is asked to stop. Raises JobNotFound."""
    decide = transitions.cancel(now=clock.now(), delivery_id=entropy.delivery_id())
    return await _changed(job_id, decide, store=store, queue=queue)


async def resend(job_id: str, *, store: JobStore, queue: Queue, clock: Clock) -> Snapshot:
    """Raises JobNotFound, NotRetryable, LineFull."""
    return await _changed(job_id, transitions.resend(now=clock.now()), store=store, queue=queue)


async def owe_again(delivery_id: str, *, store: JobStore, clock: Clock) -> Delivery:
    """Raises DeliveryNotFound."""
    now = clock.now()
    owed = await store.change_delivery(delivery_id, lambda delivery: redeliver(delivery, now=now))
    if owed is None:
        raise DeliveryNotFound("no such delivery")
    return owed


async def _changed(job_id: str, decide: Decide, *, store: JobStore, queue: Queue) -> Snapshot:
    change: Change = await store.change(job_id, decide)
    await ring(queue, change.rings)
    return Snapshot(job=change.job, session=change.session)
