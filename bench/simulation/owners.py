"""How owners stand, by the edge's own code (`adapters/cloudflare/owners.py`) over objects in virtual time."""

from collections import Counter
from collections.abc import Coroutine, Mapping
from random import Random
from typing import Any, TypeVar

from bench.simulation.agenda import Agenda
from bench.simulation.ledger import Ledger
from bench.simulation.plan import Faults

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import ABSENT, Batch, Document, Read
from overnight.adapters.cloudflare.owners import Owners
from overnight.domain.errors import JobNotFound
from overnight.domain.job import Job
from overnight.domain.standing import Check

T = TypeVar("T")


class Tallies:
    """Each call happens at one moment; what lies between two calls is the caller's to wait for."""

    def __init__(
        self, agenda: Agenda, ledger: Ledger, chance: Random, faults: Faults, tally: Counter[str]
    ) -> None:
        self._owners = Owners(_Documents(ledger), _Clock(agenda))
        self._chance = chance
        self._faults = faults
        self._tally = tally

    def reserve(self, job: Job, check: Check) -> None:
        """Raises what the check raises."""
        _done(self._owners.reserve(job, check))

    def follow(self, before: Job | None, after: Job, *, reserved: bool = False) -> None:
        """The note of a change is lost now and then: its writer died, or could not reach the object."""
        if self._chance.random() < self._faults.lost_note:
            self._tally["notes lost"] += 1
            return
        _done(self._owners.follow(before, after, reserved=reserved))


class _Clock:
    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda

    def now(self) -> float:
        return self._agenda.now


class _Documents:
    """The port `Documents`: the objects of owners, and of sessions what the ledger says of their jobs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._objects: dict[str, dict[str, Document]] = {}

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        if name.startswith("session:"):
            return {key: job for key in read.keys if (job := self._job(key)) is not None}
        held = self._objects.get(name, {})
        keys = [key for key in read.keys if key in held]
        for span in read.spans:
            inside = (key for key in held if key.startswith(span.prefix) and key > span.after)
            keys += sorted(inside)[: span.limit]
        return {key: held[key] for key in keys}

    async def write(self, name: str, batch: Batch) -> bool:
        held = self._objects.setdefault(name, {})
        if any((held[key].version if key in held else ABSENT) != at for key, at in batch.expect.items()):
            return False
        for key in batch.delete:
            held.pop(key, None)
        for key, body in batch.put.items():
            held[key] = Document(held[key].version + 1 if key in held else 1, body)
        return True

    def _job(self, key: str) -> Document | None:
        try:
            job = self._ledger.snapshot(key.removeprefix(codec.JOBS)).job
        except JobNotFound:
            return None
        return Document(1, codec.encode(job))


def _done(call: Coroutine[Any, Any, T]) -> T:
    """The result of a call that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    raise AssertionError("it waited")
