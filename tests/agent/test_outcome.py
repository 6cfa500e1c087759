"""The table from what was seen of a run to its outcome (facts: claude-code 8)."""

import dataclasses
import errno
from typing import Any

import msgspec
import pytest
from claude_agent_sdk import (
    CLIConnectionError,
    CLIJSONDecodeError,
    CLINotFoundError,
    ProcessError,
    RateLimitEvent,
    RateLimitInfo,
    ResultMessage,
    SystemMessage,
)

from overnight.agent.counted import Counted
from overnight.agent.outcome import RESULT_LIMIT, Record, code_of_status, outcome_of
from overnight.agent.prices import Metered
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Usage
from overnight.domain.outcome import Ending, Outcome


def result(**fields: Any) -> ResultMessage:
    given: dict[str, Any] = {
        "subtype": "success",
        "duration_ms": 1,
        "duration_api_ms": 1,
        "is_error": False,
        "num_turns": 3,
        "session_id": "s",
        "total_cost_usd": 0.5,
        "usage": {"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 7},
    }
    return ResultMessage(**(given | fields))


def api_failure(status: int | None, text: str = "API Error", **fields: Any) -> ResultMessage:
    return result(is_error=True, result=text, api_error_status=status, terminal_reason="api_error", **fields)


def judge(*messages: Any, stopped: bool = False, wants_structure: bool = False, **record: Any) -> Outcome:
    seen = Record(**record)
    for message in messages:
        seen.note(message)
    return outcome_of(seen, stopped=stopped, wants_structure=wants_structure)


def test_only_a_result_without_an_error_is_done() -> None:
    outcome = judge(result(result="fine"))
    assert outcome == Outcome(
        ending=Ending.DONE,
        result="fine",
        num_turns=3,
        cost_usd=0.5,
        usage=Usage(input_tokens=10, output_tokens=2, cache_read_input_tokens=7),
    )


FAILED_RESULTS = [
    (api_failure(400), ErrorCode.INVALID_REQUEST),
    (api_failure(400, "prompt is too long: 9 tokens > 8 maximum"), ErrorCode.PROMPT_TOO_LONG),
    (api_failure(401), ErrorCode.AUTHENTICATION),
    (api_failure(402), ErrorCode.PERMISSION),
    (api_failure(403), ErrorCode.PERMISSION),
    (api_failure(404), ErrorCode.MODEL_NOT_FOUND),
    (api_failure(413), ErrorCode.PROMPT_TOO_LONG),
    (api_failure(418), ErrorCode.INVALID_REQUEST),
    (api_failure(429), ErrorCode.RATE_LIMITED),
    (api_failure(500), ErrorCode.API_ERROR),
    (api_failure(502), ErrorCode.API_ERROR),
    (api_failure(503), ErrorCode.OVERLOADED),
    (api_failure(529), ErrorCode.OVERLOADED),
    (api_failure(None, "Connection error. ECONNREFUSED"), ErrorCode.API_UNREACHABLE),
    (api_failure(None, "getaddrinfo ENOTFOUND api"), ErrorCode.API_UNREACHABLE),
    (api_failure(None, "empty or malformed response"), ErrorCode.API_ERROR),
    (api_failure(None, "Request timed out"), ErrorCode.API_ERROR),
    (
        result(is_error=True, result="Prompt is too long", terminal_reason="blocking_limit"),
        ErrorCode.PROMPT_TOO_LONG,
    ),
    (result(is_error=True, result="Not logged in · Please run /login"), ErrorCode.AUTHENTICATION),
    (result(is_error=True, subtype="error_max_turns"), ErrorCode.MAX_TURNS),
    (result(is_error=True, subtype="error_max_budget_usd"), ErrorCode.BUDGET_EXCEEDED),
    (
        result(is_error=True, subtype="error_max_structured_output_retries"),
        ErrorCode.STRUCTURED_OUTPUT_MISSING,
    ),
    (result(is_error=True, subtype="error_during_execution"), ErrorCode.AGENT_CRASHED),
    (result(is_error=False, subtype="error_max_turns"), ErrorCode.MAX_TURNS),
]


@pytest.mark.parametrize(("message", "code"), FAILED_RESULTS)
def test_failed_results(message: ResultMessage, code: ErrorCode) -> None:
    outcome = judge(message)
    assert (outcome.ending, outcome.code) == (Ending.FAILED, code)
    assert outcome.cost_usd == 0.5, "a failure has its price too"
    assert outcome.message


def too_large() -> CLIConnectionError:
    error = CLIConnectionError("Failed to start Claude Code")
    error.__cause__ = OSError(errno.E2BIG, "Argument list too long")
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProcessError("died", exit_code=137), ErrorCode.AGENT_CRASHED),
        (CLINotFoundError(), ErrorCode.AGENT_NOT_STARTED),
        (CLIConnectionError("no directory"), ErrorCode.AGENT_NOT_STARTED),
        (Exception("Control request timeout: initialize"), ErrorCode.AGENT_NOT_STARTED),
        (CLIJSONDecodeError("{", ValueError("x")), ErrorCode.OUTPUT_TOO_LARGE),
        (too_large(), ErrorCode.INVALID_REQUEST),
        (None, ErrorCode.NO_RESULT),
    ],
)
def test_failures_without_a_result(error: Exception | None, code: ErrorCode) -> None:
    assert judge(error=error).code is code


def test_structured_output_is_missing_only_where_it_was_asked_for() -> None:
    assert judge(result(), wants_structure=True).code is ErrorCode.STRUCTURED_OUTPUT_MISSING
    assert judge(result(structured_output=[]), wants_structure=True).ending is Ending.DONE
    assert judge(result()).ending is Ending.DONE


@pytest.mark.parametrize(
    "large", [{"result": "x" * RESULT_LIMIT}, {"structured_output": ["é" * RESULT_LIMIT]}]
)
def test_a_result_that_no_ledger_could_take_is_no_result(large: dict[str, Any]) -> None:
    """It could not be written, and a finished run that cannot be written is run again."""
    outcome = judge(result(**large))
    assert (outcome.code, outcome.cost_usd) == (ErrorCode.OUTPUT_TOO_LARGE, 0.5)
    assert judge(result(result="\ud800" + "é" * (RESULT_LIMIT // 2 - 20))).ending is Ending.DONE


def test_a_refused_key_is_known_at_the_first_retry() -> None:
    retry = SystemMessage(subtype="api_retry", data={"error_status": 401, "attempt": 1})
    assert judge(retry).code is ErrorCode.AUTHENTICATION
    other = SystemMessage(subtype="api_retry", data={"error_status": 529, "attempt": 1})
    assert judge(other).code is ErrorCode.NO_RESULT


def test_a_stopped_run_is_interrupted_whatever_it_died_of() -> None:
    aborted = result(is_error=True, subtype="error_during_execution", terminal_reason="aborted_tools")
    assert judge(aborted, stopped=True).ending is Ending.INTERRUPTED
    assert judge(aborted, stopped=True).cost_usd == 0.5
    assert judge(stopped=True, error=ProcessError("killed", exit_code=-9)).ending is Ending.INTERRUPTED


def test_work_that_was_done_before_the_stop_took_effect_counts() -> None:
    assert judge(result(result="done"), stopped=True).ending is Ending.DONE


def test_when_a_rate_limit_is_over() -> None:
    limit = RateLimitEvent(
        rate_limit_info=RateLimitInfo(status="rejected", resets_at=1_800_000_000), uuid="u", session_id="s"
    )
    assert judge(limit, api_failure(429)).resume_at == 1_800_000_000.0
    assert judge(limit, api_failure(529)).resume_at is None, "only a rate limit is waited for"
    assert judge(api_failure(429), resets_at=5.0).resume_at == 5.0
    allowed = dataclasses.replace(
        limit, rate_limit_info=RateLimitInfo(status="allowed", resets_at=1_800_009_000)
    )
    assert judge(allowed, api_failure(429)).resume_at is None, "another limit was meant"
    assert judge(limit, allowed, api_failure(429)).resume_at is None


def test_what_the_gateway_saw_beats_its_own_answer() -> None:
    assert judge(api_failure(502), unreachable=True).code is ErrorCode.API_UNREACHABLE


def test_without_a_result_usage_and_cost_are_those_that_the_gateway_counted() -> None:
    counted = Metered(Usage(output_tokens=6), 0.25)
    outcome = judge(stopped=True, metered=counted)
    assert outcome.usage == Usage(output_tokens=6)
    assert outcome.cost_usd == 0.25
    assert judge(result(), metered=counted).cost_usd == 0.5, "its own total counts"


@pytest.mark.parametrize("cut", [{"stopped": True}, {"over_budget": True}])
@pytest.mark.parametrize(("total", "cost"), [(1.0, 0.25), (1.5, 0.5)])
def test_of_a_run_that_was_cut_short_the_larger_count_is_believed(
    cut: dict[str, bool], total: float, cost: float
) -> None:
    aborted = result(is_error=True, subtype="error_during_execution", total_cost_usd=total)
    outcome = judge(aborted, counted=Counted(1.0), metered=Metered(Usage(output_tokens=6), 0.25), **cut)
    assert outcome.cost_usd == cost


@pytest.mark.parametrize(("least", "cost"), [(0.75, 0.75), (0.0, 0.5)])
def test_what_the_gateway_counted_is_charged_where_that_is_more_and_its_price_is_known(
    least: float, cost: float
) -> None:
    """Calls of the agent's own programs are in no total, and the total lies where the agent can write."""
    counted = Metered(Usage(), 9.0, least)
    for over_budget in (False, True):  # it ended well all the same
        assert judge(result(total_cost_usd=0.5), metered=counted, over_budget=over_budget).cost_usd == cost


ODD = [
    {"total_cost_usd": float("nan")},
    {"total_cost_usd": -1.0},
    {"total_cost_usd": "0"},
    {"num_turns": "3"},
    {"num_turns": 1 << 80},
    {"is_error": "false"},
    {"usage": [1]},
    {"result": {"text": "x"}},
    {"errors": "none"},
    {"api_error_status": "529"},
    {"permission_denials": 7},
    {"terminal_reason": "x" * 1000},
]


@pytest.mark.parametrize("fields", ODD)
def test_a_result_in_another_form_is_none(fields: dict[str, Any]) -> None:
    """A ledger with such a number or text in it could not be read any more."""
    record = Record()
    with pytest.raises(msgspec.ValidationError):
        record.note(result(**fields))
    assert record.result is None


@pytest.mark.parametrize("junk", [-5, True, 1 << 80, 1.5, "7"])
def test_what_is_no_number_of_tokens_is_not_added_up(junk: Any) -> None:
    assert judge(result(usage={"input_tokens": junk, "output_tokens": 2})).usage == Usage(output_tokens=2)


def test_of_a_long_line_of_error_output_little_is_kept() -> None:
    record = Record(error=ProcessError("died", exit_code=1))
    record.hear("x" * 1_000_000)
    assert len(record.stderr[0]) < 1_000


def test_a_run_costs_what_it_added_to_the_total_of_the_conversation() -> None:
    assert judge(result(total_cost_usd=0.75), counted=Counted(0.5)).cost_usd == 0.25
    assert judge(result(total_cost_usd=0.2), counted=Counted(0.5)).cost_usd == 0.2, "it had to begin anew"


def test_what_is_over_budget_is_not_tried_again_whatever_else_happened() -> None:
    for seen in (
        {"error": ProcessError("died", exit_code=1)},
        {"stopped": True},
        {"result": api_failure(429)},
        {"rejected": True},
    ):
        assert judge(over_budget=True, **seen).code is ErrorCode.BUDGET_EXCEEDED
    assert judge(result(), over_budget=True).ending is Ending.DONE, "the work is done and paid for"


@pytest.mark.parametrize(
    "seen",
    [
        Record(result=result(is_error=True, errors=["No conversation found with session ID: x"])),
        Record(stderr=Record().stderr.__class__(["No conversation found with session ID: x"])),
        Record(
            error=Exception("Claude Code returned an error result: No conversation found with session ID")
        ),
    ],
)
def test_a_missing_conversation_is_known(seen: Record) -> None:
    assert seen.conversation_missing
    assert not Record(error=Exception("other")).conversation_missing
    seen.has_spoken = True
    assert not seen.conversation_missing, "the agent was at work: the words may be its own"


def test_every_status_has_a_code() -> None:
    assert {code_of_status(status) for status in range(400, 600)} == {
        ErrorCode.AUTHENTICATION,
        ErrorCode.PERMISSION,
        ErrorCode.MODEL_NOT_FOUND,
        ErrorCode.PROMPT_TOO_LONG,
        ErrorCode.RATE_LIMITED,
        ErrorCode.OVERLOADED,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.API_ERROR,
    }
