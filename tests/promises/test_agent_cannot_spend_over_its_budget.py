"""Whatever the agent does, no call passes once its budget is used up, and the run is over."""

import asyncio
import json
from typing import Any

import pytest

from overnight.agent.grants import Allowance
from overnight.domain.errors import ErrorCode

pytestmark = pytest.mark.e2e

MILLION = 1_000_000
DEAR = f"rehearsal: usage 0 {MILLION}\n"  # 20 dollars of the default model
HANG = "rehearsal: bash tail -f /dev/null\nrehearsal: answer never"

# The agent calls the API itself, beside Claude Code, which knows nothing of it and would go on.
CALL = json.dumps(
    {
        "model": "claude-opus-5-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": f"x\n{DEAR}rehearsal: answer ok"}],
    }
)
ASK = (
    "curl -s -o /dev/null -w 'status=%{http_code}\\n' -H \"x-api-key: $ANTHROPIC_API_KEY\" "
    f"-H 'content-type: application/json' -d '{CALL}' \"$ANTHROPIC_BASE_URL/v1/messages\""
)


async def test_a_run_is_stopped_in_the_middle_of_a_tool(stage: Any) -> None:
    async with stage() as it, asyncio.timeout(30):
        outcome = await it.run(f"spend\n{DEAR}{HANG}", max_budget_usd=19.0)
    assert outcome.code is ErrorCode.BUDGET_EXCEEDED
    assert outcome.usage.output_tokens >= MILLION
    assert len(it.api.bodies) == 1


async def test_the_budget_of_the_owner_counts_too(stage: Any) -> None:
    allowance = Allowance(daily_usd=45.0, budget_left=lambda _: 30.0)
    async with stage(allowance=allowance) as it, asyncio.timeout(30):
        outcome = await it.run(f"spend\n{DEAR}rehearsal: bash true\n{DEAR}{HANG}")
    assert outcome.code is ErrorCode.DAILY_BUDGET_EXCEEDED
    assert "$45 a day" in str(outcome.message)
    assert "00:00 UTC" in str(outcome.message)
    assert outcome.usage.output_tokens >= 2 * MILLION


async def test_what_earlier_attempts_have_spent_is_spent(stage: Any) -> None:
    async with stage() as it, asyncio.timeout(30):
        outcome = await it.run("x\nrehearsal: answer no", max_budget_usd=1.0, spent_usd=1.0)
    assert outcome.code is ErrorCode.BUDGET_EXCEEDED
    assert it.api.bodies == []


async def test_calls_of_the_agent_itself_are_counted(stage: Any) -> None:
    spend = f"for i in 1 2 3 4 5 6; do {ASK}; done; tail -f /dev/null"
    async with stage() as it, asyncio.timeout(30):
        outcome = await it.run(f"spend\nrehearsal: bash {spend}\nrehearsal: answer no", max_budget_usd=50.0)
    assert outcome.code is ErrorCode.BUDGET_EXCEEDED
    own = [body for body in it.api.bodies if body["max_tokens"] == 9]
    assert len(own) == 3, "the third passed 50 dollars"
    assert outcome.usage.output_tokens >= 3 * MILLION


async def test_calls_of_the_agent_itself_are_charged(stage: Any) -> None:
    async with stage() as it:
        outcome = await it.run(f"spend\nrehearsal: bash {ASK}\nrehearsal: answer ok")
    assert outcome.result == "ok"
    assert outcome.cost_usd == pytest.approx(20.0, abs=0.1)


async def test_a_model_that_is_not_allowed_cannot_be_asked(stage: Any) -> None:
    allowed = Allowance(models=frozenset({"claude-sonnet-5-5"}))
    async with stage(allowance=allowed) as it:
        outcome = await it.run(f"x\nrehearsal: bash {ASK}\nrehearsal: answer ok", model="claude-sonnet-5-5")
    assert outcome.result == "ok"
    assert "status=403" in str(it.of("tool.finished"))
    assert {body["model"] for body in it.api.bodies} == {"claude-sonnet-5-5"}


async def test_what_a_killed_cli_has_used_is_known(stage: Any) -> None:
    async with stage() as it:
        outcome = await it.run(f"x\n{DEAR}rehearsal: bash kill -9 $PPID\nrehearsal: answer no")
    assert outcome.code is ErrorCode.AGENT_CRASHED
    assert outcome.usage.output_tokens >= MILLION
    assert outcome.cost_usd == pytest.approx(20.0, abs=0.1)
