"""An account's stand-in that also takes what wrangler sends, an edge that only answers, and the command itself."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import typer.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from overnight.adapters.cloudflare.messages import MAX_RETRIES
from overnight.adapters.cloudflare.protocol import PROTOCOL
from overnight.cli.main import app
from overnight.deploying.names import WORKER
from overnight.rehearsal.account import StandInAccount, account_app
from overnight.rehearsal.pull_queue import pull_queue_app
from overnight.serving import listen, serving, url_of

TOKEN = "a-token-of-the-account"


@dataclass
class Uploads:
    """What wrangler, the real one, has sent."""

    bodies: list[bytes] = field(default_factory=list)
    refuse: bool = False


def _said(result: object) -> Response:
    return JSONResponse({"success": True, "errors": [], "messages": [], "result": result})


def wrangler_calls(account: StandInAccount, uploads: Uploads) -> list[Route]:
    """The calls of wrangler 4.164.0 that the official client does not make; measured by letting it run."""
    script = "/accounts/{account}/workers/scripts/{script}"

    async def upload(request: Request) -> Response:
        body = await request.body()
        if uploads.refuse:
            errors = [{"code": 10021, "message": "the script is not well"}]
            return JSONResponse({"success": False, "errors": errors, "messages": [], "result": None}, 400)
        uploads.bodies.append(body)
        account.secrets.setdefault(request.path_params["script"], {})
        return _said(
            {
                "id": WORKER,
                "etag": "e",
                "startup_time_ms": 5,
                "deployment_id": "d",
                "entry_point": "worker.py",
            }
        )

    async def secrets(request: Request) -> Response:
        sent = (await request.json())["secrets"]
        account.secrets[request.path_params["script"]] |= {name: told["text"] for name, told in sent.items()}
        return _said([])

    async def given(request: Request) -> Response:
        """From the recording program, which is no wrangler."""
        account.secrets[request.path_params["script"]] = await request.json()
        return _said(None)

    async def missing(request: Request) -> Response:
        errors = [{"code": 10007, "message": "not found"}]
        return JSONResponse({"success": False, "errors": errors, "messages": [], "result": None}, 404)

    async def answer(result: object, request: Request) -> Response:
        return _said(result)

    on = {"enabled": True, "previews_enabled": False}
    return [
        Route("/accounts/{account}/workers/services/{script}", missing),
        Route(script + "/deployments", partial(answer, {"deployments": []})),
        Route(script + "/settings", missing),
        Route(script, upload, methods=["PUT"]),
        Route(script + "/script-settings", partial(answer, {}), methods=["PATCH"]),
        Route(script + "/subdomain", partial(answer, on), methods=["GET", "POST"]),
        Route(script + "/schedules", partial(answer, []), methods=["GET", "PUT"]),
        Route(script + "/secrets-bulk", secrets, methods=["PATCH"]),
        Route("/secrets-of/{script}", given, methods=["POST"]),
        Route("/accounts/{account}/workers/workers/{script}", partial(answer, {"id": "w", "subdomain": on})),
        Route("/accounts/{account}/workers/domains/records", partial(answer, [])),
        Route("/accounts/{account}/queues/{queue}", partial(answer, {}), methods=["PATCH", "PUT"]),
    ]


@pytest.fixture
def account() -> StandInAccount:
    """A new one: nothing is in it but a name below workers.dev."""
    return StandInAccount(token=TOKEN)


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
async def api(account: StandInAccount, uploads: Uploads) -> AsyncIterator[str]:
    """The address of Cloudflare's API."""
    pull = pull_queue_app(account.token, time.time, max_retries=MAX_RETRIES)
    async with _served(account_app(account, pull, more=wrangler_calls(account, uploads))) as url:
        yield url


@dataclass
class FakeEdge:
    """`healthz` and the read of the ledger, as an edge that has been deployed here would answer them."""

    account: StandInAccount
    url: str = ""
    protocol: str = PROTOCOL

    async def health(self, request: Request) -> Response:
        return JSONResponse({"service": "overnight", "version": "0.1.0", "status": "ok"})

    async def read(self, request: Request) -> Response:
        """An edge names its own protocol with every answer of the ledger."""
        answer = self._read(request)
        answer.headers["overnight-protocol"] = self.protocol
        return answer

    def _read(self, request: Request) -> Response:
        token = self.account.secrets.get(WORKER, {}).get("OVERNIGHT_LEDGER_TOKEN", "")
        if not token or request.headers["authorization"] != f"Bearer {token}":
            return Response(status_code=401)
        if request.headers["overnight-protocol"] != self.protocol:
            return Response(status_code=409)
        return JSONResponse({"documents": {}})


@pytest.fixture
async def fake_edge(account: StandInAccount) -> AsyncIterator[FakeEdge]:
    made = FakeEdge(account)
    routes = [Route("/healthz", made.health), Route("/internal/ledger/read", made.read, methods=["POST"])]
    async with _served(Starlette(routes=routes)) as url:
        made.url = url
        yield made


@contextlib.asynccontextmanager
async def _served(app: Starlette) -> AsyncIterator[str]:
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        async with serving(app, listener, grace_seconds=1.0):
            yield url_of(listener)


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Command:
    """The program, with the settings of somebody who deploys, in a thread: its servers are in this loop."""

    environment: dict[str, str]

    async def __call__(self, *words: str, **changed: str | None) -> Ended:
        environment = {**self.environment, **changed}
        runner = typer.testing.CliRunner()
        done = await asyncio.to_thread(
            runner.invoke, app, list(words), env=environment, catch_exceptions=False
        )
        return Ended(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def command(api: str, fake_edge: FakeEdge, tmp_path: Path) -> Command:
    if which("npm") is None:
        pytest.skip("the edge needs node and npm")
    return Command(
        {
            "OVERNIGHT_DATA": str(tmp_path / "data"),
            "OVERNIGHT_CLOUDFLARE_API_URL": api,
            "CLOUDFLARE_API_TOKEN": TOKEN,
            "CLOUDFLARE_ACCOUNT_ID": "an-account",
            "OVERNIGHT_EDGE_URL": fake_edge.url,
            "COLUMNS": "400",
        }
    )


RECORDER = """#!{python}
import json, os, sys
given = sys.stdin.read()
call = {{"argv": sys.argv[1:], "stdin": given, "token": os.environ["CLOUDFLARE_API_TOKEN"]}}
with open({calls!r}, "a") as file:
    file.write(json.dumps(call) + "\\n")
"""


@dataclass(frozen=True)
class Recorded:
    """An edge directory in which a program that only notes its calls stands where node would."""

    edge: Path
    script: Path

    def calls(self) -> list[dict[str, Any]]:
        notes = self.edge / "calls"
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def tell_secrets_to(self, url: str) -> None:
        """Also send them where wrangler would."""
        with self.script.open("a") as file:
            file.write(
                f"if given:\n    import urllib.request\n    urllib.request.urlopen({url!r}, given.encode())\n"
            )


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    edge = tmp_path / "edge"
    node = edge / "node_modules" / "node-here" / "bin" / "node"
    node.parent.mkdir(parents=True)
    node.write_text(RECORDER.format(python=sys.executable, calls=str(edge / "calls")))
    node.chmod(0o755)
    wrangler = edge / "node_modules" / "wrangler" / "bin" / "wrangler.js"
    wrangler.parent.mkdir(parents=True)
    wrangler.touch()
    (edge / "prepare.py").touch()
    (edge / "wrangler.jsonc").write_text('{"kv_namespaces": [{"id": "set-by-deploy"}]}')
    return Recorded(edge, node)
