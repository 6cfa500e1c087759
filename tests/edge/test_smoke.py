"""`overnight cloudflare smoke` and `overnight doctor`, the real program, on a real workerd with real workers."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest
from tests.webhook_receiver import webhook_receiver

pytestmark = pytest.mark.e2e

OVERNIGHT = Path(sys.executable).parent / "overnight"
STEPS = [
    "edge",
    "ledger",
    "archive store",
    "execute",
    "idempotency key",
    "worker",
    "result",
    "ledger and status",
]
STEPS += ["mirror", "events", "cancel", "clean-up"]


@pytest.fixture(scope="module")
def edge_settings(own_edge: Mapping[str, str]) -> Mapping[str, str]:
    return own_edge


@pytest.fixture
def environment(edge_settings: Mapping[str, str], tmp_path: Path) -> Mapping[str, str]:
    """Of a machine with the settings of the edge and a rehearsal instead of Anthropic."""
    return {
        **edge_settings,
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "COLUMNS": "400",
        "OVERNIGHT_DATA": str(tmp_path / "data"),
        "OVERNIGHT_REHEARSAL": "1",
        "OVERNIGHT_ISOLATION": "namespace",
        "OVERNIGHT_LEASE_SECONDS": "3",  # of an edge that waits for 4
        "OVERNIGHT_CALLBACK_ALLOW_HTTP": "1",
        "OVERNIGHT_CALLBACK_ALLOW_PRIVATE": "127.0.0.1/32",
    }


async def overnight(environment: Mapping[str, str], *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        OVERNIGHT, *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(240):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def told(out: str) -> list[str]:
    return re.findall(r"^✓ ([a-z -]+): .*\([0-9.]+ s\)$", out, re.MULTILINE)


@contextlib.asynccontextmanager
async def a_worker(environment: Mapping[str, str]) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        OVERNIGHT,
        "worker",
        env={name: value for name, value in environment.items() if name != "OVERNIGHT_URL"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"is ready" not in await process.stdout.readline():
                assert process.returncode is None
        yield
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


async def nothing_is_left(out: str, edge: httpx.AsyncClient, data: Path) -> bool:
    found = re.search(r"job ([0-9a-f-]{36}), session ([0-9a-f-]{36})", out)
    assert found is not None
    answers = [await edge.get(path) for path in (f"/status/{found[1]}", f"/sessions/{found[2]}")]
    zips = list((data / "archives").rglob("*.zip"))
    return [answer.status_code for answer in answers] == [404, 404] and zips == []


async def test_a_worker_that_runs_is_tried(
    environment: Mapping[str, str], edge: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with webhook_receiver() as (url, got), a_worker(environment):
        status, out, err = await overnight(environment, "cloudflare", "smoke", "--callback-url", url)
    assert (status, told(out)) == (0, [*STEPS[:-1], "webhook", "clean-up"]), out + err
    assert json.loads(got.get_nowait().body)["status"] == "completed"
    assert got.empty()
    assert "whichever worker runs" in out
    assert await nothing_is_left(out, edge, tmp_path / "data")


async def test_it_can_be_the_worker_itself(
    environment: Mapping[str, str], edge: httpx.AsyncClient, tmp_path: Path
) -> None:
    status, out, err = await overnight(environment, "cloudflare", "smoke", "--own-worker")
    assert (status, told(out)) == (0, STEPS), out + err
    assert "a worker in this process" in out
    assert await nothing_is_left(out, edge, tmp_path / "data")


async def test_without_a_worker_it_says_so_and_leaves_nothing(
    environment: Mapping[str, str], edge: httpx.AsyncClient, tmp_path: Path
) -> None:
    status, out, err = await overnight(environment, "cloudflare", "smoke", "--wait", "2")
    assert (status, told(out)) == (1, [*STEPS[:5], "clean-up"]), out + err
    assert "`worker` failed: no worker took the job in 2 s" in err
    assert "--own-worker" in err
    assert await nothing_is_left(out, edge, tmp_path / "data")


async def test_the_doctor_finds_the_edge_well(environment: Mapping[str, str]) -> None:
    _, out, err = await overnight(environment, "doctor", "--json")
    found = {check["name"]: check["verdict"] for check in json.loads(out)}
    wanted = ("Settings of the edge", "Edge", "Ledger", "Cloudflare token", "Queue", "Dead letters")
    assert {name for name in wanted if found.get(name) != "good"} == set(), out + err
    assert found["Rights of the token"] == "good"
    assert found["Clock"] == "note"  # workerd alone tells no time; Cloudflare does
