"""What becomes of a message that no worker deals with: pulled too often, it ends its job, which can be sent again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from tests.waiting import eventually

from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.queue import CloudflareQueue
from overnight.domain.job import Status
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.transitions import finish, start
from overnight.ports import Bell, Clock, Entropy

MAX_RETRIES = 2
PATIENCE_SECONDS = 60.0
DONE = Outcome(ending=Ending.DONE, result="forty-two")


@pytest.fixture(scope="module")
def edge_settings(
    start_edge: Callable[..., contextlib.AbstractContextManager[Mapping[str, str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, str]]:
    """An edge whose queue gives up soon, and whose alarms ring for nothing meanwhile."""
    options = ("--tend", "600", "--retries", str(MAX_RETRIES))
    with start_edge(tmp_path_factory.mktemp("edge"), *options) as settings:
        yield settings


class Raw:
    """The queue as its pull interface is, for what the adapter would not do."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def push(self, body: object) -> None:
        """A message that overnight did not make, as anybody with a token of the queue can send it."""
        answer = await self._client.post("messages", json={"body": body, "content_type": "json"})
        answer.raise_for_status()

    async def let_die(self, count: int) -> None:
        """Workers that die with those messages in their hands, one after the other, until the queue gives up."""

        async def all_there() -> bool | None:
            return await self._backlog() >= count or None

        async with asyncio.timeout(PATIENCE_SECONDS):
            await eventually(all_there)
            while await self._backlog() > 0:
                await self._client.post("messages/pull", json={"batch_size": 9, "visibility_timeout_ms": 1})

    async def _backlog(self) -> int:
        return int((await self._client.get("metrics")).json()["result"]["backlog_count"])


@pytest.fixture
async def raw(edge_settings: Mapping[str, str]) -> AsyncIterator[Raw]:
    account, name = edge_settings["CLOUDFLARE_ACCOUNT_ID"], edge_settings["OVERNIGHT_CLOUDFLARE_QUEUE_ID"]
    url = f"{edge_settings['OVERNIGHT_CLOUDFLARE_API_URL']}/accounts/{account}/queues/{name}/"
    headers = {"Authorization": f"Bearer {edge_settings['CLOUDFLARE_API_TOKEN']}"}
    async with httpx.AsyncClient(base_url=url, trust_env=False, headers=headers) as client:
        yield Raw(client)


async def submit(edge: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await edge.post("/execute", json={"prompt": "p", **body})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def bell_of(queue: CloudflareQueue, job_id: str) -> Bell:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (bells := await queue.receive(limit=1, visibility_seconds=60, wait_seconds=5)):
            pass
    assert bells[0].job_id == job_id
    return bells[0]


async def when(edge: httpx.AsyncClient, job_id: str, status: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        job = dict((await edge.get(f"/status/{job_id}")).json())
        return job if job["status"] == status else None

    return await eventually(look, seconds=PATIENCE_SECONDS)


async def test_a_poisonous_message_ends_its_job_which_can_be_sent_again(
    edge: httpx.AsyncClient,
    queue: CloudflareQueue,
    raw: Raw,
    ledger: LedgerStore,
    clock: Clock,
    entropy: Entropy,
) -> None:
    job = await submit(edge, callback_url="http://127.0.0.1:9/hook")
    job_id = job["job_id"]
    await raw.let_die(1)
    failed = await when(edge, job_id, "failed")
    assert (failed["error"]["code"], failed["error"]["retryable"]) == ("undelivered", True)
    assert "send the job again" in failed["error"]["message"]
    (owed,) = (await edge.get(f"/jobs/{job_id}/deliveries")).json()["data"]
    assert owed["status"] == "owed"
    debt = await bell_of(queue, job_id)  # so that a worker pays it now
    await queue.ack(debt)

    assert (await edge.post(f"/jobs/{job_id}/retry")).status_code == 202
    await queue.ack(await bell_of(queue, job_id))
    await ledger.change(job_id, start(worker="w", now=clock.now(), lease_seconds=60, isolation="namespace"))
    done = finish(DONE, attempt=1, now=clock.now(), archive=None, delivery_id=entropy.delivery_id())
    await ledger.change(job_id, done)
    completed = await when(edge, job_id, "completed")
    assert (completed["result"], completed["error"]) == ("forty-two", None)
    events = (await edge.get(f"/jobs/{job_id}/events")).json()["data"]
    kinds = [event["type"] for event in events]
    assert kinds == ["job.queued", "job.failed", "job.resent", "job.started", "job.completed"]


async def test_the_next_job_of_the_session_is_rung_for(
    edge: httpx.AsyncClient, queue: CloudflareQueue, raw: Raw
) -> None:
    first = await submit(edge)
    second = await submit(edge, session_id=first["session_id"])
    bells: dict[str, Bell] = {}
    while len(bells) < 2:
        for bell in await queue.receive(limit=2, visibility_seconds=60, wait_seconds=5):
            bells[bell.job_id] = bell
    await queue.ack(bells[second["job_id"]])  # as a worker does that finds the session busy
    await queue.retry(bells[first["job_id"]], at=0.0)
    await raw.let_die(1)
    await when(edge, first["job_id"], "failed")
    await queue.ack(await bell_of(queue, second["job_id"]))


async def test_letters_that_concern_no_waiting_job_are_dropped_once_and_for_all(
    edge: httpx.AsyncClient,
    queue: CloudflareQueue,
    ledger: LedgerStore,
    clock: Clock,
    entropy: Entropy,
    raw: Raw,
) -> None:
    """Garbage, a job that nobody knows, one that runs: those after them still come to their end."""
    running = await submit(edge)
    await queue.ack(await bell_of(queue, running["job_id"]))
    decide = start(worker="w", now=clock.now(), lease_seconds=600, isolation="namespace")
    await ledger.change(running["job_id"], decide)
    poisoned = await submit(edge)
    await raw.push({"job_id": "../etc", "prompt": ["x", None, {"a": 2**60}]})
    await raw.push("text")
    for job_id in (entropy.job_id(), running["job_id"]):
        await queue.send(job_id, at=clock.now())
    await raw.let_die(5)
    await when(edge, poisoned["job_id"], "failed")
    assert (await ledger.snapshot(running["job_id"])).job.status is Status.PROCESSING
    assert not await queue.receive(limit=9, visibility_seconds=1, wait_seconds=3)
