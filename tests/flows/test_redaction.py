"""What a run tells is blanked before it is written: events, the result, the error."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from overnight.domain.errors import ErrorCode
from overnight.domain.job import Status
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.redaction import Redactor
from overnight.ports import RunOrder, Stop

KEY = "sk-test-canary-4b1d9f02c7e8"
TOLD = "[redacted:api_key]"
Emit = Callable[[str, Mapping[str, Any]], None]


async def tells(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
    emit("tool.finished", {"content": [{"text": f"KEY={KEY}"}], KEY: 1})
    return Outcome(ending=Ending.DONE, result=f"it is {KEY}", structured_output={"key": [KEY]}, cost_usd=0.1)


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


async def leaves_a_key(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
    (order.workspace.files / "deploy.sh").write_text("export K=ghp_" + "a1B2" * 9)
    return Outcome(ending=Ending.DONE, result="done", cost_usd=0.1)


async def test_a_secret_in_the_workspace_is_reported_and_the_archive_is_kept(world: Any) -> None:
    job = await world.submit()
    await world.run_next(leaves_a_key)
    [told] = [e.data for e in await world.events(job.job_id) if e.type == "archive.secret_found"]
    assert told == {"path": "deploy.sh", "kind": "github_token", "count": 1}
    assert (await world.job(job.job_id)).archive is not None


async def test_an_archive_with_a_secret_is_refused_if_the_operator_says_so(
    world: Any, tmp_path: Path
) -> None:
    strict = replace(world, refuse_secrets=True)
    job = await strict.submit()
    await strict.run_next(leaves_a_key)
    done = await strict.job(job.job_id)
    assert (done.status, done.archive) == (Status.COMPLETED, None)
    assert await strict.archives.listing("") == []
    kinds = await strict.kinds(job.job_id)
    assert "archive.secret_found" in kinds
    [told] = [e.data for e in await strict.events(job.job_id) if e.type == "workspace.not_saved"]
    assert told["reason"] == "secrets"
    assert (tmp_path / "unsaved" / told["kept_in"] / "files" / "deploy.sh").is_file()


async def test_only_what_the_session_did_not_have_yet_is_looked_through(world: Any) -> None:
    world = replace(world, warm=1)  # A restored workspace knows as well what it had.
    first = await world.submit()
    await world.run_next(leaves_a_key)
    assert len(await world.told(first.job_id, "archive.secret_found")) == 1

    async def adds(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
        (order.workspace.files / "token.txt").write_text("ghp_" + "b2C3" * 9)
        return Outcome(ending=Ending.DONE, result="done", cost_usd=0.1)

    second = await world.submit(session_id=first.session_id)
    await world.run_next(adds)
    assert [told["path"] for told in await world.told(second.job_id, "archive.secret_found")] == ["token.txt"]


async def test_what_a_checkpoint_stored_is_looked_through_at_the_end(world: Any, agents: Any) -> None:
    world = replace(world, checkpoint_seconds=0.01, warm=1)
    first = await world.submit()
    await world.run_next(agents.writes("a.txt", "a", agents.done()))
    job = await world.submit(session_id=first.session_id)

    async def act(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
        outcome = await leaves_a_key(order, emit, stop)
        await world.until(job.job_id, "checkpoint.saved")
        return outcome

    await world.run_next(act)
    assert [told["path"] for told in await world.told(job.job_id, "archive.secret_found")] == ["deploy.sh"]
