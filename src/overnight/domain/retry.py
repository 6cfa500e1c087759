"""Which failures are tried again, when, and how often: one table and one function.

The table follows what was measured of Claude Code (facts: claude-code 8). A failure is
- TRANSIENT: tried again after a delay that grows, as often as there are delays;
- LATER: a rate limit, or the owner's budget of the day; the job waits until it is over, and that costs no retry;
- PERMANENT: another try would fail in the same way, or the budget of time, turns or money is used up.
"""

from dataclasses import dataclass
from enum import StrEnum

from overnight.domain.errors import ErrorCode
from overnight.domain.job import Job
from overnight.domain.standing import next_day


class Failure(StrEnum):
    TRANSIENT = "transient"
    LATER = "later"
    PERMANENT = "permanent"


FAILURES: dict[ErrorCode, Failure] = {
    ErrorCode.AUTHENTICATION: Failure.PERMANENT,
    ErrorCode.PERMISSION: Failure.PERMANENT,
    ErrorCode.INVALID_REQUEST: Failure.PERMANENT,
    ErrorCode.MODEL_NOT_FOUND: Failure.PERMANENT,
    ErrorCode.PROMPT_TOO_LONG: Failure.PERMANENT,
    ErrorCode.RATE_LIMITED: Failure.LATER,
    ErrorCode.OVERLOADED: Failure.TRANSIENT,
    ErrorCode.API_ERROR: Failure.TRANSIENT,
    ErrorCode.API_UNREACHABLE: Failure.TRANSIENT,
    ErrorCode.AGENT_CRASHED: Failure.TRANSIENT,
    ErrorCode.AGENT_NOT_STARTED: Failure.TRANSIENT,
    ErrorCode.OUTPUT_TOO_LARGE: Failure.PERMANENT,
    ErrorCode.NO_RESULT: Failure.TRANSIENT,
    ErrorCode.STRUCTURED_OUTPUT_MISSING: Failure.PERMANENT,
    ErrorCode.MAX_TURNS: Failure.PERMANENT,
    ErrorCode.BUDGET_EXCEEDED: Failure.PERMANENT,
    ErrorCode.DAILY_BUDGET_EXCEEDED: Failure.LATER,
    ErrorCode.TIMEOUT: Failure.PERMANENT,
    ErrorCode.SESSION_UNAVAILABLE: Failure.PERMANENT,
    ErrorCode.ARCHIVE_REFUSED: Failure.PERMANENT,
    ErrorCode.STORAGE: Failure.TRANSIENT,
    ErrorCode.WORKER_LOST: Failure.TRANSIENT,
    ErrorCode.UNDELIVERED: Failure.TRANSIENT,
    ErrorCode.INTERNAL: Failure.TRANSIENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`delays` are the seconds before the 1st, 2nd, ... retry, so their number is the number of retries.

    `jitter` spreads each by that share both ways. `max_losses` is how many workers may die under a job: a
    death is seldom the job's fault, but a job that takes its worker down with it must end too.
    `rate_limit_patience` is how long after its acceptance, or after it was sent again, a job may still be parked on a
    rate limit or on the budget of its owner's day.
    """

    delays: tuple[float, ...] = (10.0, 60.0, 300.0)
    jitter: float = 0.2
    max_losses: int = 10
    rate_limit_first_wait: float = 60.0
    rate_limit_longest_wait: float = 900.0
    rate_limit_patience: float = 7 * 86400.0


def retry_at(
    code: ErrorCode,
    job: Job,
    *,
    policy: RetryPolicy,
    now: float,
    chance: float,
    resume_at: float | None = None,
) -> float | None:
    """When the job should run again after its current attempt ended with `code`; None: never.

    `chance` is a random number from [0, 1); `resume_at` is when the API said that its limit resets.
    """
    kind = FAILURES[code]
    if kind is Failure.PERMANENT:
        return None
    if code is ErrorCode.DAILY_BUDGET_EXCEEDED:
        resume_at = next_day(now)
    if kind is Failure.LATER:
        return _after_rate_limit(job, policy, now, chance, resume_at)
    used, delays = (
        (job.losses, (0.0, *policy.delays))
        if code is ErrorCode.WORKER_LOST
        else (job.failures, policy.delays)
    )
    limit = policy.max_losses if code is ErrorCode.WORKER_LOST else len(delays)
    if used >= limit:
        return None
    return now + _spread(delays[min(used, len(delays) - 1)], policy.jitter, chance)


def _after_rate_limit(
    job: Job, policy: RetryPolicy, now: float, chance: float, resume_at: float | None
) -> float | None:
    guess = min(policy.rate_limit_first_wait * 2.0 ** min(job.parks, 16), policy.rate_limit_longest_wait)
    # Never before the limit resets: the spread only adds, so that waiting jobs do not all come back at once.
    at = (
        max(resume_at, now) + 5.0 * chance
        if resume_at is not None
        else now + _spread(guess, policy.jitter, chance)
    )
    since = job.created_at if job.resent_at is None else job.resent_at
    return at if at - since <= policy.rate_limit_patience else None


def _spread(seconds: float, jitter: float, chance: float) -> float:
    return seconds * (1.0 + jitter * (2.0 * chance - 1.0))
