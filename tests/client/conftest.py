import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from overnight.client import AsyncClient, Patience

Answer = httpx.Response | Exception


class Stream(httpx.AsyncByteStream):
    """A body in pieces; an exception among them breaks the connection there."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


@dataclass
class Script:
    """A service that gives prepared answers in order, and remembers what it was asked and how long the
    client paused."""

    answers: list[Answer] = field(default_factory=list)
    asked: list[httpx.Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def client(script: Script) -> AsyncIterator[AsyncClient]:
    transport = httpx.MockTransport(script)
    patience = Patience(delays=(1.0, 2.0, 4.0))
    async with AsyncClient(
        "http://service.test", transport=transport, pause=script.pause, patience=patience
    ) as client:
        yield client


@pytest.fixture
def job() -> Callable[..., dict[str, Any]]:
    def make(status: str = "completed", **more: Any) -> dict[str, Any]:
        return {
            "job_id": "01890000-0000-7000-8000-000000000001",
            "session_id": "5f0c7c1e-0000-4000-8000-000000000001",
            "status": status,
            "created_at": "2026-01-02T03:04:05.678Z",
            **more,
        }

    return make


@pytest.fixture
def frame() -> Callable[..., bytes]:
    """One event as it stands in a stream."""

    def make(seq: int, kind: str = "agent.text", **told: Any) -> bytes:
        event = {
            "seq": seq,
            "type": kind,
            "time": "2026-01-02T03:04:05.678Z",
            "job_id": "01890000-0000-7000-8000-000000000001",
            "session_id": "5f0c7c1e-0000-4000-8000-000000000001",
            "attempt": 1,
            "data": told,
        }
        return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(event)}\n\n".encode()

    return make


@pytest.fixture
def stream() -> Callable[..., httpx.Response]:
    def make(*pieces: bytes | Exception) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Stream(pieces))

    return make


@pytest.fixture
def problem() -> Callable[..., httpx.Response]:
    def make(status: int, code: str, **headers: str) -> httpx.Response:
        body = {
            "type": f"/docs/problems#{code}",
            "status": status,
            "code": code,
            "detail": f"Because {code}.",
        }
        return httpx.Response(status, json=body | {"request_id": "req-1"}, headers=headers)

    return make
