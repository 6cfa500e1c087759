"""The values that the rules are about: job, session, event, delivery, and a change to them.

All times are Unix seconds (float), all durations seconds, all money US dollars.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from overnight.domain.errors import JobError

DEFAULT_TIMEOUT_SECONDS = 1500.0  # the 25 minutes of the plan


class Status(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class WaitingFor(StrEnum):
    """Why a queued job does not run although a worker may be free."""

    SESSION = "session"
    RETRY = "retry"
    RATE_LIMIT = "rate_limit"
    OWNER_LIMIT = "owner_limit"
    """As many jobs of its owner run as the key allows."""
    BUDGET = "budget"
    """The owner's jobs have cost today what the key allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What the caller asked for. It never changes, and is kept apart from the job because it can be large."""

    prompt: str
    callback_url: str | None = None
    model: str | None = None
    max_turns: int | None = None
    max_budget_usd: float | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    append_system_prompt: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    output_schema: dict[str, Any] | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one worker to run the job until a time; it must be renewed before that."""

    worker: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of the job, all its attempts together."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_creation_input_tokens=self.cache_creation_input_tokens + other.cache_creation_input_tokens,
            cache_read_input_tokens=self.cache_read_input_tokens + other.cache_read_input_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prompt, from acceptance to one final status.

    `attempt` is the fencing token: it grows at every start and never goes back, so a write that carries an
    older one comes from a worker that has lost the job. `failures` and `losses` are what the retry limits
    count; waiting for a rate limit or being handed back by a worker that shuts down adds to neither.

    `charged_attempt` is the last one whose usage is in it; one whose worker died is not.

    `resent_at` is when it was last sent again as a dead letter.

    `owner` is its session's, "" if it came without a key. `key_id`, `max_running`, `daily_budget_usd` and `models`
    are of the key that it came with: a job keeps the limits that it was accepted under.

    `isolation` is the tier of its last attempt and `isolation_properties` what was measured of it: the name of each
    property, and whether it held.
    """

    job_id: str
    session_id: str
    status: Status
    created_at: float
    available_at: float
    callback_url: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    waiting_for: WaitingFor | None = None
    started_at: float | None = None
    completed_at: float | None = None
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    parks: int = 0
    lease: Lease | None = None
    cancel_requested_at: float | None = None
    last_event: int = 0
    result: str | None = None
    structured_output: Any = None
    error: JobError | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    charged_attempt: int = 0
    resent_at: float | None = None
    num_turns: int = 0
    isolation: str | None = None
    isolation_properties: dict[str, bool] = field(default_factory=dict)
    archive: str | None = None
    checkpoint: "Checkpoint | None" = None
    owner: str = ""
    key_id: str | None = None
    max_running: int | None = None
    daily_budget_usd: float | None = None
    models: tuple[str, ...] = ()


class Origin(StrEnum):
    """Whose archive it is: one that we packed is trusted further than one that was uploaded."""

    RUN = "run"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRef:
    """An immutable stored archive. `size` is in bytes, `sha256` in lower-case hexadecimal."""

    name: str
    size: int
    sha256: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The files and the conversation of a run that was under way, as `attempt` stored them.

    `base` names the archive that the session had then. Once the session has another one the checkpoint is void:
    going on from it would undo the jobs in between.
    """

    archive: ArchiveRef
    attempt: int
    base: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation and its files, across jobs.

    `line` holds the ids of its open jobs in the order accepted. Only the first may run: that one rule gives
    both the order within a session and one run at a time. `cost_usd` is what all attempts of its jobs have cost.
    """

    session_id: str
    created_at: float
    updated_at: float
    line: tuple[str, ...] = ()
    jobs: int = 0
    archive: ArchiveRef | None = None
    cost_usd: float = 0.0
    erased_at: float | None = None
    owner: str = ""

    @property
    def archive_name(self) -> str | None:
        return self.archive.name if self.archive else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One numbered fact about a job; numbers start at 1 and have no gaps."""

    seq: int
    type: str
    time: float
    attempt: int
    data: Mapping[str, Any]


class DeliveryStatus(StrEnum):
    OWED = "owed"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTry:
    """One try at a delivery: the HTTP status that came back, or the class of failure."""

    at: float
    status: int | None
    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One owed webhook. `body` is sent byte for byte on every try; `next_at` is when the next try is due.

    It is signed with the secrets of the key `key_id`, or with the service's own if there is none.
    """

    delivery_id: str
    job_id: str
    url: str
    body: str
    created_at: float
    next_at: float
    status: DeliveryStatus = DeliveryStatus.OWED
    tries: tuple[DeliveryTry, ...] = ()
    round: int = 0
    owner: str = ""
    key_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A bell to ring for a job, not before `at`."""

    job_id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one decision writes, in one transaction, and the bells to ring after it."""

    job: Job
    session: Session
    events: tuple[Event, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    rings: tuple[Ring, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A job and its session as one read saw them."""

    job: Job
    session: Session

    @property
    def waiting_for(self) -> WaitingFor | None:
        if self.job.status is not Status.QUEUED:
            return None
        if self.session.line and self.session.line[0] != self.job.job_id:
            return WaitingFor.SESSION
        return self.job.waiting_for

    @property
    def queue_position(self) -> int | None:
        """How many open jobs of the session are before this one; None unless it is queued."""
        if self.job.status is not Status.QUEUED or self.job.job_id not in self.session.line:
            return None
        return self.session.line.index(self.job.job_id)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What the job's next attempt can go on from."""
        found = self.job.checkpoint
        return found if found and found.base == self.session.archive_name else None
