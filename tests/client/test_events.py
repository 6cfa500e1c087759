import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from overnight.client import ApiProblem, AsyncClient, ServiceUnreachable

Make = Callable[..., Any]

OVER = 204


async def seqs(client: AsyncClient, after: int = 0) -> list[int]:
    return [event.seq async for event in client.events("j", after=after)]


async def test_events_come_in_order_and_end_when_the_service_says_so(
    client: AsyncClient, script: Any, stream: Make, frame: Make
) -> None:
    script.answers = [
        stream(b"retry: 2000\n\n", frame(1), b": heartbeat\n\n", frame(2, "job.completed")),
        httpx.Response(OVER),
    ]
    assert await seqs(client) == [1, 2]
    assert script.asked[0].headers["accept"] == "text/event-stream"
    assert script.asked[1].headers["last-event-id"] == "2"
    assert script.pauses == []


async def test_a_broken_stream_is_taken_up_where_it_broke_and_nothing_comes_twice(
    client: AsyncClient, script: Any, stream: Make, frame: Make
) -> None:
    half = frame(3)[:20]
    script.answers = [
        stream(frame(1), frame(2), half, httpx.ReadError("gone")),
        httpx.ConnectError("the service restarts"),
        stream(frame(2), frame(3)),
        stream(frame(4, "job.failed")),
        httpx.Response(OVER),
    ]
    assert await seqs(client) == [1, 2, 3, 4]
    assert [request.headers["last-event-id"] for request in script.asked] == ["0", "2", "2", "3", "4"]
    assert script.pauses == [1.0, 2.0, 1.0]


async def test_a_job_that_was_sent_again_goes_on_after_its_first_end(
    client: AsyncClient, script: Any, stream: Make, frame: Make
) -> None:
    script.answers = [
        stream(frame(1, "job.failed")),
        stream(frame(2, "job.resent"), frame(3, "job.completed")),
        httpx.Response(OVER),
    ]
    assert await seqs(client) == [1, 2, 3]


async def test_after_the_end_a_service_that_is_gone_is_no_error(
    client: AsyncClient, script: Any, stream: Make, frame: Make, problem: Make
) -> None:
    script.answers = [stream(frame(1, "job.completed")), httpx.ConnectError("x"), httpx.ConnectError("x")]
    assert await seqs(client) == [1]
    script.answers = [stream(frame(1, "job.completed")), problem(404, "job_not_found")]
    assert await seqs(client) == [1]


async def test_what_is_told_after_the_end_is_no_beginning(
    client: AsyncClient, script: Any, stream: Make, frame: Make
) -> None:
    script.answers = [stream(frame(1, "job.completed"), frame(2, "workspace.saved")), httpx.Response(OVER)]
    assert await seqs(client) == [1, 2]
    assert script.pauses == []


async def test_patience_ends_when_no_event_comes_any_more(
    client: AsyncClient, script: Any, stream: Make, frame: Make
) -> None:
    script.answers = [stream(frame(1)), stream(), stream(), httpx.ConnectError("x")]
    with pytest.raises(ServiceUnreachable):
        await seqs(client)
    assert script.pauses == [1.0, 2.0, 4.0]


async def test_an_unknown_job_is_a_problem_at_once(client: AsyncClient, script: Any, problem: Make) -> None:
    script.answers = [problem(404, "job_not_found")]
    with pytest.raises(ApiProblem, match="job_not_found"):
        await seqs(client)
    assert script.pauses == []


async def test_the_reader_may_leave_early(
    client: AsyncClient, script: Any, stream: Make, frame: Make
) -> None:
    script.answers = [stream(frame(1), frame(2))]
    events = client.events("j")
    assert (await anext(events)).seq == 1
    await events.aclose()
    assert len(script.asked) == 1


async def test_without_following_it_reads_pages(client: AsyncClient, script: Any, frame: Make) -> None:
    def page(first: int, count: int) -> httpx.Response:
        events = [b for seq in range(first, first + count) for b in [frame(seq)]]
        bodies = b",".join(event.split(b"data: ")[1].strip() for event in events)
        return httpx.Response(
            200, content=b'{"data":[' + bodies + b'],"next_after":%d,"final":false}' % (first + count - 1)
        )

    script.answers = [page(1, 100), page(101, 3), page(104, 0)]
    found = [event.seq async for event in client.events("j", follow=False)]
    assert found == list(range(1, 104))
    assert [asked.url.params["after"] for asked in script.asked] == ["0", "100", "103"]


async def test_wait_follows_the_job_to_its_end(
    client: AsyncClient, script: Any, stream: Make, frame: Make, job: Make
) -> None:
    script.answers = [
        httpx.Response(200, json=job("processing")),
        stream(frame(1, "job.completed")),
        httpx.Response(OVER),
        httpx.Response(200, json=job("completed", result="done")),
    ]
    assert (await client.wait("j")).result == "done"


async def test_wait_can_be_bounded(script: Any, job: Make) -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/status"):
            return httpx.Response(200, json=job("queued"))
        await asyncio.Event().wait()
        raise AssertionError

    async with AsyncClient("http://service.test", transport=httpx.MockTransport(never)) as client:
        with pytest.raises(TimeoutError):
            await client.wait("j", timeout=0.05)
