"""What the API is made of."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp

from overnight.archive import UPLOAD, Profile
from overnight.domain.address import CallbackPolicy
from overnight.domain.redaction import Redactor
from overnight.flows.kept_here import KeptHere
from overnight.flows.keyring import KeyRing
from overnight.ports import ArchiveStore, Clock, Entropy, JobIndex, JobStore, Queue, Wakeups


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes. `max_timeout_seconds` is the cap of a job's timeout_seconds and its default.

    `max_queued` is over all owners; with less than `min_free_bytes` of disk nothing new is taken.
    `uploads` is what a stranger's archive may hold.
    """

    max_body_bytes: int
    max_archive_bytes: int
    max_timeout_seconds: float
    max_queued: int = 100_000
    min_free_bytes: int = 0
    body_seconds: float = 60.0
    uploads: Profile = UPLOAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`ok`: jobs sent now will be run here. `draining`: the service is shutting down and takes no new ones.

    `isolation` is the tier that runs are kept in and `isolation_properties` what was measured of it; `reasons`
    say why it is not ready, or what weakens it.
    """

    ok: bool
    draining: bool
    isolation: str
    isolation_properties: Mapping[str, bool] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """`ready` and `free_bytes` (of the data directory's disk) are asked for every new job: they must be quick.

    `scratch` is a directory for uploads and downloads on their way; what a crash leaves in it may be deleted
    at the next start. `allowed_hosts` are names without a port, IPv6 addresses in brackets; `*` allows all.
    """

    store: JobStore
    index: JobIndex
    queue: Queue
    archives: ArchiveStore
    wakeups: Wakeups
    keys: KeyRing
    kept: KeptHere
    clock: Clock
    entropy: Entropy
    callback_policy: CallbackPolicy
    limits: Limits
    scratch: Path
    allowed_hosts: Collection[str]
    ready: Callable[[], Readiness]
    free_bytes: Callable[[], int]
    version: str
    redactor: Redactor

    def spare_bytes(self) -> int:
        """How much may be written before nothing new is taken; negative if that is so already."""
        return self.free_bytes() - self.limits.min_free_bytes


Call = Callable[[ApiParts, Request], Awaitable[ASGIApp]]
"""One call of the API: its answer is an ASGI application, as every Starlette response is."""
