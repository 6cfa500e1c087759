"""The limits of a key while its jobs run, with the real service and the real Claude Code."""

from datetime import datetime

import pytest
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e

DEAR = "rehearsal: usage 0 1000000"  # 20 dollars of the default model


async def test_a_run_stops_at_the_budget_of_its_owners_day_and_goes_on_tomorrow(service: Service) -> None:
    await service.use_key("--owner", "alice", "--daily-budget-usd", "15")
    job = await service.submit(f"spend\n{DEAR}\nrehearsal: bash true\nrehearsal: answer no")

    stopped = await service.until_event(job["job_id"], "job.over_daily_budget", seconds=40)

    assert stopped["data"]["code"] == "daily_budget_exceeded"
    assert "$15 a day" in stopped["data"]["message"]
    shown = await service.job(job["job_id"])
    assert (shown["status"], shown["waiting_for"]) == ("queued", "budget")
    assert shown["available_at"].split("T")[1].startswith("00:00:")
    assert shown["cost_usd"] >= 15.0


async def test_a_run_cannot_ask_for_a_model_that_its_key_does_not_name(service: Service) -> None:
    await service.use_key("--owner", "alice", "--model", "sonnet")
    ask = (
        "curl -s -o /dev/null -w 'status=%{http_code}' -H \"x-api-key: $ANTHROPIC_API_KEY\" "
        '-d \'{"model": "claude-opus-5-5", "max_tokens": 9}\' "$ANTHROPIC_BASE_URL/v1/messages"'
    )
    job = await service.submit(f"x\nrehearsal: bash {ask}\nrehearsal: answer ok")
    assert (await service.finished(job["job_id"]))["result"] == "ok"
    tools = [
        event["data"] for event in await service.events(job["job_id"]) if event["type"] == "tool.finished"
    ]
    assert "status=403" in str(tools)


async def test_a_job_over_the_running_limit_waits_for_the_other_to_end(service: Service) -> None:
    await service.use_key("--owner", "alice", "--max-running", "1")
    first = await service.submit("x\nrehearsal: bash tail -f /dev/null")
    await service.until_event(first["job_id"], "tool.started")
    second = await service.submit("x\nrehearsal: answer ok")
    await service.when(second["job_id"], lambda job: job["waiting_for"] == "owner_limit")
    await service.call("POST", f"/jobs/{first['job_id']}/cancel")
    ended, started = await service.finished(first["job_id"]), await service.finished(second["job_id"])
    assert (ended["status"], started["result"]) == ("cancelled", "ok")
    assert seconds(started["started_at"]) - seconds(ended["completed_at"]) < 5, "it was woken, not polled"


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
