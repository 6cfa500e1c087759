"""What the service answers, typed. Fields that a newer service adds are ignored."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from msgspec import Struct, field

FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})
TERMINAL_EVENTS = frozenset({"job.completed", "job.failed", "job.cancelled"})


class JobOptions(TypedDict, total=False):
    """How a job is to be run; all optional. Durations are in seconds, money in US dollars."""

    callback_url: str | None
    model: str | None
    max_turns: int | None
    max_budget_usd: float | None
    timeout_seconds: float | None
    append_system_prompt: str | None
    allowed_tools: list[str] | None
    disallowed_tools: list[str] | None
    output_schema: dict[str, Any] | None
    metadata: dict[str, str] | None


class Submitted(Struct, frozen=True, kw_only=True):
    """`replayed`: the idempotency key was known, and this is the job that was made for it."""

    job_id: str
    session_id: str
    status: str
    message: str = ""
    replayed: bool = False


class JobError(Struct, frozen=True, kw_only=True):
    """`code` comes from a list that grows: be ready for one you do not know."""

    code: str
    message: str
    retryable: bool = False


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens, all attempts together."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class Job(Struct, frozen=True, kw_only=True):
    """One prompt and what became of it. Listings leave out `result` and `structured_output`."""

    job_id: str
    session_id: str
    status: str
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    available_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    waiting_for: str | None = None
    queue_position: int | None = None
    attempt: int = 0
    result: str | None = None
    structured_output: Any = None
    error: JobError | None = None
    usage: Usage = Usage()
    cost_usd: float = 0.0
    num_turns: int = 0
    isolation: str | None = None
    isolation_properties: dict[str, bool] = field(default_factory=dict)
    archive: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    owner: str = ""

    @property
    def final(self) -> bool:
        return self.status in FINAL_STATUSES


class Event(Struct, frozen=True, kw_only=True):
    """One numbered fact about a job; `seq` starts at 1 and has no gaps."""

    seq: int
    type: str
    time: datetime
    job_id: str
    session_id: str
    attempt: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


class Archive(Struct, frozen=True, kw_only=True):
    """`size` in bytes, `sha256` in lower-case hexadecimal."""

    name: str
    size: int
    sha256: str
    origin: str | None = None


class Session(Struct, frozen=True, kw_only=True):
    """A conversation and its files. `line` holds the open jobs in the order they will run."""

    session_id: str
    created_at: datetime
    updated_at: datetime | None = None
    jobs: int = 0
    line: list[str] = field(default_factory=list)
    cost_usd: float = 0.0
    archive: Archive | None = None
    owner: str = ""


class Health(Struct, frozen=True, kw_only=True):
    service: str
    version: str = ""
    status: str = ""
