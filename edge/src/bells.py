"""The bells of jobs, as messages of Cloudflare's queue."""

import logging
import math

import js
import msgspec
from pyodide.ffi import JsException

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch
from overnight.adapters.cloudflare.messages import Message, bell, message_of
from overnight.domain.job import Job, JobRequest
from overnight.ports import Clock, StorageFailed

log = logging.getLogger(__name__)

MAX_DELAY_SECONDS = 12 * 3600
"""A bell for later rings then, and is put off again by the worker that finds the job too early."""


class QueueBells:
    """The half of the port `Queue` that the edge needs."""

    def __init__(self, queue, clock: Clock):
        self._queue = queue
        self._clock = clock

    async def send(self, job_id: str, *, at: float) -> None:
        await self._send(_bell(job_id, at), at)

    async def ring(self, batch: Batch) -> None:
        """What a written batch rings for. A new job's message has the plan's schema: its documents are at hand."""
        for job_id, at in batch.rings.items():
            try:
                await self._send(self._message(job_id, batch, at), at)
            except StorageFailed:
                log.exception("could not ring for job %s: its alarm will", job_id)

    def _message(self, job_id: str, batch: Batch, at: float) -> Message:
        job, request = (batch.put.get(prefix + job_id) for prefix in (codec.JOBS, codec.REQUESTS))
        if job is None or request is None:
            return _bell(job_id, at)
        return message_of(codec.decode(Job, job), codec.decode(JobRequest, request))

    async def _send(self, message: Message, at: float) -> None:
        delay = min(max(math.ceil(at - self._clock.now()), 0), MAX_DELAY_SECONDS)
        try:
            await self._queue.send(_as_json(message), {"contentType": "json", "delaySeconds": delay})
        except JsException as error:
            raise StorageFailed("The queue took no message.") from error


def _bell(job_id: str, at: float) -> Message:
    """It says when it is to ring: that tells a dead letter whether its job still depended on it."""
    return bell(job_id, timestamp=int(at * 1000))


def _as_json(message: Message):
    """By way of text: a large number in a schema would become a BigInt, which is no JSON."""
    return js.JSON.parse(msgspec.json.encode(message).decode())
