import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from overnight.client import ApiProblem, AsyncClient, DamagedDownload, ServiceUnreachable

Make = Callable[..., Any]

ACCEPTED = {"job_id": "j", "session_id": "s", "status": "queued", "message": "Job queued for processing"}


def refused(request: httpx.Request | None = None) -> httpx.ConnectError:
    return httpx.ConnectError("[Errno 111] Connection refused", request=request)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_submit_sends_what_was_given_and_nothing_else(client: AsyncClient, script: Any) -> None:
    script.answers = [httpx.Response(202, json=ACCEPTED)]
    submitted = await client.submit("Write a haiku", "s", model="sonnet", max_turns=None)
    assert json.loads(script.asked[0].content) == {
        "prompt": "Write a haiku",
        "session_id": "s",
        "model": "sonnet",
    }
    assert (submitted.job_id, submitted.replayed) == ("j", False)


async def test_submit_says_when_the_job_was_there_already(client: AsyncClient, script: Any) -> None:
    script.answers = [httpx.Response(202, json=ACCEPTED, headers={"Idempotent-Replayed": "true"})]
    assert (await client.submit("x", idempotency_key="mine")).replayed
    assert script.asked[0].headers["idempotency-key"] == "mine"


async def test_a_submit_that_fails_is_sent_again_with_the_same_key(
    client: AsyncClient, script: Any, problem: Make
) -> None:
    script.answers = [
        refused(),
        problem(503, "draining", **{"retry-after": "5"}),
        problem(429, "line_full"),
        httpx.Response(202, json=ACCEPTED),
    ]
    assert (await client.submit("x")).job_id == "j"
    keys = {request.headers["idempotency-key"] for request in script.asked}
    assert len(script.asked) == 4
    assert len(keys) == 1
    assert script.pauses == [1.0, 5.0, 4.0]


async def test_two_submits_are_two_jobs(client: AsyncClient, script: Any) -> None:
    script.answers = [httpx.Response(202, json=ACCEPTED)] * 2
    await client.submit("x")
    await client.submit("x")
    assert len({request.headers["idempotency-key"] for request in script.asked}) == 2


async def test_a_job_is_not_sent_again_twice(client: AsyncClient, script: Any) -> None:
    """The answer is lost, but not the call: the job may have run and failed anew when the next one comes."""
    script.answers = [httpx.ReadTimeout("x")]
    with pytest.raises(ServiceUnreachable):
        await client.retry("j")
    assert len(script.asked) == 1


async def test_a_cancel_is_sent_again(client: AsyncClient, script: Any, job: Make) -> None:
    script.answers = [httpx.ReadTimeout("x"), httpx.Response(200, json=job("cancelled"))]
    assert (await client.cancel("j")).final


async def test_patience_ends(client: AsyncClient, script: Any) -> None:
    script.answers = [refused()] * 4
    with pytest.raises(ServiceUnreachable, match=r"no answer from http://service\.test"):
        await client.submit("x")
    assert script.answers == []


async def test_a_refusal_is_not_tried_again(client: AsyncClient, script: Any, problem: Make) -> None:
    script.answers = [problem(422, "invalid_request")]
    with pytest.raises(ApiProblem) as caught:
        await client.submit("")
    assert (caught.value.status, caught.value.code, caught.value.detail, caught.value.request_id) == (
        422,
        "invalid_request",
        "Because invalid_request.",
        "req-1",
    )


@pytest.mark.parametrize(
    "answer", [httpx.Response(502, html="<h1>Bad gateway</h1>"), httpx.Response(404, text="nothing here")]
)
async def test_an_answer_that_is_no_problem_document_is_an_api_problem_too(
    client: AsyncClient, script: Any, answer: httpx.Response
) -> None:
    script.answers = [answer] * 4
    with pytest.raises(ApiProblem) as caught:
        await client.status("j")
    assert (caught.value.status, caught.value.code) == (answer.status_code, "unexpected_answer")


async def test_an_answer_of_somebody_else_is_an_api_problem(client: AsyncClient, script: Any) -> None:
    script.answers = [httpx.Response(200, text="Welcome to nginx!")]
    with pytest.raises(ApiProblem, match="not an answer of overnight"):
        await client.health()


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("x"),
        httpx.ConnectTimeout("x"),
        httpx.ReadTimeout("x"),
        httpx.ReadError("x"),
        httpx.WriteError("x"),
        httpx.RemoteProtocolError("x"),
        httpx.ProxyError("x"),
        httpx.UnsupportedProtocol("x"),
    ],
)
async def test_every_failure_of_the_network_is_unreachable(
    client: AsyncClient, script: Any, error: Exception
) -> None:
    script.answers = [error]
    with pytest.raises(ServiceUnreachable):
        await client.health()


async def test_unknown_fields_are_ignored_and_times_are_times(
    client: AsyncClient, script: Any, job: Make
) -> None:
    script.answers = [httpx.Response(200, json=job(from_the_future={"x": 1}, links={"self": "/status/x"}))]
    found = await client.status("j")
    assert found.final
    assert found.created_at.isoformat() == "2026-01-02T03:04:05.678000+00:00"


async def test_jobs_goes_through_all_pages(client: AsyncClient, script: Any, job: Make) -> None:
    script.answers = [
        httpx.Response(200, json={"data": [job(), job()], "next_cursor": "more"}),
        httpx.Response(200, json={"data": [job("failed")], "next_cursor": None}),
    ]
    found = [each.status async for each in client.jobs(status=["completed", "failed"], session_id="s")]
    assert found == ["completed", "completed", "failed"]
    assert script.asked[0].url.params.get_list("status") == ["completed", "failed"]
    assert script.asked[1].url.params["cursor"] == "more"


async def test_jobs_stops_at_its_limit(client: AsyncClient, script: Any, job: Make) -> None:
    script.answers = [
        httpx.Response(200, json={"data": [job()] * 100, "next_cursor": "a"}),
        httpx.Response(200, json={"data": [job()] * 50, "next_cursor": "b"}),
    ]
    assert len([each async for each in client.jobs(limit=150)]) == 150
    assert [request.url.params["limit"] for request in script.asked] == ["100", "50"]


@pytest.mark.parametrize("hostile", ["../../sessions", "a/b", "..", "x?y=1#z", "%2e%2e"])
async def test_an_id_leads_nowhere_else(client: AsyncClient, script: Any, job: Make, hostile: str) -> None:
    script.answers = [httpx.Response(200, json=job())]
    await client.status(hostile)
    path = script.asked[0].url.raw_path.decode()
    assert path.startswith("/status/")
    assert path.count("/") == 2
    assert "?" not in path


async def test_a_download_is_checked_and_whole(client: AsyncClient, script: Any, tmp_path: Path) -> None:
    body = b"PK" * 1000
    tag = f'"{hashlib.sha256(body).hexdigest()}"'
    script.answers = [httpx.Response(200, content=body, headers={"etag": tag})]
    target = tmp_path / "archive.zip"
    assert await client.download_archive("s", target) == 2000
    assert target.read_bytes() == body
    assert names(tmp_path) == ["archive.zip"]


async def test_a_damaged_download_leaves_what_was_there(
    client: AsyncClient, script: Any, tmp_path: Path
) -> None:
    target = tmp_path / "archive.zip"
    target.write_bytes(b"old")
    script.answers = [httpx.Response(200, content=b"torn", headers={"etag": f'"{"0" * 64}"'})]
    with pytest.raises(DamagedDownload):
        await client.download_archive("s", target)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["archive.zip"]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (httpx.ReadError("gone"), ServiceUnreachable),
        (httpx.RemoteProtocolError("the body is incomplete"), DamagedDownload),  # the service closed it
    ],
)
async def test_a_broken_download_leaves_nothing(
    client: AsyncClient, script: Any, tmp_path: Path, stream: Make, failure: Exception, told: type[Exception]
) -> None:
    script.answers = [stream(b"half", failure)]
    with pytest.raises(told):
        await client.download_file("s", "src/a file.py", tmp_path / "out")
    assert names(tmp_path) == []
    assert script.asked[0].url.raw_path == b"/sessions/s/files/src/a%20file%2Epy"


async def test_an_upload_is_sent_once_and_states_its_length(
    client: AsyncClient, script: Any, tmp_path: Path, problem: Make
) -> None:
    source = tmp_path / "mine.zip"
    source.write_bytes(b"z" * 3_000_000)
    script.answers = [problem(503, "storage_failed")]
    with pytest.raises(ApiProblem):
        await client.upload_archive(source)
    request = script.asked[0]
    assert (request.headers["content-length"], len(request.content)) == ("3000000", 3_000_000)
    assert script.pauses == []


async def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"looks like http://127\.0\.0\.1:8080"):
        AsyncClient("localhost:8080")
