"""What the API is made of."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp

from overnight.archive import UPLOAD, Profile
from overnight.domain.address import CallbackPolicy
from overnight.domain.redaction import Redactor
from overnight.ports import ArchiveStore, Clock, Entropy, JobIndex, JobStore, Queue, Wakeups


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes. `max_timeout_seconds` is the cap of a job's timeout_seconds and its default.

    `uploads` is what a stranger's archive may hold.
    """

    max_body_bytes: int
    max_archive_bytes: int
    max_timeout_seconds: float
    uploads: Profile = UPLOAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`ok`: jobs sent now will be run here. `draining`: the service is shutting down and takes no new ones.

    `isolation` is the tier that runs are kept in; `reasons` say why it is not ready, or what weakens it.
    """

    ok: bool
    draining: bool
    isolation: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """`ready` is asked for every new job, so it must be quick.

    `scratch` is a directory for uploads and downloads on their way; what a crash leaves in it may be deleted
    at the next start. `allowed_hosts` are names without a port, IPv6 addresses in brackets; `*` allows all.
    """

    store: JobStore
    index: JobIndex
    queue: Queue
    archives: ArchiveStore
    wakeups: Wakeups
    clock: Clock
    entropy: Entropy
    callback_policy: CallbackPolicy
    limits: Limits
    scratch: Path
    allowed_hosts: Collection[str]
    ready: Callable[[], Readiness]
    version: str
    redactor: Redactor


Call = Callable[[ApiParts, Request], Awaitable[ASGIApp]]
"""One call of the API: its answer is an ASGI application, as every Starlette response is."""
