"""What a run tells is blanked before it is written: events, the result, the error."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overnight.archive.scan import MOST
from overnight.domain.errors import ErrorCode
from overnight.domain.job import Status
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.redaction import Redactor
from overnight.flows.saving import Packing, Saving
from overnight.ports import RunOrder, Stop

MIB = 1 << 20
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


async def hides_a_key(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
    """Behind more than a scan within limits looks at."""
    files = order.workspace.files
    (files / "000").write_bytes(b"x" * MIB)
    for number in range(1, MOST // MIB + 1):
        (files / f"{number:03}").hardlink_to(files / "000")
    (files / "zz.sh").write_text("export K=ghp_" + "a1B2" * 9)
    return Outcome(ending=Ending.DONE, result="done", cost_usd=0.1)


async def hides_a_key_in_a_database(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
    (order.workspace.files / "state.db").write_bytes(b"SQLite format 3\0" + b"ghp_" + b"a1B2" * 9)
    return Outcome(ending=Ending.DONE, result="done", cost_usd=0.1)


@pytest.mark.parametrize("hides", [hides_a_key, hides_a_key_in_a_database])
async def test_nothing_hides_a_secret_where_secrets_are_refused(
    world: Any, tmp_path: Path, hides: Any
) -> None:
    strict = replace(world, refuse_secrets=True)
    job = await strict.submit()
    await strict.run_next(hides)
    assert (await strict.job(job.job_id)).archive is None
    assert await strict.archives.listing("") == []
    [found] = await strict.told(job.job_id, "archive.secret_found")
    [told] = await strict.told(job.job_id, "workspace.not_saved")
    assert told["reason"] == "secrets"
    assert (tmp_path / "unsaved" / told["kept_in"] / "files" / found["path"]).is_file()


async def test_a_scan_that_was_cut_is_told(world: Any) -> None:
    job = await world.submit()
    await world.run_next(hides_a_key)
    assert (await world.job(job.job_id)).archive is not None
    assert await world.told(job.job_id, "archive.scan_cut") == [{"unlisted": 0, "whole": False}]


async def test_a_checkpoint_hides_no_secret_either_where_they_are_refused(world: Any) -> None:
    strict = replace(world, refuse_secrets=True, checkpoint_seconds=0.01)
    job = await strict.submit()

    async def act(order: RunOrder, emit: Emit, stop: Stop) -> Outcome:
        outcome = await hides_a_key_in_a_database(order, emit, stop)
        await strict.until(job.job_id, "checkpoint.failed")
        return outcome

    await strict.run_next(act)
    assert {told["reason"] for told in await strict.told(job.job_id, "checkpoint.failed")} == {"secrets"}
    assert await strict.archives.listing("") == []


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


class Held(Redactor):
    """Looks at nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may = threading.Event(), threading.Event()
        self.looks = 0

    def count(self, text: str) -> Counter[str]:
        self.looks += 1
        self.begun.set()
        assert self.may.wait(20)
        return Counter()


async def test_a_scan_that_is_called_off_looks_no_further(world: Any, tmp_path: Path) -> None:
    """It may have minutes to go, and a worker that leaves waits for its thread."""
    held = Held()
    (tmp_path / "tree" / "files").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (tmp_path / "tree" / "files" / name).write_text(name)
    packing = Packing(archives=world.archives, exclude=(), redactor=held, refuse_secrets=True)
    saving = asyncio.create_task(Saving(packing, tmp_path / "tree", "a/b.zip", {}, settled=True).store())
    assert await asyncio.to_thread(held.begun.wait, 20)
    saving.cancel()
    for _ in range(10):  # The cancellation comes to the task in the loop's next rounds.
        await asyncio.sleep(0)
    held.may.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert held.looks == 1
    assert await world.archives.listing("") == []
