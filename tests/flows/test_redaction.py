"""What a run tells is blanked before it is written: events, the result, the error."""

from collections.abc import Callable, Mapping
from typing import Any

from overnight.domain.errors import ErrorCode
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.redaction import Redactor
from overnight.ports import RunOrder, Stop

KEY = "sk-test-canary-4b1d9f02c7e8"
TOLD = "[redacted:api_key]"
Emit = Callable[[str, Mapping[str, Any]], None]


async def tells(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
    emit("tool.finished", {"content": [{"text": f"KEY={KEY}"}], KEY: 1})
    return Outcome(
        ending=Ending.DONE, result=f"it is {KEY}", structured_output={"key": [KEY]}, session_cost_usd=0.1
    )


async def breaks(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
    return failed(ErrorCode.MAX_TURNS, f"refused {KEY}")


async def stumbles(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
    return failed(ErrorCode.OVERLOADED, f"refused {KEY}")


async def test_events_and_the_result_hold_no_loaded_secret(world: Any) -> None:
    world.redactor = Redactor({"api_key": KEY})
    job = await world.submit()
    await world.run_next(tells)
    done = await world.job(job.job_id)
    assert (done.result, done.structured_output) == (f"it is {TOLD}", {"key": [TOLD]})
    [told] = [event.data for event in await world.events(job.job_id) if event.type == "tool.finished"]
    assert told == {"content": [{"text": f"KEY={TOLD}"}], TOLD: 1}


async def test_the_error_and_the_webhook_hold_no_loaded_secret(world: Any) -> None:
    world.redactor = Redactor({"api_key": KEY})
    job = await world.submit(callback_url="https://example.com/hook")
    await world.run_next(breaks)
    assert (await world.job(job.job_id)).error.message == f"refused {TOLD}"
    [delivery] = await world.store.deliveries(job.job_id)
    assert KEY not in delivery.body
    assert TOLD in delivery.body


async def test_the_reason_of_a_retry_holds_no_loaded_secret(world: Any) -> None:
    world.redactor = Redactor({"api_key": KEY})
    job = await world.submit()
    await world.run_next(stumbles)
    [told] = [e.data for e in await world.events(job.job_id) if e.type == "job.retry_scheduled"]
    assert told["message"] == f"refused {TOLD}"
