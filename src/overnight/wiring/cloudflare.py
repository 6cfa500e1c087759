"""The adapters of a worker whose jobs come from an edge. It names their classes, as `wiring` does the others'."""

import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from pydantic import SecretStr

from overnight.adapters.cloudflare.keys import SecretKeys
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.over_http import EdgeRefused, HttpDocuments, edge_documents
from overnight.adapters.cloudflare.owed import DebtQueue, OwnIndex
from overnight.adapters.cloudflare.polling import LookingWakeups
from overnight.adapters.cloudflare.turns import Turns
from overnight.ports import Clock, StorageError, Wakeups
from overnight.settings import Settings, SettingsError

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How soon a worker hears of a cancel: the edge cannot call it."""


@dataclass(frozen=True, slots=True)
class EdgeParts:
    store: LedgerStore
    index: OwnIndex
    queue: DebtQueue
    wakeups: LookingWakeups
    keys: SecretKeys
    refused: Callable[[], Awaitable[str]]
    """Waits until the edge refuses this worker, and says why."""


@contextlib.asynccontextmanager
async def edge_parts(settings: Settings, own: Wakeups, clock: Clock) -> AsyncIterator[EdgeParts]:
    """Raises SettingsError, and StorageError if the edge will not have this worker."""
    # Behind a function, because the official client is an extra that a worker on one machine need not have.
    try:
        queue = importlib.import_module("overnight.adapters.cloudflare.queue")
    except ModuleNotFoundError:
        raise SettingsError(
            "OVERNIGHT_EDGE_URL: a worker of an edge needs the official client of Cloudflare. Install it with "
            "`pip install 'overnight[cloudflare]'`."
        ) from None
    url = _given("OVERNIGHT_EDGE_URL", settings.edge_url)
    address = queue.QueueAddress(
        account_id=_given("CLOUDFLARE_ACCOUNT_ID", settings.cloudflare_account_id),
        queue_id=_given("OVERNIGHT_CLOUDFLARE_QUEUE_ID", settings.cloudflare_queue_id),
    )
    token = _given("CLOUDFLARE_API_TOKEN", settings.cloudflare_api_token)
    index, wakeups = OwnIndex(), LookingWakeups(own, LOOK_SECONDS)
    async with (
        edge_documents(url, _given("OVERNIGHT_LEDGER_TOKEN", settings.ledger_token)) as documents,
        queue.cloudflare_queue(settings.cloudflare_api_url, token, address, clock) as pulled,
    ):
        await _greet(documents, settings.lease_seconds)
        store = LedgerStore(documents, wakeups, clock, Turns(), index.note)
        try:
            yield EdgeParts(
                store=store,
                index=index,
                queue=DebtQueue(pulled, documents.ring, store, index, wakeups),
                wakeups=wakeups,
                keys=SecretKeys(settings.keys.get_secret_value() if settings.keys else None),
                refused=documents.refused,
            )
        finally:
            await store.settle()


async def _greet(documents: HttpDocuments, lease_seconds: float) -> None:
    """A worker that the edge refuses takes nothing; one that does not reach it waits.

    Raises EdgeRefused, SettingsError.
    """
    try:
        tend_seconds = await documents.greet()
    except EdgeRefused:
        raise
    except StorageError:
        log.exception("the edge does not answer yet")
        return
    if lease_seconds >= tend_seconds:
        raise SettingsError(
            f"OVERNIGHT_LEASE_SECONDS: with {lease_seconds:g}, the edge would give a job to another worker while this "
            f"one still believes to have it. Set less than the edge's OVERNIGHT_TEND_SECONDS ({tend_seconds:g})."
        )


def _given(name: str, value: SecretStr | str | None) -> str:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not text:
        raise SettingsError(f"{name}: a worker of an edge needs it. The edge's own settings say what it is.")
    return text
