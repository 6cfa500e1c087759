"""The mirror of statuses follows the ledger, never fails what is written there, and shows nothing of what is erased."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from bench.counted import CountedDocuments

from overnight.adapters.cloudflare.documents import Batch, Document, Read
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.mirroring import MirroredDocuments
from overnight.adapters.cloudflare.polling import PollingWakeups
from overnight.adapters.cloudflare.turns import no_turns
from overnight.adapters.system import SystemEntropy
from overnight.domain.errors import JobNotFound
from overnight.domain.job import JobRequest, Snapshot, Status
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.transitions import finish, start, submit
from overnight.ports import StorageFailed

DONE = Outcome(ending=Ending.DONE, result="forty-two")


class Clock:
    def now(self) -> float:
        return 1.0


@dataclass
class Kv:
    """The port `Shown`, which refuses as many of the next calls as it is told to."""

    entries: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    most_deleted: int = 0
    """In one write of the ledger."""
    deleted: int = 0

    async def put(self, key: str, value: str, metadata: Mapping[str, object]) -> None:
        self._take()
        assert metadata["status"] == value
        self.entries[key] = value

    async def delete(self, key: str) -> None:
        self._take()
        self.entries.pop(key, None)
        self.deleted += 1
        self.most_deleted = max(self.most_deleted, self.deleted)

    def _take(self) -> None:
        if self.refused:
            self.refused -= 1
            raise StorageFailed("one write a second")


class Objects(CountedDocuments):
    """The objects of a ledger, of which one kind cannot be read while `deaf`."""

    deaf = False

    def __init__(self, kv: Kv) -> None:
        super().__init__(Clock().now)
        self._kv = kv

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        if self.deaf and name.startswith("session:"):
            raise StorageFailed("not now")
        return await super().read(name, read)

    async def write(self, name: str, batch: Batch) -> bool:
        self._kv.deleted = 0
        return await super().write(name, batch)


@dataclass
class Front:
    """A ledger whose statuses are mirrored, and one job in it."""

    kv: Kv = field(default_factory=Kv)
    entropy: SystemEntropy = field(default_factory=SystemEntropy)

    def __post_init__(self) -> None:
        self.objects = Objects(self.kv)
        mirrored = MirroredDocuments(self.objects, self.kv, _view, Clock(), again_seconds=0.0)
        self.store = LedgerStore(mirrored, PollingWakeups(1.0), Clock(), no_turns)
        self.session_id = self.entropy.session_id()

    async def submit(self, *, continues: bool = False) -> str:
        job_id, request = self.entropy.job_id(), JobRequest(prompt="p")
        admit = submit(request, job_id=job_id, session_id=self.session_id, continues=continues, now=1.0)
        await self.store.create(self.session_id, request, admit)
        return job_id

    async def begin(self, job_id: str) -> None:
        await self.store.change(job_id, start(worker="w", now=1.0, lease_seconds=60, isolation="namespace"))

    async def end(self, job_id: str) -> None:
        decide = finish(DONE, attempt=1, now=1.0, archive=None, delivery_id=self.entropy.delivery_id())
        await self.store.change(job_id, decide)

    def shown(self, job_id: str) -> str | None:
        return self.kv.entries.get(f"status:{job_id}")


def _view(snapshot: Snapshot) -> bytes:
    return str(snapshot.job.status).encode()


@pytest.fixture
def front() -> Front:
    return Front()


async def test_a_mirror_that_fails_does_not_fail_what_was_written(front: Front) -> None:
    job_id = await front.submit()
    front.kv.refused = 100
    await front.begin(job_id)
    assert (await front.store.snapshot(job_id)).job.status is Status.PROCESSING
    assert front.shown(job_id) == "queued"


async def test_a_claim_stands_although_its_session_cannot_be_read_for_the_mirror(front: Front) -> None:
    """A start does not write the session, so the mirror reads it. The claim must not look lost to its worker."""
    job_id = await front.submit()
    deaf_after_the_write(front)
    await front.begin(job_id)
    front.objects.deaf = False
    assert (await front.store.snapshot(job_id)).job.status is Status.PROCESSING


def deaf_after_the_write(front: Front) -> None:
    write = front.objects.write

    async def writing(name: str, batch: Batch) -> bool:
        written = await write(name, batch)
        front.objects.deaf = front.objects.deaf or name.startswith("session:")
        return written

    front.objects.write = writing  # type: ignore[method-assign]


async def test_a_final_status_is_shown_at_the_second_try(front: Front) -> None:
    job_id = await front.submit()
    await front.begin(job_id)
    front.kv.refused = 1
    await front.end(job_id)
    assert front.shown(job_id) == "completed"


async def test_what_cannot_leave_the_mirror_is_not_erased_until_it_can(front: Front) -> None:
    """It would answer with the result for seven days, and nobody would know the job's name any more."""
    job_id = await front.submit()
    front.kv.refused = 1  # the status was shown less than a second ago
    await front.store.erase(front.session_id)
    assert front.shown(job_id) is None
    again = await front.submit()
    front.kv.refused = 2
    with pytest.raises(StorageFailed):
        await front.store.erase(front.session_id)
    assert front.shown(again) == "queued"
    await front.store.erase(front.session_id)
    assert front.shown(again) is None
    with pytest.raises(JobNotFound):
        await front.store.snapshot(again)


async def test_a_session_of_many_jobs_is_erased_in_writes_that_kv_takes(front: Front) -> None:
    """A thousand operations are what KV takes of one invocation."""
    jobs = [await front.submit(continues=number > 0) for number in range(600)]
    await front.store.erase(front.session_id)
    assert [front.shown(job_id) for job_id in jobs if front.shown(job_id)] == []
    assert front.kv.most_deleted <= 500
