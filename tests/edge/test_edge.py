"""What the edge adds to the API: its queue, its mirror of statuses, its streams, its ledger's door."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch, Read
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.over_http import HttpDocuments, edge_documents
from overnight.adapters.cloudflare.protocol import PROTOCOL, PROTOCOL_HEADER
from overnight.adapters.cloudflare.queue import MOST_AT_ONCE, CloudflareQueue, QueueAddress, cloudflare_queue
from overnight.domain.job import Job
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.transitions import Note, finish, record, start
from overnight.ports import Bell, Clock, Entropy, StorageFailed

DONE = Outcome(ending=Ending.DONE, result="forty-two", cost_usd=0.25)
PATIENCE_SECONDS = 60.0
SOMEBODY = "00000000-0000-4000-8000-000000000000"


async def submit(edge: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await edge.post("/execute", json={"prompt": "p", **body})
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


async def bell_of(queue: CloudflareQueue, job_id: str) -> Bell:
    """The bells of other tests' jobs are answered on the way: the ledger's contracts leave hundreds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            bells = await queue.receive(limit=MOST_AT_ONCE, visibility_seconds=60, wait_seconds=5)
            await asyncio.gather(*(queue.ack(bell) for bell in bells if bell.job_id != job_id))
            for bell in bells:
                if bell.job_id == job_id:
                    return bell


async def hushed(queue: CloudflareQueue, job_ids: set[str]) -> None:
    """Answer the first bells of these jobs, in whichever order they come."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while job_ids:
            bells = await queue.receive(limit=MOST_AT_ONCE, visibility_seconds=60, wait_seconds=5)
            await asyncio.gather(*(queue.ack(bell) for bell in bells))
            job_ids.difference_update(bell.job_id for bell in bells)


async def begin(ledger: LedgerStore, job_id: str, clock: Clock) -> Job:
    decide = start(worker="w", now=clock.now(), lease_seconds=60, isolation="namespace")
    return (await ledger.change(job_id, decide)).job


async def end(ledger: LedgerStore, job_id: str, clock: Clock, entropy: Entropy) -> None:
    decide = finish(DONE, attempt=1, now=clock.now(), archive=None, delivery_id=entropy.delivery_id())
    await ledger.change(job_id, decide)


async def test_an_accepted_job_rings_in_the_queue(edge: httpx.AsyncClient, queue: CloudflareQueue) -> None:
    job = await submit(edge)
    bell = await bell_of(queue, job["job_id"])
    assert bell.rung == 1
    await queue.ack(bell)


async def test_the_end_of_a_job_rings_for_the_next_of_its_session_without_the_worker(
    edge: httpx.AsyncClient, queue: CloudflareQueue, ledger: LedgerStore, clock: Clock, entropy: Entropy
) -> None:
    """Cloudflare's API would take four calls a second of all workers together; the edge's queue takes thousands."""
    first = await submit(edge)
    second = await submit(edge, session_id=first["session_id"])
    await hushed(queue, {first["job_id"], second["job_id"]})
    await begin(ledger, first["job_id"], clock)
    await end(ledger, first["job_id"], clock, entropy)
    await queue.ack(await bell_of(queue, second["job_id"]))


async def test_a_worker_rings_by_way_of_the_edge(
    edge: httpx.AsyncClient, queue: CloudflareQueue, documents: HttpDocuments, clock: Clock
) -> None:
    job_id = (await submit(edge))["job_id"]
    await queue.ack(await bell_of(queue, job_id))
    await documents.ring(job_id, at=clock.now())
    await queue.ack(await bell_of(queue, job_id))


async def test_a_number_that_javascript_cannot_hold_does_not_stop_the_bell(
    edge: httpx.AsyncClient, queue: CloudflareQueue, ledger: LedgerStore
) -> None:
    schema = {"const": 2**70, "default": None}
    job = await submit(edge, output_schema=schema)
    await queue.ack(await bell_of(queue, job["job_id"]))
    assert (await ledger.request(job["job_id"])).output_schema == schema


async def test_a_revoked_token_of_the_queue_is_told_what_to_do(
    edge_settings: Mapping[str, str], clock: Clock
) -> None:
    address = QueueAddress(account_id="offline", queue_id="claude-code-queue")
    url = edge_settings["OVERNIGHT_CLOUDFLARE_API_URL"]
    async with cloudflare_queue(url, "revoked", address, clock) as refused:
        with pytest.raises(StorageFailed, match="CLOUDFLARE_API_TOKEN"):
            await refused.receive(limit=1, visibility_seconds=1, wait_seconds=0)


async def test_a_message_of_somebody_else_is_left_to_the_queue(
    edge_settings: Mapping[str, str], queue: CloudflareQueue, edge: httpx.AsyncClient
) -> None:
    """It comes back until the queue makes a dead letter of it; the bells beside it are received."""
    account, name = edge_settings["CLOUDFLARE_ACCOUNT_ID"], edge_settings["OVERNIGHT_CLOUDFLARE_QUEUE_ID"]
    token = {"Authorization": f"Bearer {edge_settings['CLOUDFLARE_API_TOKEN']}"}
    url = f"{edge_settings['OVERNIGHT_CLOUDFLARE_API_URL']}/accounts/{account}/queues/{name}/messages"
    async with httpx.AsyncClient(trust_env=False, headers=token) as sender:
        sent = await sender.post(url, json={"body": {"job_id": "../etc"}, "content_type": "json"})
    assert sent.status_code == 200
    job = await submit(edge)
    await queue.ack(await bell_of(queue, job["job_id"]))


async def test_a_large_prompt_travels_by_reference(
    edge: httpx.AsyncClient, queue: CloudflareQueue, ledger: LedgerStore
) -> None:
    prompt = "é" * 450_000
    job = await submit(edge, prompt=prompt)
    await queue.ack(await bell_of(queue, job["job_id"]))
    assert (await ledger.request(job["job_id"])).prompt == prompt


async def test_what_a_worker_writes_is_what_status_tells(
    edge: httpx.AsyncClient, ledger: LedgerStore, clock: Clock, entropy: Entropy
) -> None:
    job = await submit(edge)
    path = f"/status/{job['job_id']}"
    told = [(await edge.get(path)).json()]
    await begin(ledger, job["job_id"], clock)
    told.append((await edge.get(path)).json())
    await end(ledger, job["job_id"], clock, entropy)
    told.append((await edge.get(path)).json())

    assert [each["status"] for each in told] == ["queued", "processing", "completed"]
    assert (told[2]["result"], told[2]["cost_usd"]) == ("forty-two", 0.25)
    assert told[2]["completed_at"].endswith("Z")


async def test_the_mirror_answers_when_the_ledger_has_lost_the_job(
    edge: httpx.AsyncClient, ledger: LedgerStore, documents: HttpDocuments, clock: Clock, entropy: Entropy
) -> None:
    """A final status comes from KV; the other calls ask the ledger."""
    job = await submit(edge)
    await begin(ledger, job["job_id"], clock)
    await end(ledger, job["job_id"], clock, entropy)
    await documents.write(codec.session_object(job["session_id"]), Batch(wipe=True))

    assert (await edge.get(f"/status/{job['job_id']}")).json()["status"] == "completed"
    assert (await edge.get(f"/jobs/{job['job_id']}/deliveries")).status_code == 404


async def test_nothing_of_an_erased_session_is_mirrored(
    edge: httpx.AsyncClient, ledger: LedgerStore, clock: Clock, entropy: Entropy
) -> None:
    job = await submit(edge)
    await begin(ledger, job["job_id"], clock)
    await end(ledger, job["job_id"], clock, entropy)
    await ledger.erase(job["session_id"])
    assert (await edge.get(f"/status/{job['job_id']}")).status_code == 404


async def test_a_cancel_reaches_the_worker(
    edge: httpx.AsyncClient, ledger: LedgerStore, clock: Clock
) -> None:
    job = await submit(edge)
    await begin(ledger, job["job_id"], clock)
    answer = await edge.post(f"/jobs/{job['job_id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert (await ledger.snapshot(job["job_id"])).job.cancel_requested_at is not None


async def test_a_stream_of_events_replays_and_follows(
    edge: httpx.AsyncClient, ledger: LedgerStore, clock: Clock, entropy: Entropy
) -> None:
    job_id = (await submit(edge))["job_id"]
    await begin(ledger, job_id, clock)
    seen: list[str] = []
    headers = {"Accept": "text/event-stream"}
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        edge.stream("GET", f"/jobs/{job_id}/events", headers=headers) as stream,
    ):
        async for line in stream.aiter_lines():
            if not line.startswith("event: "):
                continue
            seen.append(line.removeprefix("event: "))
            if seen[-1] == "job.started":
                await ledger.change(job_id, record([Note("agent.text", clock.now(), {})], attempt=1))
            if seen[-1] == "agent.text":
                await end(ledger, job_id, clock, entropy)
    assert seen == ["job.queued", "job.started", "agent.text", "job.completed"]


async def test_another_owners_job_is_not_there(
    edge: httpx.AsyncClient, ledger: LedgerStore, documents: HttpDocuments
) -> None:
    job = await submit(edge)
    name, key = codec.session_object(job["session_id"]), codec.JOBS + job["job_id"]
    assert (
        f'"owner":"{edge.headers["authorization"][7:19]}"'
        in (await documents.read(name, Read(keys=[key])))[key].body
    )


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("read", {"Authorization": "Bearer wrong"}, 401),
        ("read", {"Authorization": ""}, 401),
        ("nothing", {}, 404),
        ("read?object=", {}, 404),
        ("write", {}, 400),
        ("read", {}, 400),
        ("ring", {}, 400),
    ],
)
async def test_the_ledgers_door(
    edge_settings: Mapping[str, str], path: str, headers: Mapping[str, str], status: int
) -> None:
    own = {
        "Authorization": f"Bearer {edge_settings['OVERNIGHT_LEDGER_TOKEN']}",
        PROTOCOL_HEADER: PROTOCOL,
        **headers,
    }
    path = path if "?" in path else f"{path}?object=x"
    async with httpx.AsyncClient(base_url=edge_settings["OVERNIGHT_EDGE_URL"], trust_env=False) as client:
        answer = await client.post(f"/internal/ledger/{path}", content=b"[", headers=own)
    assert (answer.status_code, answer.content) == (status, b"")


async def test_a_worker_with_another_token_is_told_what_to_do(edge_settings: Mapping[str, str]) -> None:
    async with edge_documents(edge_settings["OVERNIGHT_EDGE_URL"], "revoked") as documents:
        with pytest.raises(StorageFailed, match="OVERNIGHT_LEDGER_TOKEN"):
            await documents.read("x", Read())


async def test_a_batch_is_written_whole_or_not_at_all(documents: HttpDocuments, entropy: Entropy) -> None:
    name = entropy.token()
    assert await documents.write(name, Batch(expect={"a": 0}, put={"a": "1"}))
    assert not await documents.write(name, Batch(expect={"b": 0, "a": 0}, put={"b": "1"}, delete=["a"]))
    found = await documents.read(name, Read(keys=["a", "b"]))
    assert {key: document.body for key, document in found.items()} == {"a": "1"}


async def test_a_document_that_an_isolate_could_not_hold_is_refused(
    documents: HttpDocuments, entropy: Entropy
) -> None:
    name = entropy.token()
    with pytest.raises(StorageFailed, match="16000000 bytes"):
        await documents.write(name, Batch(put={"a": "1", "b": "x" * 16_000_001}))
    assert await documents.read(name, Read(keys=["a"])) == {}


async def test_who_goes_on_page_by_page_sees_each_event_once(
    edge: httpx.AsyncClient, ledger: LedgerStore, clock: Clock, entropy: Entropy
) -> None:
    job_id = (await submit(edge))["job_id"]
    await begin(ledger, job_id, clock)
    notes = [Note("agent.text", clock.now(), {"text": str(number)}) for number in range(230)]
    await ledger.change(job_id, record(notes, attempt=1))
    await end(ledger, job_id, clock, entropy)
    for limit, pages in ({}, 3), ({"limit": 1000}, 1):
        seen, asked, page = [], 0, {"final": False, "next_after": 0}
        while not page["final"]:
            query = {"after": page["next_after"], **limit}
            page = (await edge.get(f"/jobs/{job_id}/events", params=query)).json()
            seen += [event["seq"] for event in page["data"]]
            asked += 1
        assert (seen, asked) == (list(range(1, 234)), pages)


async def test_a_session_larger_than_a_row_of_its_object_works(
    edge: httpx.AsyncClient, ledger: LedgerStore, clock: Clock, entropy: Entropy
) -> None:
    """A prompt as large as a body may be, an event and a result of 3 MB, which a row could not hold."""
    prompt, large = "p" * 1_000_000, "é" * 1_500_000
    job_id = (await submit(edge, prompt=prompt, callback_url="http://127.0.0.1:9/"))["job_id"]
    await begin(ledger, job_id, clock)
    await ledger.change(job_id, record([Note("agent.text", clock.now(), {"text": large})], attempt=1))
    outcome = Outcome(ending=Ending.DONE, result=large)
    decide = finish(outcome, attempt=1, now=clock.now(), archive=None, delivery_id=entropy.delivery_id())
    await ledger.change(job_id, decide)

    assert (await ledger.request(job_id)).prompt == prompt
    assert [event.data.get("text") for event in await ledger.events(job_id, after=2, limit=1)] == [large]
    told = (await edge.get(f"/status/{job_id}")).json()
    assert (told["status"], told["result"]) == ("completed", large)
    assert (await edge.get(f"/jobs/{job_id}/deliveries")).status_code == 200


async def test_versions_never_come_back(documents: HttpDocuments, entropy: Entropy) -> None:
    """Else a writer that had looked before everything was deleted could write over what came after."""
    name = entropy.token()
    seen: list[int] = []
    batches: Sequence[Batch] = (Batch(put={"a": "1"}), Batch(put={"a": "2"}))
    for batch in batches:
        await documents.write(name, batch)
        seen.append((await documents.read(name, Read(keys=["a"])))["a"].version)
        await documents.write(name, Batch(wipe=True))
    assert len(set(seen)) == 2


async def test_openapi_lists_what_is_served(edge: httpx.AsyncClient) -> None:
    described = (await edge.get("/openapi.json")).json()
    assert "/execute" in described["paths"]
    assert "/jobs" not in described["paths"]
    page = await edge.get("/docs")
    assert page.status_code == 200
    assert (await edge.get("/docs/style.css")).status_code == 200
    assert json.dumps(described)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs"),
        ("GET", "/sessions"),
        ("GET", "/metrics"),
        ("DELETE", f"/sessions/{SOMEBODY}"),
        ("GET", f"/sessions/{SOMEBODY}/archive"),
        ("PUT", f"/sessions/{SOMEBODY}/archive"),
        ("GET", f"/sessions/{SOMEBODY}/files/a/b.txt"),
    ],
)
async def test_what_the_edge_does_not_serve_it_says(edge: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await edge.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (501, "not_served")
    assert "by its id" in answer.json()["detail"]
    stranger = await edge.request(method, path, headers={"Authorization": "Bearer ovn_unknown"})
    assert stranger.status_code == 401
