"""From POST /execute on workerd to the webhook: `overnight worker` with the real Claude Code on the rehearsal API."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from tests.waiting import eventually
from tests.webhook_receiver import webhook_receiver

from overnight.adapters.cloudflare.queue import CloudflareQueue
from overnight.domain.keys import RANDOM_BYTES, new_key
from overnight.ports import Clock

pytestmark = pytest.mark.e2e

OVERNIGHT = Path(sys.executable).parent / "overnight"
FINAL = {"completed", "failed", "cancelled"}


class Worker:
    """One `overnight worker` process; what it needs to know of the edge is in its environment."""

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        self.data = data
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.data.mkdir(exist_ok=True)
        with (self.data / "stderr.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(OVERNIGHT),
                "worker",
                "--data",
                str(self.data),
                env={"PATH": os.environ["PATH"], "HOME": str(self.data), **self._environment},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            async for line in self._process.stdout:
                if b"is ready" in line:
                    return
        raise AssertionError(self.log[-2000:])

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(40):
            return await self._process.wait()

    @property
    def log(self) -> str:
        return (self.data / "stderr.log").read_text()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None


@pytest.fixture(scope="module")
def edge_settings(own_edge: Mapping[str, str]) -> Mapping[str, str]:
    return own_edge


@pytest.fixture
def worker(edge_settings: Mapping[str, str], worker_of: Callable[..., Worker]) -> Callable[[str], Worker]:
    return partial(worker_of, edge_settings)


@pytest.fixture
async def worker_of(tmp_path: Path) -> AsyncIterator[Callable[..., Worker]]:
    """`worker_of(edge_settings, name, **more)`: workers on one machine, each with a directory of its own but for the
    archives."""
    made: list[Worker] = []
    archives = tmp_path / "archives"
    archives.mkdir()

    def make(edge_settings: Mapping[str, str], name: str, **more: str) -> Worker:
        data = tmp_path / name
        data.mkdir(exist_ok=True)
        if not (data / "archives").exists():
            (data / "archives").symlink_to(archives)
        environment = {
            **{key: value for key, value in edge_settings.items() if key != "OVERNIGHT_URL"},
            "OVERNIGHT_REHEARSAL": "1",
            "OVERNIGHT_LEASE_SECONDS": "3",
            "OVERNIGHT_ISOLATION": "namespace",
            "OVERNIGHT_CALLBACK_ALLOW_HTTP": "1",
            "OVERNIGHT_CALLBACK_ALLOW_PRIVATE": "127.0.0.1/32",
            **more,
        }
        made.append(Worker(data, environment))
        return made[-1]

    yield make
    for one in made:
        if one.runs:
            await one.end(signal.SIGKILL)


def lines(*directives: str, words: str = "Do it.") -> str:
    return "\n".join([words, *(f"rehearsal: {directive}" for directive in directives)])


async def submit(edge: httpx.AsyncClient, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = await edge.post("/execute", json={"prompt": prompt, **fields})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def when(
    edge: httpx.AsyncClient, job_id: str, true: Callable[[dict[str, Any]], bool], *, seconds: float = 60
) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        job = dict((await edge.get(f"/status/{job_id}")).json())
        return job if true(job) else None

    return await eventually(look, seconds=seconds)


def is_final(job: Mapping[str, Any]) -> bool:
    return job["status"] in FINAL


async def kinds_of(edge: httpx.AsyncClient, job_id: str) -> list[str]:
    return [event["type"] for event in await events_of(edge, job_id)]


async def events_of(edge: httpx.AsyncClient, job_id: str, kind: str | None = None) -> list[dict[str, Any]]:
    page = (await edge.get(f"/jobs/{job_id}/events", params={"limit": 1000})).json()
    return [event for event in page["data"] if kind in {None, event["type"]}]


async def test_a_job_goes_from_the_edge_to_a_worker_and_back(
    edge: httpx.AsyncClient, worker: Callable[[str], Worker], webhook_secret: str, tmp_path: Path
) -> None:
    """And the session goes on at another worker."""
    first = worker("one")
    await first.start()
    async with webhook_receiver() as (url, got):
        prompt = lines("write note.txt hello", "answer all done", words="Remember the blue whale.")
        job = await submit(edge, prompt, callback_url=url)
        headers, body = await asyncio.wait_for(got.get(), 60)
    told = Webhook(webhook_secret).verify(body, headers)
    assert (told["job_id"], told["status"], told["result"]) == (job["job_id"], "completed", "all done")
    done = await when(edge, job["job_id"], is_final)
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "all done", 1)
    assert zipfile.ZipFile(tmp_path / "archives" / done["archive"]).read("note.txt") == b"hello"
    kinds = await kinds_of(edge, job["job_id"])
    assert (kinds[:2], kinds[-1]) == (["job.queued", "job.started"], "job.completed")

    async def delivered() -> bool | None:
        rows = (await edge.get(f"/jobs/{job['job_id']}/deliveries")).json()["data"]
        return True if [row["status"] for row in rows] == ["delivered"] else None

    await eventually(delivered)
    assert await first.end(signal.SIGTERM) == 0

    await worker("two").start()
    again = await submit(edge, lines("bash cat note.txt", "recall"), session_id=job["session_id"])
    done = await when(edge, again["job_id"], is_final)
    assert "Remember the blue whale." in done["result"]


async def test_a_killed_workers_job_is_run_again(
    edge: httpx.AsyncClient, worker: Callable[[str], Worker]
) -> None:
    """The ledger's alarm notices that the lease was not renewed, and rings."""
    first = worker("one")
    await first.start()
    job = await submit(
        edge,
        lines("bash if [ -e again ]; then echo on; else touch again; exec sleep 600; fi", "answer went on"),
    )

    await eventually(lambda: found(first.data / "runs", "again"))
    await first.end(signal.SIGKILL)
    await worker("one").start()
    done = await when(edge, job["job_id"], is_final, seconds=90)
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "went on", 2)
    assert "job.worker_lost" in await kinds_of(edge, job["job_id"])


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGKILL, "job.worker_lost"), (signal.SIGTERM, "job.handed_back")]
)
async def test_another_machine_goes_on_from_the_checkpoint_of_a_worker_that_went(
    edge: httpx.AsyncClient,
    edge_settings: Mapping[str, str],
    worker_of: Callable[..., Worker],
    tmp_path: Path,
    number: signal.Signals,
    told: str,
) -> None:
    """Killed, or told to stop: then it hands the job back, and nobody waits for an alarm."""
    first = worker_of(edge_settings, "one", OVERNIGHT_CHECKPOINT_SECONDS="1")
    await first.start()
    job = await submit(
        edge,
        lines("bash if [ -e again ]; then echo on; else touch again; exec sleep 600; fi", "answer went on"),
    )

    async def stored() -> bool | None:
        names = [
            event["data"]["archive"] for event in await events_of(edge, job["job_id"], "checkpoint.saved")
        ]
        return True if names and in_zip(tmp_path / "archives" / names[-1], "again") else None

    await eventually(stored)
    await first.end(number)
    await worker_of(edge_settings, "two").start()
    done = await when(edge, job["job_id"], is_final, seconds=90)
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "went on", 2)
    ready = await events_of(edge, job["job_id"], "workspace.ready")
    assert [event["data"]["source"] for event in ready] == ["new", "checkpoint"]
    assert await events_of(edge, job["job_id"], told)


def in_zip(path: Path, name: str) -> bool:
    try:
        return name in zipfile.ZipFile(path).namelist()
    except FileNotFoundError:  # a newer one has taken its place
        return False


async def test_bells_that_ring_twice_for_two_workers_run_each_job_once_and_in_order(
    edge: httpx.AsyncClient, worker: Callable[[str], Worker], queue: CloudflareQueue, clock: Clock
) -> None:
    first = await submit(edge, lines("bash echo one >> order.txt", "answer one"))
    second = await submit(
        edge,
        lines("bash echo two >> order.txt", "bash cat order.txt", "answer two"),
        session_id=first["session_id"],
    )
    for job in (second, first, first, second):
        await queue.send(job["job_id"], at=clock.now())
    await asyncio.gather(worker("one").start(), worker("two").start())
    done = [await when(edge, job["job_id"], is_final) for job in (first, second)]
    assert [(job["status"], job["attempt"]) for job in done] == [("completed", 1)] * 2
    assert done[0]["completed_at"] <= done[1]["started_at"]
    page = (await edge.get(f"/jobs/{second['job_id']}/events")).json()["data"]
    shown = [event["data"] for event in page if event["type"] == "tool.finished"]
    assert "one\\ntwo" in json.dumps(shown)


async def test_a_cancel_stops_the_run_of_a_worker(
    edge: httpx.AsyncClient, worker: Callable[[str], Worker]
) -> None:
    await worker("one").start()
    job = await submit(edge, lines("bash exec sleep 600", "answer never"))
    await when(edge, job["job_id"], lambda now: now["status"] == "processing")
    assert (await edge.post(f"/jobs/{job['job_id']}/cancel")).status_code == 202
    done = await when(edge, job["job_id"], is_final)
    assert done["status"] == "cancelled"


async def test_a_prompt_of_900_kilobytes_reaches_the_agent_whole(
    edge: httpx.AsyncClient, worker: Callable[[str], Worker], tmp_path: Path
) -> None:
    """A message of the queue takes 128 KB: this prompt travels in the ledger."""
    words = "é" * 450_000
    await worker("one").start()
    job = await submit(edge, lines("write note.txt hello", "answer read it all", words=words))
    done = await when(edge, job["job_id"], is_final)
    assert (done["status"], done["result"]) == ("completed", "read it all")
    with zipfile.ZipFile(tmp_path / "archives" / done["archive"]) as archive:
        (transcript,) = [name for name in archive.namelist() if name.endswith(".jsonl")]
        assert words in archive.read(transcript).decode()


async def test_a_worker_whose_token_is_revoked_stores_nothing_and_another_finishes_its_job(
    start_edge: Callable[..., contextlib.AbstractContextManager[Mapping[str, str]]],
    worker_of: Callable[..., Worker],
    tmp_path: Path,
) -> None:
    """The edge is deployed again with another token, at the same address and with the same data. The worker's lease
    outlasts that: it is the refusal that ends the run."""
    key, port = new_key(bytes(range(RANDOM_BYTES))), free_port()
    options = ("--state", str(tmp_path / "state"), "--tend", "25", "--port", str(port))
    hangs = lines(
        "bash if [ -e again ]; then echo on; else touch again; exec sleep 600; fi", "answer went on"
    )
    async with client_of(f"http://127.0.0.1:{port}", key) as edge:
        with start_edge(tmp_path, *options, key=key) as settings:
            first = worker_of(settings, "one", OVERNIGHT_LEASE_SECONDS="24", OVERNIGHT_CHECKPOINT_SECONDS="0")
            await first.start()
            job = await submit(edge, hangs)
            await eventually(lambda: found(first.data / "runs", "again"))
        with start_edge(tmp_path, *options, key=key) as settings:
            assert await first.ended() == 1
            assert "OVERNIGHT_LEDGER_TOKEN" in first.log
            assert not list((tmp_path / "archives").rglob("*.zip"))
            await worker_of(settings, "one").start()
            done = await when(edge, job["job_id"], is_final, seconds=150)
            kinds = await kinds_of(edge, job["job_id"])
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "went on", 2)
    assert kinds.count("job.started") == 2
    assert "job.worker_lost" in kinds


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def client_of(url: str, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60)


async def found(directory: Path, name: str) -> bool | None:
    return True if await asyncio.to_thread(_is_there, directory, name) else None


def _is_there(directory: Path, name: str) -> bool:
    try:
        return any(directory.rglob(name))
    except OSError:  # directories come and go under the search
        return False
