"""What a session's alarm does: rings lost bells, and takes jobs back from workers that died (`looks.py` says when)."""

import logging

from front import Edge
from overnight.adapters.cloudflare.looks import Sight, is_lost, silent
from overnight.domain.errors import Refused
from overnight.domain.job import Job
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import lapse

log = logging.getLogger(__name__)


async def tend(edge: Edge, sight: Sight) -> None:
    """Raises StorageError."""
    now = edge.clock.now()
    if sight.first is not None and is_lost(sight, now=now, tend_seconds=edge.tend_seconds):
        await _take_back(edge, sight.first)
    for job_id in silent(sight, now=now):
        await edge.queue.send(job_id, at=now)


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
        await edge.store.change(job.job_id, decide)
    except Refused:
        return  # its worker came back
    log.warning("the worker of job %s (attempt %d) is lost", job.job_id, job.attempt)
