"""KV is behind, or was never written: a status is then asked of the ledger, and nothing old hides it."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.domain.errors import ErrorCode
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import finish, start
from overnight.ports import Clock, Entropy

SEVEN_DAYS = 7 * 86400
A_MINUTE = 60.0
DONE = Outcome(ending=Ending.DONE, result="forty-two")


@dataclass(frozen=True)
class Entry:
    value: str
    metadata: Mapping[str, Any]

    def aged(self, seconds: float) -> "Entry":
        return replace(self, metadata={**self.metadata, "at": self.metadata["at"] - seconds})


class Kv:
    """The namespace of the statuses, by the explorer of the local runtime."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, job_id: str) -> Entry | None:
        listed = (await self._client.get("keys", params={"prefix": f"status:{job_id}"})).json()["result"]
        if not listed:
            return None
        assert abs(listed[0]["expiration"] - time.time() - SEVEN_DAYS) < A_MINUTE
        value = await self._client.get(f"values/status:{job_id}")
        return Entry(value.text, listed[0]["metadata"])

    async def put(self, job_id: str, entry: Entry) -> None:
        """As if the writes that came after it had not arrived yet."""
        row = {"key": f"status:{job_id}", "value": entry.value, "metadata": dict(entry.metadata)}
        (await self._client.put("bulk", json=[{**row, "expiration_ttl": SEVEN_DAYS}])).raise_for_status()

    async def lose(self, job_id: str) -> None:
        (await self._client.delete(f"values/status:{job_id}")).raise_for_status()


@pytest.fixture
async def kv(edge_settings: Mapping[str, str]) -> AsyncIterator[Kv]:
    url = f"{edge_settings['OVERNIGHT_URL']}/cdn-cgi/local/explorer/api/storage/kv/namespaces/offline/"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        yield Kv(client)


@dataclass
class Life:
    """One job, moved on as a worker would."""

    edge: httpx.AsyncClient
    ledger: LedgerStore
    clock: Clock
    entropy: Entropy
    job_id: str = ""
    attempt: int = 0

    async def submit(self) -> str:
        answer = await self.edge.post("/execute", json={"prompt": "p"})
        self.job_id = answer.json()["job_id"]
        return self.job_id

    async def begin(self) -> None:
        decide = start(worker="w", now=self.clock.now(), lease_seconds=60, isolation="namespace")
        self.attempt = (await self.ledger.change(self.job_id, decide)).job.attempt

    async def end(self, outcome: Outcome = DONE) -> None:
        decide = finish(
            outcome,
            attempt=self.attempt,
            now=self.clock.now(),
            archive=None,
            delivery_id=self.entropy.delivery_id(),
        )
        await self.ledger.change(self.job_id, decide)

    async def status(self) -> str:
        seen = {
            str((await self.edge.get(f"/{path}/{self.job_id}")).json()["status"])
            for path in ("status", "jobs")
        }
        assert len(seen) == 1
        return seen.pop()


@pytest.fixture
def life(edge: httpx.AsyncClient, ledger: LedgerStore, clock: Clock, entropy: Entropy) -> Life:
    return Life(edge, ledger, clock, entropy)


async def seen(kv: Kv, job_id: str) -> Entry:
    entry = await kv.get(job_id)
    assert entry is not None
    return entry


async def test_each_transition_is_mirrored_for_seven_days(kv: Kv, life: Life) -> None:
    job_id = await life.submit()
    mirrored = [(await seen(kv, job_id)).metadata["status"]]
    await life.begin()
    mirrored.append((await seen(kv, job_id)).metadata["status"])
    await life.end()
    mirrored.append((await seen(kv, job_id)).metadata["status"])
    assert mirrored == ["queued", "processing", "completed"]


async def test_what_kv_has_not_got_is_asked_of_the_ledger(kv: Kv, life: Life) -> None:
    job_id = await life.submit()
    told = []
    for move in (None, life.begin, life.end):
        if move is not None:
            await move()
        await kv.lose(job_id)
        told.append(await life.status())
    assert told == ["queued", "processing", "completed"]


async def test_a_run_is_a_minute_behind_at_most(kv: Kv, life: Life) -> None:
    job_id = await life.submit()
    queued = await seen(kv, job_id)
    await life.begin()
    running = await seen(kv, job_id)
    await life.end()
    await kv.put(job_id, queued)
    assert await life.status() == "completed"
    await kv.put(job_id, running.aged(A_MINUTE))
    assert await life.status() == "completed"


async def test_an_old_failure_does_not_hide_that_the_job_was_sent_again(kv: Kv, life: Life) -> None:
    job_id = await life.submit()
    await life.begin()
    await life.end(failed(ErrorCode.TIMEOUT, "It took too long."))
    old = await seen(kv, job_id)
    assert await life.status() == "failed"
    assert (await life.edge.post(f"/jobs/{job_id}/retry")).status_code == 202
    await kv.put(job_id, old)
    assert await life.status() == "queued"
    await life.begin()
    await kv.put(job_id, old)
    assert await life.status() == "processing"
    await life.end()
    await kv.put(job_id, old.aged(10 * A_MINUTE))
    assert await life.status() == "completed"
