"""A real service: `overnight serve` as a process of its own, with the real Claude Code on the rehearsal API."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

OVERNIGHT = Path(sys.executable).parent / "overnight"
FAST = {
    "OVERNIGHT_ISOLATION": "namespace",
    "OVERNIGHT_LEASE_SECONDS": "3",
    "OVERNIGHT_RETRY_DELAYS": "0.2,0.4,0.6",
    "OVERNIGHT_STOP_GRACE_SECONDS": "3",
    "OVERNIGHT_AGENT_API_RETRIES": "0",
    "OVERNIGHT_CALLBACK_ALLOW_HTTP": "1",
    "OVERNIGHT_CALLBACK_ALLOW_PRIVATE": "127.0.0.1/32",
}
FINAL = {"completed", "failed", "cancelled"}


class Service:
    """One `overnight serve` (or worker) process; `start` again after a `kill` uses the same data directory."""

    def __init__(self, data: Path, command: list[str], environment: Mapping[str, str]) -> None:
        self.data = data
        self.command = command
        self.environment = environment
        self.url = ""
        self.banner: list[str] = []
        self.headers: dict[str, str] = {}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.data / "stderr.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(OVERNIGHT),
                *self.command,
                "--data",
                str(self.data),
                env={"PATH": os.environ["PATH"], "HOME": str(self.data), **FAST, **self.environment},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.banner = await asyncio.wait_for(self._read_banner(self.process), 60)

    async def _read_banner(self, process: asyncio.subprocess.Process) -> list[str]:
        assert process.stdout is not None
        lines: list[str] = []
        async for raw in process.stdout:
            lines.append(raw.decode().rstrip())
            if "is ready" in lines[-1]:
                self.url = lines[-1].rpartition(" ")[2]
                return lines
        raise AssertionError(
            f"the service did not start: {lines} {(self.data / 'stderr.log').read_text()[-2000:]}"
        )

    async def use_key(self, *options: str) -> dict[str, Any]:
        """Make an API key, and call with it from now on: also once the service has noticed that there are keys."""
        made = await asyncio.create_subprocess_exec(
            *(str(OVERNIGHT), "keys", "create", "--name", "k", "--json", "--data", str(self.data), *options),
            env={"PATH": os.environ["PATH"], "HOME": str(self.data)},
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await made.communicate()
        key = dict(json.loads(told))

        async def noticed() -> bool | None:
            return True if (await self.call("GET", "/jobs")).status_code == 401 else None

        self.headers = {}
        await eventually(noticed)
        self.headers = {"Authorization": f"Bearer {key['key']}"}
        return key

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 40)

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(
            base_url=self.url, timeout=30, trust_env=False, headers=self.headers
        ) as client:
            return await client.request(method, path, **more)

    async def submit(self, prompt: str, **fields: Any) -> dict[str, Any]:
        answer = await self.call("POST", "/execute", json={"prompt": prompt, **fields})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.call("GET", f"/status/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def finished(self, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
        return await self.when(job_id, lambda job: job["status"] in FINAL, seconds=seconds)

    async def when(
        self, job_id: str, true: Callable[[dict[str, Any]], bool], *, seconds: float = 60
    ) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            job = await self.job(job_id)
            return job if true(job) else None

        return dict(await eventually(look, seconds=seconds))

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["seq"] if found else 0
            page = (await self.call("GET", f"/jobs/{job_id}/events", params={"after": after})).json()["data"]
            if not page:
                return found
            found += page

    async def until_event(self, job_id: str, kind: str, *, seconds: float = 60) -> dict[str, Any]:
        """The first event of this type, seen live by SSE."""
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(
                base_url=self.url, timeout=None, trust_env=False, headers=self.headers
            ) as client,
            client.stream("GET", f"/jobs/{job_id}/events", headers={"accept": "text/event-stream"}) as stream,
        ):
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    event = json.loads(line.removeprefix("data:"))
                    if event["type"] == kind:
                        return dict(event)
        raise AssertionError(f"no event {kind}")


async def eventually(look: Callable[[], Awaitable[Any]], *, seconds: float = 30) -> Any:
    """What `look` returns once it is not None. For conditions on the far side of a process boundary."""
    async with asyncio.timeout(seconds):
        while (found := await look()) is None:  # noqa: ASYNC110 - no event crosses a process boundary
            await asyncio.sleep(0.05)
    return found


def processes(marker: str) -> list[str]:
    """Command lines of live processes on this machine that carry the marker (an argument, or their cwd)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if marker in line and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(line)
    return found


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """`await start()` gives a service in rehearsal mode; more arguments become environment variables."""
    services: list[Service] = []

    async def begin(*command: str, data: Path | None = None, **environment: str) -> Service:
        where = data or tmp_path / "data"
        where.mkdir(exist_ok=True)
        chosen = list(command) or ["serve", "--rehearsal", "--port", "0"]
        service = Service(where, chosen, environment)
        services.append(service)
        await service.start()
        return service

    yield begin
    for service in services:
        if service.process is not None and service.process.returncode is None:
            await service.kill()


@pytest.fixture
async def service(start: Start) -> Service:
    return await start()


@pytest.fixture
def e2e() -> Any:
    """The functions of this module, for tests that need them."""
    return sys.modules[__name__]
