"""Every seam of overnight. Adapters implement these; everything else is written against them.

Contracts that hold for all of them: methods do not block the event loop; a cancelled call leaves no half
write; an adapter passes the contract suite of its port in `tests/contracts/`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from overnight.domain.job import Change, Delivery, Event, Job, JobRequest, Session, Snapshot, Status
from overnight.domain.keys import ApiKey
from overnight.domain.outcome import Outcome
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
    - After a commit, watchers of the topics `job:{job_id}` are woken, and of `deliveries` if some are owed.
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
        """Events with a number above `after`, in order; empty for an unknown job."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """One ring received. `receipt` is what ack and retry take; `rung` counts deliveries of this bell."""

    job_id: str
    receipt: str
    rung: int


class Queue(Protocol):
    """The doorbell. It may ring twice, late, or for a finished job: the store is the truth.

    A bell that was received and neither acked nor retried comes again after `visibility_seconds`.
    """

    async def send(self, job_id: str, *, at: float) -> None:
        """Ring at `at` or soon after. Sending again for a job that already waits keeps the earlier time."""
        ...

    async def receive(self, *, limit: int, visibility_seconds: float, wait_seconds: float) -> Sequence[Bell]:
        """Due bells, earliest first; waits up to `wait_seconds` for the first one, then returns what there is."""
        ...

    async def ack(self, bell: Bell) -> None:
        """The bell is dealt with. A receipt that is no longer current is ignored."""
        ...

    async def retry(self, bell: Bell, *, at: float) -> None:
        """Ring again at `at`."""
        ...


class Subscription(Protocol):
    async def wait(self, seconds: float) -> bool:
        """True once the topic was announced since the last wait returned True; False after `seconds`.

        May return True for no reason. Announcements made while nobody waits are not lost.
        """
        ...


class Wakeups(Protocol):
    """Tells waiters, in this process and in others on the same data, that something was written."""

    def announce(self, *topics: str) -> None: ...

    def subscribe(self, topic: str) -> AbstractContextManager[Subscription]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArchive:
    """`size` in bytes, `sha256` in lower-case hexadecimal."""

    name: str
    size: int
    sha256: str


class ArchiveMissing(Exception):
    """There is surely no such archive. Anything less sure (a refusal, a timeout) is another error."""


class ArchiveConflict(Exception):
    """The name is taken by other bytes: archives are immutable."""


class ArchiveStore(Protocol):
    """Where archives are kept, under names like `claude-code/{session_id}/{job_id}.{attempt}.zip`."""

    async def put(self, name: str, source: Path) -> StoredArchive:
        """Durable and whole on return; never half there under its name. The same bytes again are fine.

        The source may be moved. Raises ArchiveConflict, OSError.
        """
        ...

    async def fetch(self, name: str, target: Path) -> StoredArchive:
        """Write the archive to `target`. Raises ArchiveMissing, OSError."""
        ...

    async def publish(self, name: str, alias: str) -> None:
        """Let `alias` show this archive too, replacing what it showed, atomically. Raises ArchiveMissing."""
        ...

    async def delete(self, name: str) -> None:
        """Idempotent."""
        ...

    async def names(self, prefix: str) -> Sequence[str]:
        """Sorted."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The directories of one attempt: `files` is what the agent works in, `home` its HOME.

    `transcripts` is the folder inside `home` that holds the conversation (`{session_id}.jsonl` and its
    side files).
    """

    root: Path
    files: Path
    home: Path
    transcripts: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """All that the agent needs for one attempt. `prompt` is final (a continuation has been put into words);
    `spent_usd` is what earlier attempts of the job cost."""

    job_id: str
    attempt: int
    session_id: str
    prompt: str
    request: JobRequest
    workspace: Workspace
    spent_usd: float = 0.0


class Stop(Protocol):
    """How a run is told to end. `reason` is set before `wait` returns."""

    async def wait(self) -> None: ...

    def is_set(self) -> bool: ...


class Agent(Protocol):
    @property
    def isolation(self) -> str:
        """The tier that runs are kept in, as proved at start-up."""
        ...

    @property
    def isolation_properties(self) -> Mapping[str, bool]:
        """What was measured of the tier: the name of each property, and whether it holds."""
        ...

    async def run(
        self, order: RunOrder, *, emit: Callable[[str, Mapping[str, Any]], None], stop: Stop
    ) -> Outcome:
        """Run Claude Code on the order until it ends or `stop` is set.

        - `emit(type, data)` is called for every message, in order; it does not block.
        - A run that was stopped returns `Ending.INTERRUPTED` with what it cost so far: the caller knows why.
        - When this returns or raises, no process of the run is alive. It raises only CancelledError.
        """
        ...

    async def reap(self, root: Path) -> None:
        """Kill whatever the run that last used this workspace root left alive (its worker died, or froze)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one try at a webhook: an HTTP status, or a class of failure, never a receiver's words.

    `failure` is one of dns, address_denied, tls, connect, timeout, protocol, url_refused.
    """

    status: int | None = None
    failure: str | None = None
    retry_after_seconds: float | None = None


class Webhooks(Protocol):
    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """One try. Raises nothing that a receiver or a network can cause."""
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds."""
        ...


class Entropy(Protocol):
    def job_id(self) -> str: ...

    def session_id(self) -> str: ...

    def delivery_id(self) -> str: ...

    def chance(self) -> float:
        """A random number from [0, 1)."""
        ...

    def token(self) -> str:
        """256 random bits, URL-safe."""
        ...


class Roster(Protocol):
    """Which workers are alive, as far as this machine can know."""

    def is_dead(self, worker: str) -> bool:
        """True only if it is certain: the process that held this name on this machine is gone."""
        ...
