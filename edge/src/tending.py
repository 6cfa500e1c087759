"""What a session's alarm looks after: a bell that was lost, a worker that died, a webhook that nobody pays.

The clock of a worker may differ from that of the edge, so a lease is lapsed not when its time is over but when it
was not renewed from one alarm to the next.
"""

import logging

import msgspec
from msgspec import Struct

from front import Edge
from overnight.domain.errors import JobNotFound, Refused
from overnight.domain.job import DeliveryStatus, Job, Status
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import lapse
from overnight.flows.run_job import ring

log = logging.getLogger(__name__)

DEBT_SECONDS = 120.0
"""Longer than a worker holds a delivery for one try."""
LONGEST_PAUSE_SECONDS = 3600.0
"""A job may wait long for a free worker, and then its bell is not lost: so it is rung ever more seldom."""


class Looked(Struct, frozen=True, kw_only=True):
    """What one look leaves for the next: the lease that was seen, and when to ring for what the next time."""

    lease: str | None = None
    rung_for: str | None = None
    rings: int = 0
    ring_at: float = 0.0


looked = msgspec.json.Decoder(Looked)


async def tend(edge: Edge, line: tuple[str, ...], owing: list[str], before: Looked) -> Looked:
    """`line` are the open jobs of the session, `owing` its jobs with owed webhooks."""
    first = await _first(edge, line)
    lease = None if first is None else _lease(first)
    if first is not None and lease is not None and lease == before.lease:
        await _take_back(edge, first)
        lease = None
    silent = [first.job_id] if first is not None and _waits(first, edge.clock.now()) else []
    return await _rung(edge, sorted({*silent, *owing}), msgspec.structs.replace(before, lease=lease))


def is_owing(status: DeliveryStatus, next_at: float, now: float) -> bool:
    return status is DeliveryStatus.OWED and next_at + DEBT_SECONDS <= now


async def _first(edge: Edge, line: tuple[str, ...]) -> Job | None:
    try:
        return (await edge.store.snapshot(line[0])).job if line else None
    except JobNotFound:
        return None


def _waits(job: Job, now: float) -> bool:
    return job.status is Status.QUEUED and job.available_at <= now


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


async def _rung(edge: Edge, job_ids: list[str], before: Looked) -> Looked:
    """Ring for these jobs, unless that was done a moment ago."""
    now, wanted = edge.clock.now(), " ".join(job_ids)
    rings = before.rings if wanted == before.rung_for else 0
    if not wanted or (rings and now < before.ring_at):
        return before
    for job_id in job_ids:
        await edge.queue.send(job_id, at=now)
    pause = min(edge.tend_seconds * 2.0 ** min(rings + 1, 16), LONGEST_PAUSE_SECONDS)
    return msgspec.structs.replace(before, rung_for=wanted, rings=rings + 1, ring_at=now + pause)
