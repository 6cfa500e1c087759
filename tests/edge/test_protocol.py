"""Edge and worker speak one version of their protocol, and say which of the two is behind if they do not."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from overnight.adapters.cloudflare.documents import Read
from overnight.adapters.cloudflare.over_http import EdgeRefused, HttpDocuments, edge_documents
from overnight.adapters.cloudflare.protocol import PROTOCOL, PROTOCOL_HEADER
from overnight.serving import listen, serving, url_of

OVERNIGHT = Path(sys.executable).parent / "overnight"
NEWER, OLDER = str(int(PROTOCOL) + 1), str(int(PROTOCOL) - 1)
TEND_SECONDS = 4.0
"""Of the edge of the tests (tests/conftest.py)."""
EDGE, WORKER = "Deploy the edge again", "Update overnight where the worker runs"


@pytest.mark.parametrize(
    ("version", "told"),
    [(None, WORKER), ("canary", WORKER), ("9" * 5000, WORKER), (OLDER, WORKER), (NEWER, EDGE)],
)
@pytest.mark.parametrize("path", ["hello", "read?object=x", "write?object=x"])
async def test_the_edge_refuses_another_version_and_says_which_is_behind(
    edge_settings: Mapping[str, str], path: str, version: str | None, told: str
) -> None:
    headers = {"Authorization": f"Bearer {edge_settings['OVERNIGHT_LEDGER_TOKEN']}"}
    headers |= {PROTOCOL_HEADER: version} if version is not None else {}
    async with httpx.AsyncClient(base_url=edge_settings["OVERNIGHT_EDGE_URL"], trust_env=False) as client:
        answer = await client.post(f"/internal/ledger/{path}", content=b"{}", headers=headers)
    assert (answer.status_code, answer.headers[PROTOCOL_HEADER]) == (409, PROTOCOL)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (409, "protocol_mismatch")
    assert told in problem["detail"]
    assert "canary" not in answer.text


async def test_a_stranger_does_not_learn_the_version(edge_settings: Mapping[str, str]) -> None:
    async with httpx.AsyncClient(base_url=edge_settings["OVERNIGHT_EDGE_URL"], trust_env=False) as client:
        answer = await client.post("/internal/ledger/hello", headers={PROTOCOL_HEADER: NEWER})
    assert (answer.status_code, answer.content) == (401, b"")
    assert PROTOCOL_HEADER not in answer.headers


async def test_an_edge_of_the_same_version_is_greeted(documents: HttpDocuments) -> None:
    assert await documents.greet() == TEND_SECONDS


async def test_a_worker_whose_lease_outlasts_the_edges_patience_does_not_start(
    edge_settings: Mapping[str, str], tmp_path: Path
) -> None:
    """Cut off from the edge it would go on with a job that another worker has by then."""
    status, told = await worker(tmp_path, edge_settings, OVERNIGHT_LEASE_SECONDS=str(TEND_SECONDS))
    assert status == 2
    assert "OVERNIGHT_TEND_SECONDS" in told


@contextlib.asynccontextmanager
async def edge_of(version: str | None) -> AsyncIterator[tuple[str, list[str]]]:
    """The door of an edge of another version, and the paths that were asked of it."""
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.url.path)
        same = request.headers.get(PROTOCOL_HEADER) == version
        headers = {PROTOCOL_HEADER: version} if version is not None else {}
        return Response("{}", 200 if same or version is None else 409, headers)

    listener = listen("127.0.0.1", 0)
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with serving(app, listener, grace_seconds=1.0):
        yield url_of(listener), asked
    listener.close()


@pytest.mark.parametrize(("version", "told"), [(None, EDGE), (OLDER, EDGE), (NEWER, WORKER)])
async def test_what_a_worker_has_asked_of_another_edge_is_refused(version: str | None, told: str) -> None:
    async with edge_of(version) as (url, _), edge_documents(url, "token") as documents:
        with pytest.raises(EdgeRefused, match=told):
            await documents.read("x", Read())
        assert told in await asyncio.wait_for(documents.refused(), 1)


@pytest.mark.parametrize(("version", "told"), [(OLDER, EDGE), (NEWER, WORKER)])
async def test_a_worker_does_not_start_at_another_edge_and_takes_nothing(
    version: str, told: str, tmp_path: Path
) -> None:
    async with edge_of(version) as (url, asked):
        settings = {
            "OVERNIGHT_EDGE_URL": url,
            "OVERNIGHT_LEDGER_TOKEN": "token",
            "CLOUDFLARE_API_TOKEN": "token",
            "CLOUDFLARE_ACCOUNT_ID": "a",
            "OVERNIGHT_CLOUDFLARE_API_URL": url,
            "OVERNIGHT_CLOUDFLARE_QUEUE_ID": "q",
        }
        status, said = await worker(tmp_path, settings)
    assert status == 1
    assert told in said
    assert asked == ["/internal/ledger/hello"]


async def worker(data: Path, settings: Mapping[str, str], **more: str) -> tuple[int | None, str]:
    """How an `overnight worker` ended that does not start, and what it said."""
    process = await asyncio.create_subprocess_exec(
        str(OVERNIGHT),
        *("worker", "--data", str(data)),
        env={"PATH": os.environ["PATH"], "HOME": str(data), "OVERNIGHT_REHEARSAL": "1", **settings, **more},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            _, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, " ".join(error.decode().split())
