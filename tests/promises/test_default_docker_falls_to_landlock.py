"""In a default container, where namespaces are refused, a service goes on with Landlock; below it, it runs no jobs."""

import asyncio
import base64
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.waiting import eventually

from overnight.agent.attack import REQUIRED
from overnight.agent.seccomp import program
from overnight.settings import Settings
from overnight.wiring import Running, running_service

pytestmark = pytest.mark.e2e

DOCKER = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service"),
    *("net_raw", "sys_chroot", "mknod", "audit_write", "setfcap"),
)
"""The capabilities of a container that was started without options."""

# Our own filter refuses what the default profile of Docker does: namespaces, mount, keyctl, bpf and more.
CONTAINED = """
import base64, ctypes, os, struct, sys
program = base64.b64decode(sys.argv[1])
buffer = ctypes.create_string_buffer(program, len(program))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextlib.asynccontextmanager
async def contained(data: Path) -> AsyncIterator[tuple[str, list[str]]]:
    """A service in what Docker gives by default; its URL and its banner."""
    bounding = ",".join(("-all", *(f"+{name}" for name in DOCKER)))
    capabilities = [shutil.which("setpriv") or "setpriv", f"--bounding-set={bounding}", "--inh-caps=-all"]
    service = [str(Path(sys.executable).parent / "overnight"), "serve", "--rehearsal", "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *(capabilities if os.geteuid() == 0 else []),
        *(sys.executable, "-c", CONTAINED, base64.b64encode(program(datagrams=True)).decode()),
        *(*service, "--data", str(data)),
        env={"PATH": os.environ["PATH"], "HOME": str(data)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        banner: list[str] = []
        async with asyncio.timeout(60):
            while not banner or "is ready at" not in banner[-1]:
                line = await process.stdout.readline()
                assert line, banner
                banner.append(line.decode().rstrip())
        yield banner[-1].rpartition(" ")[2], banner
    finally:
        process.terminate()
        await process.communicate()


async def job_of(client: httpx.AsyncClient, prompt: str) -> dict[str, object]:
    """Once it has ended."""
    job_id = (await client.post("/execute", json={"prompt": prompt})).json()["job_id"]

    async def ended() -> dict[str, object] | None:
        job = dict((await client.get(f"/status/{job_id}")).json())
        return job if job["status"] in {"completed", "failed"} else None

    return await eventually(ended)


async def test_a_job_is_run_under_landlock_where_namespaces_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with contained(data) as (url, banner), httpx.AsyncClient(base_url=url, trust_env=False) as client:
        ready = await client.get("/readyz")
        job = await job_of(client, "x\nrehearsal: bash cat ../../../overnight.db\nrehearsal: answer done")
    (line,) = [line for line in banner if "isolation" in line]
    assert "landlock (attacked at start-up" in line
    assert "The tier `namespace` does not hold here" in line
    assert ready.status_code == 200
    told = ready.json()
    assert told["isolation"] == "landlock"
    held = {name for name, holds in told["isolation_properties"].items() if holds}
    assert held >= REQUIRED["landlock"]
    if os.geteuid() == 0:
        # Also without the right to look into the processes of other users, which Docker takes from root.
        assert held >= {"own_user", "process_limit", "signals", "survivors"}
    assert (job["status"], job["result"], job["isolation"]) == ("completed", "done", "landlock")


@contextlib.asynccontextmanager
async def unsandboxed(data: Path, **more: str) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    given: dict[str, Any] = {"data": data, "port": 0, "rehearsal": True, "isolation": "none", **more}
    settings = Settings(**given)
    async with (
        running_service(settings, recorded=False) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        yield running, client


async def test_below_the_minimum_no_job_is_run(tmp_path: Path) -> None:
    async with unsandboxed(tmp_path) as (running, client):
        ready = await client.get("/readyz")
        job_id = (await client.post("/execute", json={"prompt": "x"})).json()["job_id"]
        status = (await client.get(f"/status/{job_id}")).json()["status"]
    assert ready.status_code == 503
    (reason,) = ready.json()["reasons"]
    assert "NO JOBS ARE RUN" in reason
    assert "OVERNIGHT_ALLOW_UNSANDBOXED=i-understand" in reason
    assert any("NO JOBS ARE RUN" in line for line in running.banner)
    assert status == "queued"


async def test_the_operator_can_insist(tmp_path: Path) -> None:
    async with unsandboxed(tmp_path, allow_unsandboxed="i-understand") as (running, client):
        assert (await client.get("/readyz")).status_code == 200
        job = await job_of(client, "x\nrehearsal: answer done")
    assert (job["status"], job["isolation"]) == ("completed", "none")
    assert any("RUNS ARE NOT ISOLATED" in line for line in running.banner)
