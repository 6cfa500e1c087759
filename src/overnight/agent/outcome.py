"""What a run came to: one pure function from what was seen of it to an Outcome.

The table follows what was measured of Claude Code (facts: claude-code 8). Which failure is tried again is not
decided here but in `domain/retry.py`.
"""

import errno
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from claude_agent_sdk import (
    AssistantMessage,
    CLIConnectionError,
    CLIJSONDecodeError,
    ProcessError,
    RateLimitEvent,
    ResultMessage,
    SystemMessage,
)

from overnight.agent.counted import Counted
from overnight.agent.prices import Metered, usage_of
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Usage
from overnight.domain.outcome import Ending, Outcome, failed

KEPT = "The files and the conversation are kept as they were left."
DETAIL_LIMIT = 400
"""Characters of what the API or the CLI said that go into a message."""
STDERR_LINES = 20
RESULT_LIMIT = 5_000_000
"""Bytes of what a run answers, as JSON. A model writes a tenth of it; but an agent that is the same user as Claude
Code can say anything in its place. The ledger of an edge takes no document over 16 MB, and what blanking puts in the
place of secrets may be longer than they were; a run whose end cannot be written would be run, and paid for, again."""


_Word = Annotated[str, msgspec.Meta(max_length=100)]


class _Result(msgspec.Struct):
    """What of a result is relied on, in the only form that goes into the ledger."""

    subtype: _Word
    is_error: bool
    num_turns: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    total_cost_usd: Annotated[float, msgspec.Meta(ge=0, lt=1e9)] | None
    usage: dict[str, Any] | None
    result: str | None
    errors: list[str] | None
    api_error_status: int | None
    terminal_reason: _Word | None
    permission_denials: list[Any] | None


@dataclass(slots=True)
class Record:
    """What was seen of a run. The gateway, which sees the API, says whether it was `unreachable`, when a rate
    limit `resets_at`, what was `metered`, whether that was `over_budget`, and the budget of the owner's day if it
    was that one (`over_daily_usd`). `broken` is what went wrong in the service itself. `counted` is what Claude
    Code's total began with."""

    counted: Counted = field(default_factory=Counted)
    result: ResultMessage | None = None
    error: Exception | None = None
    broken: Exception | None = None
    rejected: bool = False
    unreachable: bool = False
    resets_at: float | None = None
    metered: Metered = field(default_factory=Metered)
    over_budget: bool = False
    over_daily_usd: float | None = None
    stderr: deque[str] = field(default_factory=lambda: deque(maxlen=STDERR_LINES))
    has_spoken: bool = False

    def note(self, message: Any) -> None:
        """Raises ValueError for a result in another form than Claude Code's: an agent that is no user of its own can
        write to where it talks to us."""
        match message:
            case ResultMessage():
                msgspec.convert(message, _Result, from_attributes=True)
                self.result = message
            case SystemMessage(subtype="api_retry"):
                # Claude Code would try a refused key ten times, for three minutes.
                self.rejected = self.rejected or message.data.get("error_status") == 401
            case RateLimitEvent(rate_limit_info=limit):
                # It also tells of limits that are not reached, and those may be hours away.
                at = limit.resets_at if limit.status == "rejected" else None
                self.resets_at = None if at is None else float(at)
            case AssistantMessage(message_id=str()):
                self.has_spoken = True
            case _:
                pass

    def hear(self, line: str) -> None:
        """One of its error output. It may be as long as a message."""
        self.stderr.append(line[:DETAIL_LIMIT])

    @property
    def conversation_missing(self) -> bool:
        """The CLI was to resume a conversation of which it has nothing (it died before it wrote a line).

        Only before anything was said: later, the same words could come from the agent.
        """
        result = self.result
        if self.has_spoken or (result is not None and not result.is_error):
            return False
        said = [*((result.errors or ()) if result else ()), *self.stderr, str(self.error or "")]
        return any("No conversation found" in text for text in said)


def outcome_of(record: Record, *, stopped: bool, wants_structure: bool) -> Outcome:
    bare = _bare_outcome(record, stopped=stopped, wants_structure=wants_structure)
    result = record.result
    return Outcome(
        ending=bare.ending,
        result=bare.result,
        structured_output=bare.structured_output,
        code=bare.code,
        message=bare.message,
        resume_at=record.resets_at if bare.code is ErrorCode.RATE_LIMITED else None,
        usage=_usage_so_far(record),
        num_turns=result.num_turns if result else 0,
        cost_usd=_cost(record, is_cut=bare.ending is not Ending.DONE and (stopped or record.over_budget)),
    )


def _bare_outcome(record: Record, *, stopped: bool, wants_structure: bool) -> Outcome:
    result = record.result
    if result is not None and not result.is_error and result.subtype == "success":
        # Also if it was told to stop in its last moment: work that is done and paid for counts.
        return _done(result, wants_structure)
    if record.over_budget:
        return _over_budget() if record.over_daily_usd is None else _over_daily_budget(record.over_daily_usd)
    if stopped:
        return Outcome(ending=Ending.INTERRUPTED)
    if record.rejected:
        return _refused_key()
    if result is not None:
        return _failed_result(result, record)
    if record.broken is not None:
        return failed(
            ErrorCode.INTERNAL,
            f"The service could not follow the run ({type(record.broken).__name__}). {KEPT} It is tried again; the "
            "log of the service says more.",
        )
    if record.error is not None:
        return _failed_process(record.error, record)
    return failed(
        ErrorCode.NO_RESULT,
        f"Claude Code ended without a result. {KEPT} {_last_words(record)}It is tried again; "
        "if that does not help, look at the events of the job.",
    )


def _done(result: ResultMessage, wants_structure: bool) -> Outcome:
    answer = json.dumps([result.result, result.structured_output], ensure_ascii=False)
    if len(answer.encode(errors="replace")) > RESULT_LIMIT:
        return _too_large(f"The result of the run is over {RESULT_LIMIT // 1_000_000} MB. {KEPT} ")
    if wants_structure and result.structured_output is None:
        return failed(
            ErrorCode.STRUCTURED_OUTPUT_MISSING,
            f"Claude Code finished, but without output in the form of output_schema. {KEPT} "
            "Make the schema simpler, or ask for the output in a next job of the session.",
        )
    return Outcome(ending=Ending.DONE, result=result.result or "", structured_output=result.structured_output)


def _failed_result(result: ResultMessage, record: Record) -> Outcome:
    said = _said(result)
    if result.subtype == "error_max_turns":
        return failed(
            ErrorCode.MAX_TURNS,
            f"Claude Code used up its turns (max_turns). {KEPT} Go on with a next job of the session.",
        )
    if result.subtype == "error_max_budget_usd":
        return _over_budget()
    if result.subtype == "error_max_structured_output_retries":
        return _done(result, wants_structure=True)
    if "prompt is too long" in said.lower():
        return _api_failure(413, said)
    if "not logged in" in said.lower():
        return _refused_key()
    if record.unreachable or (result.api_error_status is None and _is_network(said)):
        return failed(
            ErrorCode.API_UNREACHABLE,
            f"The API could not be reached. {KEPT} It is tried again; check ANTHROPIC_BASE_URL and the network "
            "of the service.",
        )
    if result.api_error_status is not None:
        return _api_failure(result.api_error_status, said)
    return failed(
        ErrorCode.API_ERROR if result.terminal_reason == "api_error" else ErrorCode.AGENT_CRASHED,
        f"Claude Code ended with an error ({result.terminal_reason or result.subtype}): {said} {KEPT}",
    )


def _over_budget() -> Outcome:
    return failed(
        ErrorCode.BUDGET_EXCEEDED,
        f"The job was stopped because it used up its budget (max_budget_usd). {KEPT} "
        "Go on with a next job of the session.",
    )


def _over_daily_budget(daily_usd: float) -> Outcome:
    return failed(
        ErrorCode.DAILY_BUDGET_EXCEEDED,
        f"The job was stopped because the jobs of its owner have cost today what its API key allows (${daily_usd:g} "
        f"a day). {KEPT} The budget is whole again at 00:00 UTC, and the job goes on then.",
    )


_BY_STATUS: Mapping[int, ErrorCode] = {
    401: ErrorCode.AUTHENTICATION,
    402: ErrorCode.PERMISSION,
    403: ErrorCode.PERMISSION,
    404: ErrorCode.MODEL_NOT_FOUND,
    413: ErrorCode.PROMPT_TOO_LONG,
    429: ErrorCode.RATE_LIMITED,
    503: ErrorCode.OVERLOADED,
    529: ErrorCode.OVERLOADED,
}

_ADVICE: Mapping[ErrorCode, str] = {
    ErrorCode.AUTHENTICATION: "Give the service a valid ANTHROPIC_API_KEY, then retry the job.",
    ErrorCode.PERMISSION: "The account behind the service's key may not do this, or has no credit; ask its owner.",
    ErrorCode.MODEL_NOT_FOUND: "Choose another model: the API does not know this one, or the key may not use it.",
    ErrorCode.PROMPT_TOO_LONG: "Send a shorter prompt, or put the text into a file of the session.",
    ErrorCode.RATE_LIMITED: "The job goes on when the limit is over.",
    ErrorCode.OVERLOADED: "It is tried again.",
    ErrorCode.API_ERROR: "It is tried again.",
    ErrorCode.INVALID_REQUEST: "The same job would fail again: change what the API complains about.",
}


def code_of_status(status: int) -> ErrorCode:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ErrorCode.INVALID_REQUEST if 400 <= status < 500 else ErrorCode.API_ERROR


def _api_failure(status: int, said: str) -> Outcome:
    code = code_of_status(status)
    return failed(code, f"The API answered {status}: {said} {KEPT} {_ADVICE[code]}")


def _refused_key() -> Outcome:
    code = ErrorCode.AUTHENTICATION
    return failed(code, f"The API refused the key of the service, or it has none. {KEPT} {_ADVICE[code]}")


def _failed_process(error: Exception, record: Record) -> Outcome:
    last = _last_words(record)
    match error:
        case CLIJSONDecodeError():
            return _too_large(f"One message of Claude Code was too large to read, or broken. {KEPT} {last}")
        case ProcessError():
            exit_code = f" (exit code {error.exit_code})" if error.exit_code is not None else ""
            return failed(
                ErrorCode.AGENT_CRASHED,
                f"Claude Code ended on its own{exit_code}. {KEPT} {last}It is tried again.",
            )
        case CLIConnectionError() if (
            isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.E2BIG
        ):
            return failed(
                ErrorCode.INVALID_REQUEST,
                "The tool lists or the output_schema are too large for the agent (128 KiB each). Make them smaller.",
            )
        case _:
            return failed(
                ErrorCode.AGENT_NOT_STARTED,
                f"Claude Code could not be started or did not answer. {KEPT} {last}It is tried again; "
                "`overnight doctor` shows what is missing.",
            )


def _too_large(told: str) -> Outcome:
    return failed(ErrorCode.OUTPUT_TOO_LARGE, f"{told}Let the agent write large output to files.")


def _said(result: ResultMessage) -> str:
    text = "; ".join(result.errors or ()) or result.result or result.subtype
    return text if len(text) <= DETAIL_LIMIT else f"{text[:DETAIL_LIMIT]}..."


def _is_network(said: str) -> bool:
    return any(word in said for word in ("ECONNREFUSED", "ENOTFOUND", "ECONNRESET", "EAI_AGAIN", "ETIMEDOUT"))


def _last_words(record: Record) -> str:
    text = " | ".join(record.stderr)
    return f"Its last words: {text[-DETAIL_LIMIT:]}. " if text else ""


def _cost(record: Record, *, is_cut: bool) -> float:
    """What the run added to Claude Code's total, or what the gateway counted, if that is more: the total leaves out
    calls that were broken off and those of the agent's own programs, and an agent can make it smaller.

    What is not in the price table makes the gateway's count too high. That counts if there is no total, and for a run
    that was cut short, whose total may be nothing."""
    told = growth(record.result, record.counted) if record.result else None
    metered = record.metered
    ours = metered.cost_usd if told is None or is_cut else metered.least_usd
    return max(told or 0.0, round(ours + record.counted.unpaid, 9))


def growth(result: ResultMessage, counted: Counted) -> float | None:
    """In US dollars; None if it tells no total. One below what it began at comes of a conversation that had to begin
    anew."""
    total = result.total_cost_usd
    if total is None:
        return None
    return round(total - counted.charged if total >= counted.charged else total, 9)


def _usage_so_far(record: Record) -> Usage:
    """The larger count: a result leaves out small calls of Claude Code's own and all of the agent's, and that of an
    interrupted call is all zeros. Without a result there is only what the gateway saw."""
    if record.result is None or record.result.usage is None:
        return record.metered.usage
    told = Metered(usage_of(record.result.usage))
    return max(told, record.metered, key=lambda counted: counted.tokens).usage
