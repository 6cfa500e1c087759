"""The ledger over the edge's internal interface, for workers anywhere."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
import msgspec

from overnight.adapters.cloudflare.documents import (
    Batch,
    Bell,
    Document,
    Read,
    check_sizes,
    found_answer,
    text,
    written_answer,
)
from overnight.adapters.cloudflare.protocol import PROTOCOL, PROTOCOL_HEADER, TEND_HEADER, why_not
from overnight.ports import StorageBusy, StorageFailed

T = TypeVar("T")

HELLO = "/internal/ledger/hello"
READ, WRITE, RING = "/internal/ledger/read", "/internal/ledger/write", "/internal/ledger/ring"
TIMEOUT_SECONDS = 10.0
"""A lease is renewed 5 seconds after its last write, and the alarm takes the job back after 20: a call that hangs is
given up in between, so that another one can still save the run."""
BUSY = frozenset({429, 502, 503, 504})
NOT_KNOWN = "The edge does not know the worker's ledger token: set OVERNIGHT_LEDGER_TOKEN as the edge has it."
MEANINGS: Mapping[int, str] = {
    404: "The edge has no ledger under this address: look at OVERNIGHT_EDGE_URL.",
}


class EdgeRefused(StorageFailed):
    """The edge will not have this worker, today or later: its token is not known, or its version another."""


class HttpDocuments:
    """The port `Documents`, and the way to the queue's bells."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._refused = asyncio.Event()
        self._why = ""

    async def refused(self) -> str:
        """Waits until the edge refuses this worker, and returns why."""
        await self._refused.wait()
        return self._why

    async def greet(self) -> float:
        """See whether the edge would have this worker. Returns the seconds after which it gives a job of which nothing
        was written to another. Raises EdgeRefused, StorageError."""
        told = (await self._post(HELLO, "", "")).headers.get(TEND_HEADER)
        return float(told) if told is not None else math.inf

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        answer = await self._post(READ, name, text(read))
        return _decoded(found_answer, answer.content).documents

    async def write(self, name: str, batch: Batch) -> bool:
        check_sizes(batch)
        answer = await self._post(WRITE, name, text(batch))
        return _decoded(written_answer, answer.content).written

    async def ring(self, job_id: str, *, at: float) -> None:
        """By way of the edge: Cloudflare's API takes 1,200 calls in five minutes from all workers together."""
        await self._post(RING, job_id, text(Bell(job_id, at)))

    async def _post(self, path: str, name: str, body: str) -> httpx.Response:
        try:
            answer = await self._client.post(path, params={"object": name}, content=body)
        except httpx.HTTPError as error:
            raise StorageFailed(f"The edge could not be reached ({type(error).__name__}).") from None
        self._look(answer)
        if answer.status_code in BUSY:
            raise StorageBusy(f"The edge has no time (HTTP {answer.status_code}).")
        if not answer.is_success:
            meaning = MEANINGS.get(answer.status_code, "The edge could not do it; its log says why.")
            raise StorageFailed(f"{meaning} (HTTP {answer.status_code})")
        return answer

    def _look(self, answer: httpx.Response) -> None:
        """Raises EdgeRefused if no other answer is to be hoped for."""
        why = None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            why = NOT_KNOWN
        elif answer.is_success or answer.status_code == httpx.codes.CONFLICT:
            why = why_not(answer.headers.get(PROTOCOL_HEADER))
        if why is not None:
            self._why = why
            self._refused.set()
            raise EdgeRefused(why)


@asynccontextmanager
async def edge_documents(url: str, token: str) -> AsyncIterator[HttpDocuments]:
    """`token` is the secret that the edge knows as OVERNIGHT_LEDGER_TOKEN."""
    headers = {
        "Authorization": f"Bearer {token}",
        PROTOCOL_HEADER: PROTOCOL,
        "Content-Type": "application/json",
    }
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False
    ) as client:
        yield HttpDocuments(client)


def _decoded(decoder: msgspec.json.Decoder[T], answer: bytes) -> T:
    try:
        return decoder.decode(answer)
    except msgspec.DecodeError:
        raise StorageFailed("The edge's answer is not one of a ledger: look at OVERNIGHT_EDGE_URL.") from None
