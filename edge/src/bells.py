"""The bells of new jobs, as messages of Cloudflare's queue."""

import math

import js
import msgspec
from pyodide.ffi import JsException

from overnight.adapters.cloudflare.messages import Message, message_of
from overnight.ports import Clock, JobStore, StorageFailed

MAX_DELAY_SECONDS = 12 * 3600
"""A bell for later rings then, and is put off again by the worker that finds the job too early."""


class QueueBells:
    """The half of the port `Queue` that the edge needs."""

    def __init__(self, queue, store: JobStore, clock: Clock):
        self._queue = queue
        self._store = store
        self._clock = clock

    async def send(self, job_id: str, *, at: float) -> None:
        job = (await self._store.snapshot(job_id)).job
        message = message_of(job, await self._store.request(job_id))
        delay = min(max(math.ceil(at - self._clock.now()), 0), MAX_DELAY_SECONDS)
        try:
            await self._queue.send(_as_json(message), {"contentType": "json", "delaySeconds": delay})
        except JsException as error:
            raise StorageFailed("The queue took no message.") from error


def _as_json(message: Message):
    """By way of text: a large number in a schema would become a BigInt, which is no JSON."""
    return js.JSON.parse(msgspec.json.encode(message).decode())
