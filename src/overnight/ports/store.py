"""The truth: jobs, sessions, events, owed deliveries, keys; and the views over all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from overnight.domain.job import Change, Delivery, Event, Job, JobRequest, Session, Snapshot, Status
from overnight.domain.keys import ApiKey
from overnight.domain.standing import Check
from overnight.domain.transitions import Admit, Decide

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """The caller's key and a fingerprint of the request it came with. Each owner has keys of its own."""

    key: str
    fingerprint: str
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """`replayed`: the key was known, so nothing was written and `change` is empty but for job and session."""

    change: Change
    replayed: bool


class StorageError(Exception):
    """The store could not do what it was asked; the message can be shown to users.

    StorageError
    ├── StorageFull      the disk is full: nothing was written, the next write may succeed
    ├── StorageBusy      another program holds the file: nothing was written, the next write may succeed
    ├── StorageFailed    the disk failed: whether it was written is unknown, and no further write is taken
    └── SchemaTooNew     the file was written by a newer version of overnight
    """


class StorageFull(StorageError):
    pass


class StorageBusy(StorageError):
    pass


class StorageFailed(StorageError):
    pass


class SchemaTooNew(StorageError):
    pass


class JobStore(Protocol):
    """The truth about jobs and sessions. `change` is an atomic read-modify-write; every rule is in `decide`.

    - All of a Change (job, session, events, deliveries) is written in one transaction, durable on return.
    - `decide` may be called more than once (compare-and-swap); it must be pure. If it raises, nothing is
      written and the exception goes on to the caller. If it returns None, nothing is written.
    - The Change that comes back holds the `rings` that are still to be sent to the queue. A store that keeps
      its queue in the same database sends them in the same transaction, and leaves none.
    - `check` is called after `decide` in the same transaction, with the job's owner as it stands before the
      change, and not at all if nothing is to be written. What it raises goes on to the caller as well.
    - Every method may raise StorageError.
    - After a commit that adds events or deliveries, watchers of the topic `job:{job_id}` are woken, and of `deliveries`
      if some are owed.
    """

    async def create(
        self,
        session_id: str,
        request: JobRequest,
        admit: Admit,
        idempotency: Idempotency | None = None,
        *,
        check: Check | None = None,
    ) -> Created:
        """Write a new job. The same key with the same fingerprint returns the first job and writes nothing.

        Raises IdempotencyConflict for the same key with another fingerprint, and whatever `admit` raises.
        """
        ...

    async def change(self, job_id: str, decide: Decide, *, check: Check | None = None) -> Change:
        """Raises JobNotFound. When nothing is to be written, the Change holds job and session as they are."""
        ...

    async def snapshot(self, job_id: str) -> Snapshot:
        """Raises JobNotFound."""
        ...

    async def request(self, job_id: str) -> JobRequest:
        """Raises JobNotFound."""
        ...

    async def events(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        """Events with a number above `after`, in order; empty for an unknown job.

        Fewer than `limit` although there are more, but at least one, if they are large.
        """
        ...

    async def session(self, session_id: str) -> Session:
        """Raises SessionNotFound, also for one that is being erased."""
        ...

    async def change_session(self, session_id: str, decide: Callable[[Session | None], Session]) -> Session:
        """The same for a session alone (an upload, the mark of erasure)."""
        ...

    async def erase(self, session_id: str) -> None:
        """Delete the session with its jobs, requests, events and deliveries. Idempotent."""
        ...

    async def deliveries(self, job_id: str) -> Sequence[Delivery]:
        """Oldest first."""
        ...

    async def change_delivery(
        self, delivery_id: str, decide: Callable[[Delivery], Delivery | None]
    ) -> Delivery | None:
        """Returns what was written, None if `decide` returned None. Raises DeliveryNotFound."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """`next` continues the listing (pass it as `before`); None at its end."""

    rows: Sequence[T]
    next: str | None


class JobIndex(Protocol):
    """What needs a view over all sessions at once. A ledger of one object per session cannot offer it."""

    async def jobs(
        self,
        *,
        statuses: Sequence[Status] = (),
        session_id: str | None = None,
        owner: str | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> Page[Snapshot]:
        """Newest first, of one owner (one that has a key) or of all. Without `result`, `structured_output`."""
        ...

    async def sessions(
        self, *, owner: str | None = None, limit: int = 20, before: str | None = None
    ) -> Page[Session]:
        """Newest first, of one owner or of all, without those that are being erased."""
        ...

    async def running(self) -> Sequence[Job]:
        """Every job in processing: the sweep looks for lapsed leases among them."""
        ...

    async def runnable(self, *, now: float, limit: int) -> Sequence[str]:
        """Ids of queued jobs that are first in their line and due: the sweep rings their bells again."""
        ...

    async def due_deliveries(self, *, now: float, limit: int) -> Sequence[str]: ...

    async def next_delivery_at(self) -> float | None:
        """When the earliest owed delivery is due."""
        ...

    async def erasing(self) -> Sequence[str]:
        """Sessions marked as erased whose rows are still there."""
        ...

    async def counts(self) -> Mapping[Status, int]:
        """How many jobs there are of each open status."""
        ...


class JobHistory(Protocol):
    """What can be forgotten. A ledger of one object per session has no view over all jobs, and does not offer it."""

    async def forget(self, *, finished_before: float, after: str | None, limit: int) -> str | None:
        """Look at the `limit` oldest jobs with an id above `after`, and delete those that `may_be_forgotten`, with all
        that there is of them, in one transaction.

        Returns where to go on (pass it as `after`); None if all further ones are too young. Watchers of the jobs
        deleted are woken.
        """
        ...


class KeyStore(Protocol):
    """The API keys. None is ever deleted: a service that has had a key never goes back to needing none."""

    async def create(self, key: ApiKey) -> bool:
        """Durable on return. False, and nothing is written, if a key has this id already."""
        ...

    async def find(self, key_id: str) -> ApiKey:
        """Raises KeyNotFound."""
        ...

    async def keys(self) -> Sequence[ApiKey]:
        """Oldest first, revoked and expired ones too."""
        ...

    async def change(self, key_id: str, decide: Callable[[ApiKey], ApiKey | None]) -> ApiKey:
        """An atomic read-modify-write, as JobStore.change. Returns the key as it is then. Raises KeyNotFound."""
        ...
