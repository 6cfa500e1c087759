"""Why a job failed (`ErrorCode`, a closed list) and why a change was refused (`Refused` and its kinds).

Refused
├── JobNotFound          no such job
├── SessionNotFound      no such session
├── SessionExists        an archive was uploaded for a session that is already there
├── SessionBusy          an earlier job of the session is still open
├── NotRunnable          the job is not waiting to run (running, or finished)
├── TooEarly             the job waits for a time that has not come
├── StaleAttempt         a newer attempt has the job, or it is finished: the caller must stop
├── CancelRequested      the attempt wanted to go back to the queue, but the job is to be cancelled
├── NotRetryable         only a failed job can be sent again
├── LineFull             the session has as many waiting jobs as it may have
├── IdempotencyConflict  the key was used before with another body
├── DeliveryNotFound     no such delivery
├── KeyNotFound          no such API key
├── RotationUnderWay     the key has as many live webhook secrets as it may have
├── TooManyJobs          the owner has as many waiting jobs as its key allows
├── OwnerBusy            the owner has as many running jobs as its key allows
├── RoomToRun            a job was to be held by a limit that holds it no longer
├── BudgetExhausted      the owner has spent what its key allows for the day
└── QueueFull            the service has as many waiting jobs as it may have
"""

from dataclasses import dataclass
from enum import StrEnum


class Refused(Exception):
    """A rule said no. Nothing was written."""


class JobNotFound(Refused):
    pass


class SessionNotFound(Refused):
    pass


class SessionExists(Refused):
    pass


class SessionBusy(Refused):
    pass


class NotRunnable(Refused):
    pass


class TooEarly(Refused):
    def __init__(self, available_at: float) -> None:
        super().__init__("the job waits for a time that has not come")
        self.available_at = available_at


class StaleAttempt(Refused):
    pass


class CancelRequested(Refused):
    pass


class NotRetryable(Refused):
    pass


class LineFull(Refused):
    pass


class IdempotencyConflict(Refused):
    pass


class DeliveryNotFound(Refused):
    pass


class KeyNotFound(Refused):
    pass


class RotationUnderWay(Refused):
    pass


class TooManyJobs(Refused):
    pass


class OwnerBusy(Refused):
    def __init__(self, wait_seconds: float) -> None:
        super().__init__("the owner has as many running jobs as its key allows")
        self.wait_seconds = wait_seconds


class RoomToRun(Refused):
    pass


class BudgetExhausted(Refused):
    def __init__(self, wait_seconds: float) -> None:
        super().__init__("the owner has spent what its key allows for the day")
        self.wait_seconds = wait_seconds


class QueueFull(Refused):
    pass


class ErrorCode(StrEnum):
    """Every reason that a job can have failed for. Clients must accept ones they do not know."""

    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    INVALID_REQUEST = "invalid_request"
    MODEL_NOT_FOUND = "model_not_found"
    PROMPT_TOO_LONG = "prompt_too_long"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    API_ERROR = "api_error"
    API_UNREACHABLE = "api_unreachable"
    AGENT_CRASHED = "agent_crashed"
    AGENT_NOT_STARTED = "agent_not_started"
    OUTPUT_TOO_LARGE = "output_too_large"
    NO_RESULT = "no_result"
    STRUCTURED_OUTPUT_MISSING = "structured_output_missing"
    MAX_TURNS = "max_turns"
    BUDGET_EXCEEDED = "budget_exceeded"
    DAILY_BUDGET_EXCEEDED = "daily_budget_exceeded"
    TIMEOUT = "timeout"
    SESSION_UNAVAILABLE = "session_unavailable"
    ARCHIVE_REFUSED = "archive_refused"
    STORAGE = "storage"
    WORKER_LOST = "worker_lost"
    UNDELIVERED = "undelivered"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """What the caller is told. `message` says what happened, what was kept and what to do next."""

    code: ErrorCode
    message: str
    retryable: bool
