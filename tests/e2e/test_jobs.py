"""What a user does, with the real service and the real Claude Code."""

import asyncio
import json
import shutil
from http import HTTPStatus
from typing import Any

import pytest
from standardwebhooks import Webhook
from tests.e2e.service import Service, Start, archive_of, lines, processes
from tests.waiting import eventually
from tests.webhook_receiver import webhook_receiver

pytestmark = pytest.mark.e2e


async def test_a_job_runs_and_its_files_and_conversation_are_kept(service: Service) -> None:
    job = await service.submit(lines("write note.txt hello", "bash cat note.txt", "answer all done"))
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"], done["error"]) == ("completed", "all done", None)
    assert done["cost_usd"] > 0
    archive = await archive_of(service, job["session_id"])
    assert archive.read("note.txt") == b"hello"
    assert any(
        name.startswith(".overnight/transcript/") and name.endswith(".jsonl") for name in archive.namelist()
    )
    assert json.loads(archive.read(".overnight/session.json"))["session_id"] == job["session_id"]
    kinds = [event["type"] for event in await service.events(job["job_id"])]
    assert kinds[:2] == ["job.queued", "job.started"]
    assert kinds[-1] == "job.completed"
    assert kinds.count("tool.started") == kinds.count("tool.finished") == 2
    assert [event["seq"] for event in await service.events(job["job_id"])] == list(range(1, len(kinds) + 1))


async def test_a_session_goes_on_after_a_restart_with_the_workspace_gone(start: Start) -> None:
    service = await start()
    first = await service.submit(lines("write note.txt hello", words="Remember the blue whale."))
    await service.finished(first["job_id"])
    assert await service.terminate() == 0
    shutil.rmtree(service.data / "runs", ignore_errors=True)
    await service.start()
    second = await service.submit(lines("bash cat note.txt", "recall"), session_id=first["session_id"])
    done = await service.finished(second["job_id"])
    assert done["status"] == "completed"
    assert "Remember the blue whale." in done["result"]
    shown = [e["data"] for e in await service.events(second["job_id"]) if e["type"] == "tool.finished"]
    assert "hello" in json.dumps(shown)


async def test_two_jobs_of_one_session_posted_at_once_run_in_order(service: Service) -> None:
    first = await service.submit(lines("answer ready", words="Begin."))
    session_id = first["session_id"]
    await service.finished(first["job_id"])
    second, third = await asyncio.gather(
        service.submit(lines("bash echo a >> log; tail -c 99 log", words="Say one."), session_id=session_id),
        service.submit(lines("bash echo b >> log; tail -c 99 log", words="Say two."), session_id=session_id),
    )
    done = [await service.finished(job["job_id"]) for job in (second, third)]
    assert [job["status"] for job in done] == ["completed", "completed"]
    accepted = sorted(done, key=lambda job: job["started_at"])
    assert accepted[0]["completed_at"] <= accepted[1]["started_at"]
    last = await service.submit(lines("bash cat log", "recall", words="Say three."), session_id=session_id)
    recalled = (await service.finished(last["job_id"]))["result"].splitlines()
    prompts = {second["job_id"]: "Say one.", third["job_id"]: "Say two."}
    assert [line for line in recalled if line.startswith("Say ")][:2] == [
        prompts[j["job_id"]] for j in accepted
    ]
    assert sorted((await archive_of(service, session_id)).read("log").split()) == [b"a", b"b"]


async def test_a_running_job_is_cancelled_in_the_middle_of_a_tool(service: Service) -> None:
    job = await service.submit(lines("write kept.txt yes", "bash tail -f /dev/null", "answer never"))
    await service.until_event(job["job_id"], "tool.started", times=2)
    answer = await service.call("POST", f"/jobs/{job['job_id']}/cancel")
    assert answer.status_code in {HTTPStatus.OK, HTTPStatus.ACCEPTED}
    done = await service.finished(job["job_id"], seconds=20)
    assert done["status"] == "cancelled"
    assert (await archive_of(service, job["session_id"])).read("kept.txt") == b"yes"
    after = await service.submit(lines("recall"), session_id=job["session_id"])
    assert (await service.finished(after["job_id"]))["status"] == "completed"


async def test_a_queued_job_is_cancelled_at_once_and_never_runs(start: Start) -> None:
    service = await start(settings={"OVERNIGHT_CONCURRENCY": "1"})
    blocker = await service.submit(lines("bash tail -f /dev/null"))
    await service.until_event(blocker["job_id"], "tool.started")
    waiting = await service.submit(lines("write ran.txt yes"))
    await service.call("POST", f"/jobs/{waiting['job_id']}/cancel")
    assert (await service.job(waiting["job_id"]))["status"] == "cancelled"
    await service.call("POST", f"/jobs/{blocker['job_id']}/cancel")
    await service.finished(blocker["job_id"])
    assert "job.started" not in [e["type"] for e in await service.events(waiting["job_id"])]


async def test_a_job_that_takes_too_long_fails_and_keeps_its_files(service: Service) -> None:
    job = await service.submit(lines("write half.txt done", "bash tail -f /dev/null"), timeout_seconds=4)
    done = await service.finished(job["job_id"], seconds=30)
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", "timeout", False)
    assert (await archive_of(service, job["session_id"])).read("half.txt") == b"done"


async def test_an_overloaded_api_is_tried_again_until_it_answers(service: Service) -> None:
    job = await service.submit(lines("error 529 x2", "answer made it"))
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "made it", 3)
    kinds = [event["type"] for event in await service.events(job["job_id"])]
    assert kinds.count("job.retry_scheduled") == 2


async def test_a_job_that_fails_for_good_is_a_dead_letter_and_can_be_sent_again(service: Service) -> None:
    job = await service.submit(lines("error 529 x4", "answer at last"))
    dead = await service.finished(job["job_id"])
    assert (dead["status"], dead["error"]["code"], dead["attempt"]) == ("failed", "overloaded", 4)
    listed = (await service.call("GET", "/jobs", params={"status": "failed"})).json()["data"]
    assert [row["job_id"] for row in listed] == [job["job_id"]]
    answer = await service.call("POST", f"/jobs/{job['job_id']}/retry")
    assert answer.status_code == HTTPStatus.ACCEPTED
    done = await service.when(job["job_id"], lambda j: j["status"] == "completed")
    assert (done["result"], done["attempt"]) == ("at last", 5)


async def test_a_refused_key_fails_fast_and_is_not_tried_again(service: Service) -> None:
    job = await service.submit(lines("error 401"))
    done = await service.finished(job["job_id"], seconds=20)
    assert (done["status"], done["error"]["code"], done["attempt"]) == ("failed", "authentication", 1)


async def test_a_job_waits_for_a_rate_limit_to_end_and_can_be_cancelled_meanwhile(service: Service) -> None:
    job = await service.submit(lines("error 429 x5 retry-after=1 reset=1", "answer through"))
    waiting = await service.when(job["job_id"], lambda j: j["waiting_for"] == "rate_limit")
    assert waiting["status"] == "queued"
    assert (await service.call("POST", f"/jobs/{job['job_id']}/cancel")).status_code < 300
    assert (await service.finished(job["job_id"]))["status"] == "cancelled"


async def test_a_file_of_two_mebibytes_is_edited(service: Service) -> None:
    edit = json.dumps({"file_path": "/workspace/big.txt", "old_string": "needle", "new_string": "found it"})
    job = await service.submit(
        lines(
            "bash python3 -c \"print('needle'); print('x' * 99 + chr(10), end='') ; "
            "[print('y' * 99) for _ in range(21000)]\" > big.txt",
            'tool Read {"file_path": "/workspace/big.txt", "limit": 5}',
            f"tool Edit {edit}",
            "answer edited",
        )
    )
    done = await service.finished(job["job_id"])
    assert (done["status"], done["result"]) == ("completed", "edited")
    content = (await archive_of(service, job["session_id"])).read("big.txt")
    assert content.startswith(b"found it")
    assert len(content) > 2 * 1024 * 1024


async def test_a_daemon_that_the_agent_leaves_behind_is_gone(service: Service, mark: str) -> None:
    job = await service.submit(
        lines(
            f"bash setsid nohup sleep {mark} >/dev/null 2>&1 & until pgrep -fx 'sleep {mark}'; do :; done",
            "answer ok",
        )
    )
    assert (await service.finished(job["job_id"]))["status"] == "completed"
    [tried] = [e["data"] for e in await service.events(job["job_id"]) if e["type"] == "tool.finished"]
    assert not tried["is_error"], "it did run"
    assert processes(f"sleep {mark}") == []


async def test_the_webhook_arrives_signed_and_is_listed(service: Service) -> None:
    async with webhook_receiver() as (url, got):
        job = await service.submit(lines("answer signed"), callback_url=url)
        headers, body = await asyncio.wait_for(got.get(), 60)
    secret = (service.data / "webhook-secret").read_text().strip()
    told = Webhook(secret).verify(body, headers)
    assert (told["job_id"], told["status"], told["result"]) == (job["job_id"], "completed", "signed")

    async def logged() -> Any:
        rows = (await service.call("GET", f"/jobs/{job['job_id']}/deliveries")).json()["data"]
        return rows if rows[0]["status"] == "delivered" else None

    assert len(await eventually(logged)) == 1
