"""The edge in real workerd, and beside it the API of `overnight serve` over the memory adapters."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from pathlib import Path

import httpx
import pytest

from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.over_http import HttpDocuments, edge_documents
from overnight.adapters.cloudflare.queue import CloudflareQueue, QueueAddress, cloudflare_queue
from overnight.adapters.cloudflare.turns import Turns
from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_archives import MemoryArchives
from overnight.adapters.memory_keys import MemoryKeys
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.api import ApiParts, Limits, Readiness, create_app
from overnight.domain.address import CallbackPolicy
from overnight.domain.keys import ApiKey, Scope, digest, parse_key
from overnight.domain.redaction import Redactor
from overnight.flows.kept_here import KeptHere
from overnight.flows.keyring import KeyRing
from overnight.ports import Clock, Entropy

PATIENCE_SECONDS = 60.0


@pytest.fixture
def clock() -> Clock:
    return SystemClock()


@pytest.fixture
def entropy() -> Entropy:
    return SystemEntropy()


@pytest.fixture(scope="module")
def own_edge(
    start_edge: Callable[..., AbstractContextManager[Mapping[str, str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, str]]:
    """An edge of the module: a worker would first run what other tests have left in theirs, and take their jobs."""
    with start_edge(tmp_path_factory.mktemp("edge"), "--tend", "4") as settings:
        yield settings


@pytest.fixture
def authorization(edge_settings: Mapping[str, str]) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {edge_settings['OVERNIGHT_API_KEY']}"}


@pytest.fixture
async def edge(
    edge_settings: Mapping[str, str], authorization: Mapping[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=edge_settings["OVERNIGHT_URL"],
        headers=authorization,
        timeout=PATIENCE_SECONDS,
        trust_env=False,
    ) as client:
        yield client


@pytest.fixture
async def documents(edge_settings: Mapping[str, str]) -> AsyncIterator[HttpDocuments]:
    async with edge_documents(
        edge_settings["OVERNIGHT_EDGE_URL"], edge_settings["OVERNIGHT_LEDGER_TOKEN"]
    ) as reached:
        yield reached


@pytest.fixture
async def ledger(documents: HttpDocuments, clock: Clock) -> AsyncIterator[LedgerStore]:
    """The edge's jobs as a worker sees them."""
    store = LedgerStore(documents, MemoryWakeups(), clock, Turns())
    yield store
    await store.settle()


@pytest.fixture
async def queue(edge_settings: Mapping[str, str], clock: Clock) -> AsyncIterator[CloudflareQueue]:
    address = QueueAddress(
        account_id=edge_settings["CLOUDFLARE_ACCOUNT_ID"],
        queue_id=edge_settings["OVERNIGHT_CLOUDFLARE_QUEUE_ID"],
    )
    url, token = edge_settings["OVERNIGHT_CLOUDFLARE_API_URL"], edge_settings["CLOUDFLARE_API_TOKEN"]
    async with cloudflare_queue(url, token, address, clock) as consumer:
        yield consumer


@pytest.fixture
async def embedded(
    edge_settings: Mapping[str, str],
    authorization: Mapping[str, str],
    tmp_path: Path,
    clock: Clock,
    entropy: Entropy,
) -> AsyncIterator[httpx.AsyncClient]:
    """With the edge's key and limits, so that the same requests get the same answers."""
    parts = await _parts(edge_settings["OVERNIGHT_API_KEY"], tmp_path, clock, entropy)
    transport = httpx.ASGITransport(create_app(parts))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://embedded.test", headers=authorization
    ) as client:
        yield client


async def _parts(key: str, scratch: Path, clock: Clock, entropy: Entropy) -> ApiParts:
    wakeups, keys = MemoryWakeups(), MemoryKeys()
    store = MemoryStore(wakeups, clock)
    await keys.create(_stored(key))
    return ApiParts(
        store=store,
        index=store,
        queue=MemoryQueue(wakeups, clock, entropy),
        archives=MemoryArchives(clock),
        wakeups=wakeups,
        keys=KeyRing(keys, clock),
        kept=KeptHere(scratch),
        clock=clock,
        entropy=entropy,
        callback_policy=CallbackPolicy(allow_http=True, allow_private=(IPv4Network("127.0.0.1/32"),)),
        limits=Limits(max_body_bytes=1024 * 1024, max_archive_bytes=0, max_timeout_seconds=1500.0),
        scratch=scratch,
        allowed_hosts=("*",),
        ready=lambda: Readiness(ok=True, draining=False, isolation=""),
        free_bytes=lambda: 1 << 40,
        version="0.1.0",
        redactor=Redactor(),
    )


def _stored(key: str) -> ApiKey:
    presented = parse_key(key)
    return ApiKey(
        key_id=presented.key_id,
        name="edge",
        secret_sha256=digest(presented.secret),
        scopes=frozenset({Scope.ADMIN}),
        owner=presented.key_id,
        created_at=0.0,
    )


@pytest.fixture
def webhook_secret(edge_settings: Mapping[str, str]) -> str:
    """What webhooks of the key's jobs are signed with."""
    (key,) = json.loads(edge_settings["OVERNIGHT_KEYS"])
    return str(key["webhook_secrets"][0])
