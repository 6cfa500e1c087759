import asyncio
import inspect
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from overnight.client import ApiProblem, AsyncClient, Client

Make = Callable[..., Any]


def calls(kind: type) -> dict[str, list[inspect.Parameter]]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {
        name: list(inspect.signature(call).parameters.values())
        for name, call in found
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_calls() -> None:
    assert calls(Client) == calls(AsyncClient)


def test_it_works_like_the_asynchronous_one(script: Any, stream: Make, frame: Make, job: Make) -> None:
    script.answers = [
        httpx.Response(202, json={"job_id": "j", "session_id": "s", "status": "queued"}),
        stream(frame(1), frame(2, "job.completed")),
        httpx.Response(204),
        httpx.Response(200, json={"data": [job()], "next_cursor": None}),
    ]
    with Client("http://service.test", transport=httpx.MockTransport(script)) as client:
        assert client.submit("x").job_id == "j"
        assert [event.seq for event in client.events("j")] == [1, 2]
        assert [each.status for each in client.jobs()] == ["completed"]


def test_problems_reach_the_caller(script: Any, problem: Make) -> None:
    script.answers = [problem(404, "job_not_found")]
    transport = httpx.MockTransport(script)
    with (
        Client("http://service.test", transport=transport) as client,
        pytest.raises(ApiProblem, match="job_not"),
    ):
        client.status("j")


async def test_it_works_where_an_event_loop_runs_already(script: Any, job: Make) -> None:
    script.answers = [httpx.Response(200, json=job())]
    with Client("http://service.test", transport=httpx.MockTransport(script)) as client:
        assert client.status("j").final


def test_closing_ends_its_thread_and_leaving_an_iteration_early_is_fine(
    script: Any, stream: Make, frame: Make
) -> None:
    before = threading.active_count()
    script.answers = [stream(frame(1), frame(2))]
    client = Client("http://service.test", transport=httpx.MockTransport(script))
    for _ in client.events("j"):
        break
    client.close()
    client.close()
    assert threading.active_count() == before


class Interrupting(httpx.AsyncByteStream):
    """One event; then the user presses Ctrl-C, and the connection takes its time to close."""

    def __init__(self, event: bytes) -> None:
        self._event = event
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._event
        while not _main_thread_waits():  # noqa: ASYNC110 nobody tells of it
            await asyncio.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        self.closed = True


def _main_thread_waits() -> bool:
    main = threading.main_thread().ident
    return main is not None and sys._current_frames()[main].f_code.co_name == "wait"


def test_ctrl_c_ends_an_iteration_and_its_connection(script: Any, frame: Make) -> None:
    body = Interrupting(frame(1))
    script.answers = [httpx.Response(200, stream=body)]
    with Client("http://service.test", transport=httpx.MockTransport(script)) as client:
        events = client.events("j")
        assert next(events).seq == 1
        with pytest.raises(KeyboardInterrupt):
            next(events)
        assert body.closed
