"""The API of the edge: the application of `overnight serve`, on other adapters and with fewer calls."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
from overnight_version import VERSION
from starlette.applications import Starlette
from workers import env

from bells import QueueBells
from mirror import Mirror
from objects import BoundDocuments, MirroredDocuments
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.polling import PollingWakeups
from overnight.adapters.cloudflare.turns import no_turns
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.api import ApiParts, Limits, Readiness, create_app
from overnight.api.operations import OPERATIONS
from overnight.domain.address import CallbackPolicy
from overnight.domain.keys import ApiKey
from overnight.domain.redaction import Redactor
from overnight.flows.keyring import KeyRing
from overnight.ports import StorageFailed

SERVED = frozenset(
    {
        "execute",
        "status",
        "get_job",
        "cancel_job",
        "retry_job",
        "list_events",
        "list_deliveries",
        "redeliver",
        "get_session",
        "healthz",
    }
)
"""What needs no view over all sessions and no archive."""
MIRRORED = frozenset({"status", "get_job"})
MAX_BODY_BYTES = 1024 * 1024
"""A request is one document of the ledger, and those may have two million bytes (facts: cloudflare 4)."""
MAX_TIMEOUT_SECONDS = 1500.0
LOOK_SECONDS = 1.0
"""How often a stream of events looks into the ledger."""

_keys = msgspec.json.Decoder(list[ApiKey])


class SecretKeys:
    """The port `KeyStore`, as far as it can be read: the keys are a secret of the Worker, as hashes."""

    def __init__(self, secret: str | None):
        self._secret = secret

    async def keys(self) -> list[ApiKey]:
        """Without keys nobody gets in: an edge is public."""
        keys = _keys.decode(self._secret or "[]")
        if not keys:
            raise StorageFailed("The edge has no API keys: set the secret OVERNIGHT_KEYS.")
        return keys

    async def change(self, key_id: str, _decide) -> ApiKey:
        return next(key for key in await self.keys() if key.key_id == key_id)


class Edge:
    """What one isolate is made of: the ledger with its mirror, and the application."""

    def __init__(self, env):
        clock, entropy = SystemClock(), SystemEntropy()
        self.objects = BoundDocuments(env.LEDGER)
        mirror = Mirror(env.STATUS, clock)
        self.documents = MirroredDocuments(self.objects, mirror)
        wakeups = PollingWakeups(LOOK_SECONDS)
        store = LedgerStore(self.documents, wakeups, clock, no_turns)
        self.app: Starlette = create_app(
            ApiParts(
                store=store,
                index=None,
                queue=QueueBells(env.QUEUE, store, clock),
                archives=None,
                wakeups=wakeups,
                keys=KeyRing(SecretKeys(getattr(env, "OVERNIGHT_KEYS", None)), clock),
                clock=clock,
                entropy=entropy,
                callback_policy=CallbackPolicy(),
                limits=Limits(
                    max_body_bytes=MAX_BODY_BYTES,
                    max_archive_bytes=0,
                    max_timeout_seconds=MAX_TIMEOUT_SECONDS,
                ),
                scratch=Path("/tmp"),
                allowed_hosts=("*",),
                ready=lambda: Readiness(ok=True, draining=False, isolation=""),
                free_bytes=lambda: 1 << 40,
                version=VERSION,
                redactor=Redactor(),
            ),
            [
                replace(operation, call=mirror.status) if operation.id in MIRRORED else operation
                for operation in OPERATIONS
                if operation.id in SERVED
            ],
        )


@cache
def this_edge() -> Edge:
    """Made with the first request: a Worker may draw no random number while it starts."""
    return Edge(env)
