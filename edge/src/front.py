"""The API of the edge: the application of `overnight serve`, on other adapters and with fewer calls."""

from dataclasses import replace
from functools import cache
from ipaddress import ip_network
from pathlib import Path

import msgspec
from overnight_version import VERSION
from starlette.applications import Starlette
from workers import env

from bells import QueueBells
from mirror import Mirror, ShownInKv
from objects import BoundDocuments, RingingDocuments
from overnight.adapters.cloudflare.keys import SecretKeys
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.mirroring import MirroredDocuments
from overnight.adapters.cloudflare.polling import PollingWakeups
from overnight.adapters.cloudflare.turns import no_turns
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.api import ApiParts, Limits, Readiness, create_app
from overnight.api.operations import OPERATIONS, Operation
from overnight.api.views import job_view
from overnight.domain.address import CallbackPolicy
from overnight.domain.job import Snapshot
from overnight.domain.redaction import Redactor
from overnight.flows.keyring import KeyRing

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
"""A request is one document of the ledger. Those may have more, but an isolate reads many bodies at once."""
MAX_TIMEOUT_SECONDS = 1500.0
LOOK_SECONDS = 1.0
"""How often a stream of events looks into the ledger."""
TEND_SECONDS = 20.0
"""Between two looks of a session's alarm; more than a lease, which is renewed three times in its 15 seconds."""


class Edge:
    """What one isolate is made of: the ledger with its mirror, the queue, and the application."""

    def __init__(self, env):
        self.clock, self.entropy = SystemClock(), SystemEntropy()
        self.objects = BoundDocuments(env.LEDGER)
        self.queue = QueueBells(env.QUEUE, self.clock)
        mirror = Mirror(env.STATUS, self.clock)
        self.documents = MirroredDocuments(
            RingingDocuments(self.objects, self.queue), ShownInKv(env.STATUS), _view, self.clock
        )
        wakeups = PollingWakeups(LOOK_SECONDS)
        self.store = LedgerStore(self.documents, wakeups, self.clock, no_turns)
        self.tend_seconds = float(_given(env, "OVERNIGHT_TEND_SECONDS") or TEND_SECONDS)
        parts = ApiParts(
            store=self.store,
            index=None,
            queue=self.queue,
            archives=None,
            wakeups=wakeups,
            keys=KeyRing(SecretKeys(_given(env, "OVERNIGHT_KEYS")), self.clock),
            kept=None,
            clock=self.clock,
            entropy=self.entropy,
            callback_policy=_callback_policy(env),
            limits=Limits(
                max_body_bytes=MAX_BODY_BYTES, max_archive_bytes=0, max_timeout_seconds=MAX_TIMEOUT_SECONDS
            ),
            scratch=Path("/tmp"),
            allowed_hosts=("*",),
            ready=lambda: Readiness(ok=True, draining=False, isolation=""),
            free_bytes=lambda: 1 << 40,
            version=VERSION,
            redactor=Redactor(),
        )
        elsewhere = [operation for operation in OPERATIONS if operation.id not in SERVED]
        self.app: Starlette = create_app(parts, _operations(mirror), elsewhere=elsewhere)


def _operations(mirror: Mirror) -> list[Operation]:
    return [
        replace(operation, call=mirror.status) if operation.id in MIRRORED else operation
        for operation in OPERATIONS
        if operation.id in SERVED
    ]


def _view(snapshot: Snapshot) -> bytes:
    """What GET /status answers."""
    return msgspec.json.encode(job_view(snapshot))


def _callback_policy(env) -> CallbackPolicy:
    networks = _given(env, "OVERNIGHT_CALLBACK_ALLOW_PRIVATE") or ""
    return CallbackPolicy(
        allow_http=_given(env, "OVERNIGHT_CALLBACK_ALLOW_HTTP") == "1",
        allow_private=tuple(
            ip_network(network.strip()) for network in networks.split(",") if network.strip()
        ),
    )


def _given(env, name: str) -> str | None:
    """A variable or a secret of the Worker, as text; its plain settings have the names of `overnight serve`."""
    value = getattr(env, name, None)
    return None if value is None else str(value)


@cache
def this_edge() -> Edge:
    """Made with the first request: a Worker may draw no random number while it starts."""
    return Edge(env)
