"""A real `overnight serve` whose model is the rehearsal API, with an eye on all that is said to it."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.waiting import eventually

from overnight.rehearsal.app import rehearsal_app
from overnight.serving import listen, serving, url_of

OVERNIGHT = Path(sys.executable).parent / "overnight"
FINAL = {"completed", "failed", "cancelled"}


@dataclass
class Model:
    """The rehearsal API. `asked` has the body of each request, `seen` the arguments of every process then."""

    app: ASGIApp
    asked: list[dict[str, Any]] = field(default_factory=list)
    seen: list[set[bytes]] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/messages":
            await self.app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        self.asked.append(json.loads(b"".join(message.get("body", b"") for message in messages)))
        self.seen.append(await asyncio.to_thread(_arguments))

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, again, send)

    def prompts(self) -> list[str]:
        """Every text that came as a user's, once each."""
        texts: dict[str, None] = {}
        for message in (message for body in self.asked for message in body["messages"]):
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if message["role"] == "user":
                texts.update((block["text"], None) for block in blocks if block["type"] == "text")
        return list(texts)


def _arguments() -> set[bytes]:
    found: set[bytes] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.update(path.read_bytes().split(b"\0"))
        except OSError:
            continue  # it has ended
    return found


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    numbers = count(1)
    model = Model(rehearsal_app(new_id=lambda: f"{next(numbers):x}", now=time.time))
    listener = listen("127.0.0.1", 0)
    async with serving(model, listener):
        model.url = url_of(listener)
        yield model


@dataclass
class Canary:
    """A server that nobody has a reason to speak to; `connections` counts who did."""

    url: str = ""
    connections: int = 0

    async def met(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    canary = Canary()
    server = await asyncio.start_server(canary.met, "127.0.0.1", 0)
    async with server:
        canary.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield canary


@dataclass
class Service:
    client: httpx.AsyncClient

    async def submit(self, prompt: str, **fields: Any) -> dict[str, Any]:
        answer = await self.client.post("/execute", json={"prompt": prompt, **fields})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def finished(self, job_id: str) -> dict[str, Any]:
        async def ended() -> dict[str, Any] | None:
            job = dict((await self.client.get(f"/status/{job_id}")).json())
            return job if job["status"] in FINAL else None

        return await eventually(ended, seconds=90)

    async def run(self, prompt: str, **fields: Any) -> dict[str, Any]:
        return await self.finished((await self.submit(prompt, **fields))["job_id"])

    async def tool_results(self, job_id: str) -> str:
        page = (await self.client.get(f"/jobs/{job_id}/events", params={"limit": 1000})).json()["data"]
        return json.dumps([event["data"] for event in page if event["type"] == "tool.finished"])


@asynccontextmanager
async def serve(data: Path, environment: dict[str, str]) -> AsyncIterator[Service]:
    with (data / "stderr.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(OVERNIGHT), "serve", "--port", "0", "--data", str(data)),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        url = await asyncio.wait_for(_ready(process, data), 60)
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            yield Service(client)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 40)


async def _ready(process: asyncio.subprocess.Process, data: Path) -> str:
    assert process.stdout is not None
    async for line in process.stdout:
        if b"is ready" in line:
            return line.decode().split()[-1]
    raise AssertionError((data / "stderr.log").read_text()[-2000:])


@pytest.fixture
async def start(tmp_path: Path, model: Model) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """`await start("namespace")` gives a service in that tier; more arguments become environment variables."""
    async with AsyncExitStack() as stack:

        async def begin(isolation: str, **environment: str) -> Service:
            data = tmp_path / "data"
            data.mkdir()
            settings = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "ANTHROPIC_BASE_URL": model.url,
                "ANTHROPIC_API_KEY": "sk-ant-rehearsal",
                "OVERNIGHT_ISOLATION": isolation,
                **(
                    {"OVERNIGHT_ALLOW_UNSANDBOXED": "i-understand"}
                    if isolation == "none"
                    else {"OVERNIGHT_MIN_ISOLATION": isolation}
                ),
                "OVERNIGHT_RETRY_DELAYS": "0.2,0.4",
                "OVERNIGHT_AGENT_API_RETRIES": "0",
            }
            return await stack.enter_async_context(serve(data, settings | environment))

        yield begin
