"""POST /execute: our API against FastAPI and against bare ASGI, over the same store. See bench/README.md."""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import uvicorn
import uvloop
from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.memory_keys import MemoryKeys
from overnight.adapters.sqlite.database import open_database
from overnight.adapters.sqlite.queue import SqliteQueue
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.api import ApiParts, Limits, Readiness, create_app
from overnight.api.requests import ExecuteRequest, execute_decoder, job_request
from overnight.api.views import Accepted
from overnight.domain.address import CallbackPolicy
from overnight.domain.keys import LOCAL
from overnight.domain.redaction import Redactor
from overnight.flows.kept_here import KeptHere
from overnight.flows.keyring import KeyRing
from overnight.flows.submit import submit
from overnight.ports import JobStore, Queue

SERVERS = ("bare ASGI", "overnight", "FastAPI")
STORES = ("memory", "sqlite")
CONNECTIONS = 64
BODY = b'{"prompt": "Write a program that prints the first ten primes, and run it.", "max_turns": 20}'
REQUEST = (
    b"POST /execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)


class FastApiRequest(BaseModel):
    """The same fields and limits as `ExecuteRequest`, by pydantic."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1, pattern=r"\S")]
    session_id: str | None = None
    callback_url: str | None = None
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@/\[\]-]{1,128}$")] | None = None
    max_turns: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_budget_usd: Annotated[float, Field(gt=0)] | None = None
    timeout_seconds: Annotated[float, Field(ge=1, le=1500)] | None = None
    append_system_prompt: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    output_schema: dict[str, Any] | None = None
    metadata: dict[str, str] = {}


async def accept(parts: ApiParts, body: ExecuteRequest) -> Accepted:
    created = await submit(
        job_request(body, policy=parts.callback_policy, limits=parts.limits, models=()),
        session_id=body.session_id,
        caller=LOCAL,
        max_queued_by_all=parts.limits.max_queued,
        idempotency=None,
        store=parts.store,
        queue=parts.queue,
        clock=parts.clock,
        entropy=parts.entropy,
    )
    return Accepted(job_id=created.change.job.job_id, session_id=created.change.job.session_id)


def bare_asgi(parts: ApiParts) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        answer = msgspec.json.encode(await accept(parts, execute_decoder.decode(body)))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def fast_api(parts: ApiParts) -> Any:
    app = FastAPI()

    @app.post("/execute", status_code=202)
    async def execute(
        body: FastApiRequest, idempotency_key: Annotated[str | None, Header()] = None
    ) -> JSONResponse:
        accepted = await accept(parts, ExecuteRequest(**body.model_dump()))
        headers = {"Location": f"/status/{accepted.job_id}"}
        return JSONResponse(msgspec.to_builtins(accepted), 202, headers)

    return app


@asynccontextmanager
async def stored(kind: str, directory: Path) -> AsyncIterator[tuple[JobStore, Queue]]:
    clock, entropy, wakeups = SystemClock(), SystemEntropy(), MemoryWakeups()
    if kind == "memory":
        yield MemoryStore(wakeups, clock), MemoryQueue(wakeups, clock, entropy)
    else:
        async with open_database(directory) as database:
            yield SqliteStore(database, wakeups, clock), SqliteQueue(database, wakeups, clock, entropy)


async def serve(server: str, kind: str, listening: socket.socket) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        async with stored(kind, Path(scratch)) as (store, queue):
            clock, wakeups = SystemClock(), MemoryWakeups()
            parts = ApiParts(
                store=store,
                index=MemoryStore(wakeups, clock),
                queue=queue,
                archives=MemoryArchives(SystemClock()),
                wakeups=wakeups,
                clock=clock,
                entropy=SystemEntropy(),
                callback_policy=CallbackPolicy(),
                limits=Limits(max_body_bytes=1 << 20, max_archive_bytes=1 << 20, max_timeout_seconds=1500.0),
                scratch=Path(scratch),
                allowed_hosts=("127.0.0.1",),
                keys=KeyRing(MemoryKeys(), clock),
                kept=KeptHere(Path(scratch)),
                free_bytes=lambda: 1 << 30,
                ready=lambda: Readiness(ok=True, draining=False, isolation="none"),
                version="bench",
                redactor=Redactor(),
            )
            app = {"bare ASGI": bare_asgi, "overnight": create_app, "FastAPI": fast_api}[server](parts)
            config = uvicorn.Config(
                app, http="httptools", log_level="error", access_log=False, lifespan="off"
            )
            await uvicorn.Server(config).serve([listening])


async def connection(port: int, until: float, waits: list[float]) -> None:
    """One keep-alive connection: a request, its answer, the next request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (begun := time.perf_counter()) < until:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202"), head
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        waits.append(time.perf_counter() - begun)
    writer.close()


async def load(port: int, seconds: float) -> list[float]:
    waits: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(connection(port, until, waits) for _ in range(CONNECTIONS)))
    return waits


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server: str, kind: str, seconds: float) -> tuple[float, float, float]:
    """Requests per second, CPU microseconds of the server per request, and the 99th percentile in ms."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, __file__, "--serve", server, kind, str(listening.fileno())]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
        try:
            asyncio.run(load(port, 0.3))  # connecting waits in the backlog until it is up; then it is warm
            before = cpu_seconds(process.pid)
            waits = asyncio.run(load(port, seconds))
            used = cpu_seconds(process.pid) - before
        finally:
            process.terminate()
            process.wait()
    return len(waits) / seconds, used / len(waits) * 1e6, statistics.quantiles(waits, n=100)[98] * 1e3


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--serve", nargs=3, metavar=("SERVER", "STORE", "FD"))
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=1.5)
    given = arguments.parse_args()
    if given.serve:
        server, kind, fd = given.serve
        uvloop.install()
        asyncio.run(serve(server, kind, socket.socket(fileno=int(fd))))
        return
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for _ in range(given.rounds):  # interleaved, so that a busy moment of the machine hits all alike
        for kind in STORES:
            for server in SERVERS:
                found[kind, server].append(measure(server, kind, given.seconds))
    print("| store | server | requests/s [least-most] | of bare ASGI | CPU us/request | p99 ms |")
    print("|---|---|---|---|---|---|")
    for (kind, server), runs in found.items():
        rates, cpu, p99 = ([run[column] for run in runs] for column in range(3))
        share = statistics.median(rates) / statistics.median(run[0] for run in found[kind, SERVERS[0]])
        print(
            f"| {kind} | {server} | {statistics.median(rates):,.0f} [{min(rates):,.0f}-{max(rates):,.0f}] "
            f"| {share:.2f} | {statistics.median(cpu):.0f} | {statistics.median(p99):.1f} |"
        )


if __name__ == "__main__":
    main()
