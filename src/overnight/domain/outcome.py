"""How one attempt ended, as a value."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from overnight.domain.errors import ErrorCode
from overnight.domain.job import Usage


class Ending(StrEnum):
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The worker had to leave (a shutdown, a deploy). It is nobody's failure and costs no retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`usage`, `num_turns` and `cost_usd` are of this attempt alone, whatever it went on from.

    `code` and `message` are set exactly when `ending` is FAILED. `resume_at` (Unix seconds) is when the API
    said that its rate limit resets.
    """

    ending: Ending
    result: str | None = None
    structured_output: Any = None
    usage: Usage = field(default_factory=Usage)
    num_turns: int = 0
    cost_usd: float = 0.0
    code: ErrorCode | None = None
    message: str | None = None
    resume_at: float | None = None


def failed(code: ErrorCode, message: str) -> Outcome:
    return Outcome(ending=Ending.FAILED, code=code, message=message)
