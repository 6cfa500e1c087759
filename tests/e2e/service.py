"""A real service: `overnight serve` as a process of its own, with the real Claude Code on the rehearsal API."""

import asyncio
import contextlib
import fcntl
import io
import json
import os
import signal
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import httpx
from tests.waiting import eventually, until

OVERNIGHT: Sequence[str] = (str(Path(sys.executable).parent / "overnight"),)
HALTING = (sys.executable, str(Path(__file__).with_name("halting.py")))
FAST = {
    "OVERNIGHT_ISOLATION": "namespace",
    "OVERNIGHT_LEASE_SECONDS": "3",
    "OVERNIGHT_RETRY_DELAYS": "0.2,0.4,0.6",
    "OVERNIGHT_STOP_GRACE_SECONDS": "3",
    "OVERNIGHT_AGENT_API_RETRIES": "0",
    "OVERNIGHT_CALLBACK_ALLOW_HTTP": "1",
    "OVERNIGHT_CALLBACK_ALLOW_PRIVATE": "127.0.0.1/32",
}
SERVE = ("serve", "--rehearsal", "--port", "0")
FINAL = {"completed", "failed", "cancelled"}


class Service:
    """One `overnight serve` (or worker) process; `start` again after a `kill` uses the same data directory."""

    def __init__(
        self,
        data: Path,
        command: Sequence[str],
        settings: Mapping[str, str],
        halts: tuple[str, str] | None = None,
    ) -> None:
        self.data = data
        self.program = OVERNIGHT
        if halts is not None:
            os.mkfifo(self._fifo)
            self.program = (*HALTING, *halts, str(self._fifo))
        self.command = command
        self.settings = settings
        self.url = ""
        self.banner: list[str] = []
        self.headers: dict[str, str] = {}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.data / "stderr.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.program,
                *self.command,
                "--data",
                str(self.data),
                env={"PATH": os.environ["PATH"], "HOME": str(self.data), **FAST, **self.settings},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.banner = await asyncio.wait_for(self._read_banner(self.process), 180)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

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
            *(*OVERNIGHT, "keys", "create", "--name", "k", "--json", "--data", str(self.data), *options),
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

    async def freeze(self) -> None:
        """Stop every thread where it is; `wake` lets them go on.

        Outside of a transaction: one that is frozen with the database's lock would hold up all other processes.
        """
        with (self.data / "overnight.db.turn").open() as turn:
            await asyncio.to_thread(fcntl.flock, turn, fcntl.LOCK_EX)
            os.kill(self.pid, signal.SIGSTOP)
            await until(lambda: set(thread_states(self.pid)) == {"T"})

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def halted(self) -> bool:
        """Whether a process that was started with `halts` is there."""
        return self._fifo.with_suffix(".reached").exists()

    async def go_on(self) -> None:
        """From where it halted, if it did."""
        if self._fifo.exists():
            await until(self._released)

    def _released(self) -> bool:
        with contextlib.suppress(OSError):  # ENXIO: it is not yet there to read
            os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    @property
    def _fifo(self) -> Path:
        return self.data / "halting"

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

    async def finished(self, job_id: str, *, seconds: float = 120) -> dict[str, Any]:
        return await self.when(job_id, lambda job: job["status"] in FINAL, seconds=seconds)

    async def when(
        self, job_id: str, true: Callable[[dict[str, Any]], bool], *, seconds: float = 120
    ) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            job = await self.job(job_id)
            return job if true(job) else None

        return await eventually(look, seconds=seconds)

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["seq"] if found else 0
            page = (await self.call("GET", f"/jobs/{job_id}/events", params={"after": after})).json()["data"]
            if not page:
                return found
            found += page

    async def until_event(
        self, job_id: str, kind: str, *, times: int = 1, seconds: float = 120
    ) -> dict[str, Any]:
        """The event of this type that makes it so many, seen live by SSE."""
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
                    times -= event["type"] == kind
                    if times == 0:
                        return dict(event)
        raise AssertionError(f"no event {kind}")


def lines(*directives: str, words: str = "Do it.") -> str:
    """A prompt of these directives (docs/rehearsal.md)."""
    return "\n".join([words, *(f"rehearsal: {directive}" for directive in directives)])


async def archive_of(service: Service, session_id: str) -> zipfile.ZipFile:
    answer = await service.call("GET", f"/sessions/{session_id}/archive")
    assert answer.status_code == HTTPStatus.OK, answer.text
    return zipfile.ZipFile(io.BytesIO(answer.content))


def step_is_written_down(service: Service, number: int) -> bool:
    """Whether step `number` (from 1) of the script is in the conversation on disk.

    Claude Code writes it a moment after the fact; until then a kill makes it repeat the step before.
    """
    transcripts = service.data.glob("runs/*/home/.claude/projects/workspace/*.jsonl")
    return any(f"toolu_rehearsal_{number - 1}_" in path.read_text() for path in transcripts)


def processes(marker: str) -> list[str]:
    """Command lines of live processes on this machine that carry the marker (an argument, or their cwd)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if marker in line and state_of(entry / "stat") != "Z":
                    found.append(line)
    return found


def state_of(stat: Path) -> str:
    """Of a process or thread, by its `stat` in /proc: "T" is stopped, "Z" dead and not yet waited for."""
    return stat.read_text().rpartition(")")[2].split()[0]


def thread_states(process: int) -> list[str]:
    return [state_of(thread) for thread in Path(f"/proc/{process}/task").glob("*/stat")]


class Start(Protocol):
    """Starts one process of overnight; by default a service in rehearsal mode.

    `data` is its data directory. `settings` are environment variables beside FAST, and go over it. `halts` is an audit
    event and a pattern: the process halts there once (see halting.py).
    """

    async def __call__(
        self,
        *command: str,
        data: Path | None = None,
        settings: Mapping[str, str] | None = None,
        halts: tuple[str, str] | None = None,
    ) -> Service: ...


@contextlib.asynccontextmanager
async def services(place: Path) -> AsyncIterator[Start]:
    """What starts services below a directory; those that still run are killed at the end of the block."""
    started: list[Service] = []

    async def start(
        *command: str,
        data: Path | None = None,
        settings: Mapping[str, str] | None = None,
        halts: tuple[str, str] | None = None,
    ) -> Service:
        where = data or place / "data"
        where.mkdir(exist_ok=True)
        service = Service(where, command or SERVE, settings or {}, halts)
        started.append(service)
        await service.start()
        return service

    try:
        yield start
    finally:
        for service in started:
            if service.process is not None and service.process.returncode is None:
                await service.kill()
