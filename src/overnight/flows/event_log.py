"""The events of one run on their way to the store: numbered there, written in small batches."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from overnight.domain.errors import Refused
from overnight.domain.job import Job
from overnight.domain.redaction import Redactor
from overnight.domain.transitions import Note, record
from overnight.ports import Clock, JobStore, StorageError

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.05
"""A batch waits so long for company: watchers see a message within it, and a burst is one transaction. Where each
transaction is paid for it waits longer."""
RETRY_SECONDS = 1.0
LAST_TRIES = 5
"""At its end a run does not wait for ever to write its last events: its outcome matters more."""
BATCH_BYTES = 4 * 1024 * 1024
"""Of the data of one transaction, unless its first event has more. What has gathered while the store did not answer
may be more than a store takes at once (an isolate of the edge has 128 MB), and would then never be written."""


class EventLog:
    def __init__(
        self,
        store: JobStore,
        clock: Clock,
        job: Job,
        redactor: Redactor,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._job = job
        self._redactor = redactor
        self._gather_seconds = gather_seconds
        self._notes: list[Note] = []
        self._some = asyncio.Event()
        self._closing = asyncio.Event()
        self._flushing = asyncio.Lock()
        """What was noted first is written first, whoever asks for it and however long the store takes."""

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Note something that happened now, without secrets. Never blocks; it is durable after the next flush."""
        self._notes.append(Note(kind, self._clock.now(), self._redactor.data(data)))
        self._some.set()

    async def flush(self) -> None:
        """Write all that has been noted. Raises Refused if the attempt is stale, StorageError."""
        async with self._flushing:
            self._some.clear()
            left = len(self._notes)
            while left:
                batch = _first_of(self._notes[:left])
                del self._notes[: len(batch)]
                left -= len(batch)
                await self._write(batch)

    async def _write(self, batch: Sequence[Note]) -> None:
        try:
            await self._store.change(self._job.job_id, record(batch, attempt=self._job.attempt))
        except StorageError:
            self._notes[:0] = batch
            raise

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Flush in the background while the block runs, and once more at its end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flow())
            yield
            self._closing.set()
            self._some.set()

    async def _flow(self) -> None:
        failures = 0
        while not self._closing.is_set() or (self._notes and failures < LAST_TRIES):
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._gather_seconds):
                    await self._closing.wait()
            try:
                await self.flush()
            except Refused:
                return  # The attempt is stale: keeping the lease finds out too, and ends the run.
            except StorageError:
                log.exception("could not write events of job %s", self._job.job_id)
                failures += 1
                self._some.set()
                await asyncio.sleep(RETRY_SECONDS)


def _first_of(notes: Sequence[Note]) -> Sequence[Note]:
    """As many of them as one transaction takes, at least one."""
    size = 0
    for number, note in enumerate(notes):
        size += len(json.dumps(note.data))
        if number and size > BATCH_BYTES:
            return notes[:number]
    return notes
