"""What one worker still has to do: the webhooks of the jobs that it finished, or whose bells it answered.

There is no index over all sessions, so a worker that dies forgets what it owed; the ledger's alarm then rings for
the job again, and whoever answers that bell finds the debt.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from overnight.domain.job import Delivery, DeliveryStatus, Job, Session, Snapshot, Status
from overnight.ports import Bell, JobStore, Page, Queue, StorageError, StorageFailed, Wakeups

AGAIN_SECONDS = 60.0
"""Until a delivery is told again that nobody has noted since: the ledger failed, or another worker has reserved it for
this long."""


class OwnIndex:
    """The port `JobIndex` of one worker: it lists nothing, and knows the deliveries that it was told of."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._told: set[str] = set()

    def note(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._told.discard(delivery.delivery_id)
            if delivery.status is DeliveryStatus.OWED:
                self._due[delivery.delivery_id] = delivery.next_at
            else:
                self._due.pop(delivery.delivery_id, None)

    async def due_deliveries(self, *, now: float, limit: int) -> Sequence[str]:
        """Each is told twice, with a pause: who reserves it notes it anew. What another worker has, or nobody could
        take, is then the alarm's, and not asked about for ever."""
        due = sorted((at, delivery_id) for delivery_id, at in self._due.items() if at <= now)[:limit]
        for _, delivery_id in due:
            self._put_off(delivery_id, now + AGAIN_SECONDS)
        return [delivery_id for _, delivery_id in due]

    def _put_off(self, delivery_id: str, at: float) -> None:
        if delivery_id in self._told:
            self._told.remove(delivery_id)
            del self._due[delivery_id]
        else:
            self._told.add(delivery_id)
            self._due[delivery_id] = at

    async def next_delivery_at(self) -> float | None:
        return min(self._due.values(), default=None)

    async def running(self) -> Sequence[Job]:
        """None: lost leases are the alarm's."""
        return []

    async def runnable(self, *, now: float, limit: int) -> Sequence[str]:
        """None: lost bells are the alarm's."""
        return []

    async def erasing(self) -> Sequence[str]:
        return []

    async def counts(self) -> Mapping[Status, int]:
        return {}

    async def jobs(
        self,
        *,
        statuses: Sequence[Status] = (),
        session_id: str | None = None,
        owner: str | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> Page[Snapshot]:
        raise StorageFailed("A ledger keeps no list of jobs.")

    async def sessions(
        self, *, owner: str | None = None, limit: int = 20, before: str | None = None
    ) -> Page[Session]:
        raise StorageFailed("A ledger keeps no list of sessions.")


class Ringing(Protocol):
    async def __call__(self, job_id: str, *, at: float) -> None: ...


class DebtQueue:
    """The port `Queue`: the edge rings, and whoever answers a bell looks whether its job owes a webhook."""

    def __init__(
        self, queue: Queue, ring: Ringing, store: JobStore, index: OwnIndex, wakeups: Wakeups
    ) -> None:
        self._queue = queue
        self._store = store
        self._index = index
        self._wakeups = wakeups
        self.send = ring
        self.receive = queue.receive
        self.retry = queue.retry

    async def ack(self, bell: Bell) -> None:
        await self._queue.ack(bell)
        try:
            self._index.note(await self._store.deliveries(bell.job_id))
        except StorageError:
            return  # the alarm rings again
        if await self._index.next_delivery_at() is not None:
            self._wakeups.announce("deliveries")
