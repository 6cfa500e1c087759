"""What a session's alarm looks after: a bell that was lost, a worker that died, a webhook that nobody pays.

The clock of a worker may differ from that of the edge, so a lease is lapsed not when its time is over but when it
was not renewed from one alarm to the next.
"""

import logging
from dataclasses import dataclass

from front import Edge
from overnight.domain.errors import JobNotFound, Refused
from overnight.domain.job import DeliveryStatus, Job, Status
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import lapse
from overnight.flows.run_job import ring

log = logging.getLogger(__name__)

DEBT_SECONDS = 120.0
"""Longer than a worker holds a delivery for one try."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look leaves for the next: the lease that was seen, and whether there will be something to see."""

    lease: str | None
    again: bool


async def tend(edge: Edge, line: tuple[str, ...], owing: list[str], seen: str | None) -> Looked:
    """`owing` are the jobs of the session with owed webhooks; `seen` is the lease of the look before."""
    for job_id in owing:
        await _ring(edge, job_id)
    if not line:
        return Looked(None, bool(owing))
    try:
        job = (await edge.store.snapshot(line[0])).job
    except JobNotFound:
        return Looked(None, False)
    now = edge.clock.now()
    if job.status is Status.QUEUED and job.available_at <= now:
        await _ring(edge, job.job_id)
    lease = _lease(job)
    if lease is not None and lease == seen:
        await _take_back(edge, job)
        lease = None
    return Looked(lease, True)


def is_owing(status: DeliveryStatus, next_at: float, now: float) -> bool:
    return status is DeliveryStatus.OWED and next_at + DEBT_SECONDS <= now


def _lease(job: Job) -> str | None:
    return None if job.lease is None else f"{job.job_id}.{job.attempt}.{job.lease.until!r}"


async def _take_back(edge: Edge, job: Job) -> None:
    decide = lapse(
        attempt=job.attempt,
        now=edge.clock.now(),
        policy=RetryPolicy(),
        chance=edge.entropy.chance(),
        delivery_id=edge.entropy.delivery_id(),
        worker_is_dead=True,
    )
    try:
        change = await edge.store.change(job.job_id, decide)
    except Refused:
        return  # its worker came back
    log.warning("the worker of job %s (attempt %d) is lost", job.job_id, job.attempt)
    await ring(edge.queue, change.rings)


async def _ring(edge: Edge, job_id: str) -> None:
    await edge.queue.send(job_id, at=edge.clock.now())
